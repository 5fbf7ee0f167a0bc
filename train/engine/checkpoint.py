"""Checkpoints from which a run resumes bit by bit, written whole or not at all.

``step-000500/`` is a model that can be served; ``step-000500/state/`` holds the rest: the optimiser's moments and the
random states in safetensors, everything else in JSON. No pickle, no project class.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from m3_vdb.errors import ConfigError
from train.config import IGNORED_SETTINGS
from train.engine.processes import Processes, random_state, rank, set_random_state
from train.engine.task import Task

WHOLE: Final = StateDictOptions(full_state_dict=True, cpu_offload=True)
STATE: Final = "state"


@dataclass(slots=True)
class Position:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        phase: number of the phase.
        phase_step: optimiser steps done of it.
        phase_steps: its length.
        tokens: real tokens seen.
        sampler: the sampler's state.
    """

    step: int = 0
    phase: int = 0
    phase_step: int = 0
    phase_steps: int = 0
    tokens: int = 0
    sampler: dict[str, int] = field(default_factory=dict)


def save_checkpoint(
    out: Path,
    task: Task,
    wrapped: nn.Module,
    optimiser: torch.optim.Optimizer,
    position: Position,
    config: Any,
    processes: Processes,
) -> Path:
    """Write ``out/step-N``; called by all processes, returns its path."""
    final = out / f"step-{position.step:06d}"
    partial = out / f".{final.name}.partial"
    state: dict[str, Any] = get_model_state_dict(task.model, options=WHOLE)
    moments = get_optimizer_state_dict(wrapped, optimiser, options=WHOLE)
    if processes.main:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / STATE).mkdir(parents=True)
        task.write(partial, state)
        _write_optimiser(partial / STATE, moments)
        trainer = {"position": asdict(position), "config": config}
        (partial / STATE / "trainer.json").write_text(json.dumps(trainer, indent=2) + "\n", encoding="utf-8")
    processes.wait()
    random = {f"generator_{i}": tensor for i, tensor in enumerate(random_state())}
    save_file(random, partial / STATE / f"random-{rank()}.safetensors")
    processes.wait()
    if processes.main:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    processes.wait()
    return final


def _write_optimiser(folder: Path, moments: Mapping[str, Any]) -> None:
    tensors, numbers = {}, {}
    for name, values in moments["state"].items():
        for kind, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{kind}"] = value.contiguous()
            else:
                numbers[f"{name}/{kind}"] = value
    save_file(tensors, folder / "optimizer.safetensors")
    document = {"param_groups": moments["param_groups"], "numbers": numbers}
    (folder / "optimizer.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_optimiser(checkpoint: Path, wrapped: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put the moments back."""
    folder = checkpoint / STATE
    document = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state: dict[str, dict[str, Any]] = {}
    for name, value in (load_file(folder / "optimizer.safetensors") | document["numbers"]).items():
        parameter, kind = name.rsplit("/", 1)
        state.setdefault(parameter, {})[kind] = value
    moments = {"state": state, "param_groups": document["param_groups"]}
    set_optimizer_state_dict(wrapped, optimiser, moments, options=WHOLE)


def load_random(checkpoint: Path) -> None:
    """Put this process's random state back; a process that was not there before keeps its seed."""
    path = checkpoint / STATE / f"random-{rank()}.safetensors"
    if path.is_file():
        tensors = load_file(path)
        set_random_state([tensors[f"generator_{i}"] for i in range(len(tensors))])


def last_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = [path for path in out.glob("step-*") if (path / STATE / "trainer.json").is_file()]
    return max(found, key=lambda path: path.name, default=None)


def read_position(checkpoint: Path, config: Any) -> Position:
    """Where the run was.

    Raises:
        ConfigError: it ran with other settings; the message names them.
    """
    trainer = json.loads((checkpoint / STATE / "trainer.json").read_text(encoding="utf-8"))
    before, now = ({k: v for k, v in c.items() if k not in IGNORED_SETTINGS} for c in (trainer["config"], config))
    changed = [f"{k}: {before.get(k)} → {now.get(k)}" for k in sorted(before | now) if before.get(k) != now.get(k)]
    if changed:
        raise ConfigError(
            f"{checkpoint} was made with other settings ({'; '.join(changed)}): resume with the same, or give a new out"
        )
    return Position(**trainer["position"])


def prune(out: Path, *, keep: int, best: str | None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best one."""
    if keep:
        for path in sorted(out.glob("step-*"))[:-keep]:
            if path.name != best:
                shutil.rmtree(path)
