"""What every stage does before its loop: start processes, read the tokenizer, pick the attention, list bad rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from train.config import RunConfig
from train.data.store import RowStore
from train.engine.processes import Processes

SHORT: Final = 512
"""Up to this length eager attention is fastest on CPUs (docs/log.md, 2026-11-22); beyond, it needs too much memory."""


def start_processes(config: RunConfig) -> Processes:
    """This process among its peers, as the settings want it."""
    return Processes(
        device=config.device,
        precision=config.precision,
        parallel=config.parallel,
        trackers=config.trackers,
        out=config.out,
    )


def pick_attention(config: RunConfig, longest: int, processes: Processes) -> str:
    """Which attention of transformers suits device and length."""
    if config.attention != "auto":
        return config.attention
    return "eager" if processes.device.type == "cpu" and longest <= SHORT else "sdpa"


def note_rejected(store: RowStore, out: Path, warn: Callable[[str], None]) -> None:
    """Write the messages of skipped lines to ``out/rejected.txt``, and say how many there are."""
    if store.rejected:
        (out / "rejected.txt").write_text("\n".join(store.rejected) + "\n", encoding="utf-8")
        warn(f"{len(store.rejected)} bad rows were left out, listed in {out / 'rejected.txt'}; {len(store)} remain")
