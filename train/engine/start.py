"""What every stage does before its loop: processes, the run's folder, attention, size of a forward pass, bad rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from m3_vdb.errors import ConfigError
from train.config import Phase, RunConfig, as_json
from train.data.store import RowStore
from train.engine.checkpoint import last_checkpoint, read_position
from train.engine.processes import Processes, most
from train.model import M3Model

SHORT: Final = 512
"""Up to this length eager attention is fastest on CPUs (docs/log.md, 2026-11-22); beyond, it needs too much memory."""
SMALLEST: Final = 1024
LARGEST: Final = 1 << 20
LARGEST_CPU: Final = 1 << 13
"""Where trying ends on CPUs: more brings nothing there, and a system out of memory kills the process instead of saying
so."""
GAIN: Final = 1.03
"""A doubling that brings less than 3 % is not worth its memory."""


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


def open_run(config: RunConfig, processes: Processes) -> Path | None:
    """The checkpoint to resume from, None for a new run; makes ``out``.

    Raises:
        ConfigError: ``out`` holds something and ``resume`` is not set.
    """
    if not config.resume and config.out.exists() and any(config.out.iterdir()):
        raise ConfigError(f"{config.out} is not empty: give a new directory, or set resume to true to resume there")
    checkpoint = last_checkpoint(config.out)
    processes.wait()
    if processes.main:
        config.out.mkdir(parents=True, exist_ok=True)
    processes.wait()
    return checkpoint


def is_finished(resume_from: Path | None, config: RunConfig, phases: Sequence[tuple[str, Phase]]) -> bool:
    """Whether the checkpoint is that of the end, so that nothing need be loaded to say so.

    Raises:
        ConfigError: the checkpoint was made with other settings.
    """
    return resume_from is not None and read_position(resume_from, as_json(config)).phase == len(phases)


def fastest_micro_tokens(model: M3Model, *, longest: int, processes: Processes) -> int:
    """The number of padded tokens of one forward and backward pass that runs fastest, on the slowest process.

    Tried, not guessed: sizes are doubled with texts of the longest length in the data until memory runs out or speed no
    longer grows. On CPUs the gain ends at a few thousand tokens, on GPUs usually at the end of memory.

    Args:
        model: as it will be trained; its gradients are cleared.
        longest: tokens of the longest text.
        processes: this process.
    """
    model.to(processes.device).train()

    def run(tokens: int) -> None:
        ids = torch.full((max(1, tokens // longest), longest), 5, device=processes.device)
        with processes.autocast():
            output = model(ids, torch.ones_like(ids))
        (output.dense.sum() + output.token_weights.sum() + output.multi_vector.sum()).backward()
        if processes.device.type == "cuda":
            torch.cuda.synchronize()

    tokens = choose(
        run, start=max(SMALLEST, longest), largest=LARGEST if processes.device.type == "cuda" else LARGEST_CPU
    )
    model.zero_grad(set_to_none=True)
    return -most(-tokens, processes.device)


def choose(run: Callable[[int], None], *, start: int, largest: int = LARGEST) -> int:
    """The fastest size by tokens per second, doubling from ``start`` while it is not above ``largest``.

    ``run`` raises OutOfMemoryError at the limit.

    Raises:
        torch.OutOfMemoryError: not even ``start`` fits.
    """
    best, best_speed, tokens = start, 0.0, start
    while tokens <= largest:
        try:
            run(tokens)  # the first call also allocates
            begun = time.perf_counter()
            run(tokens)
        except torch.OutOfMemoryError:
            if tokens == start:
                raise
            torch.cuda.empty_cache()
            return best
        speed = tokens / (time.perf_counter() - begun)
        if speed < best_speed * GAIN:
            return best
        best, best_speed, tokens = tokens, speed, tokens * 2
    return best
