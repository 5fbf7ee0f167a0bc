"""The training loop of every stage: phases, steps, checkpoints, hooks, log, resume, a clean end at SIGTERM.

A run is a pure function of its settings and files: killed at any point and resumed, it ends with the same weights, bit
for bit, as if it had never stopped (on the same kind of machine and the same number of processes).
"""

from __future__ import annotations

import json
import math
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import nn

from m3_vdb.errors import ConfigError, ModelOutputError
from train.config import Phase, as_json
from train.engine.checkpoint import (
    Position,
    load_optimiser,
    load_random,
    prune,
    read_position,
    save_checkpoint,
)
from train.engine.guards import Guards, UnchangedWeights
from train.engine.processes import (
    any_process,
    clip_gradients,
    gradient_sync,
    random_state,
    rank,
    set_random_state,
    sum_over_processes,
    world_size,
)
from train.engine.run import Outcome, Run, StepReport
from train.engine.task import Measures, ParameterGroup, Task

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Loop:
    """A run of one stage.

    Args:
        task: the stage.
        run: its settings, processes and reports.
    """

    def __init__(self, task: Task, run: Run[Any]) -> None:
        self._task, self._config, self._processes, self._report = task, run.config, run.processes, run.report
        self._resume_from = run.resume_from
        self._json = as_json(run.config)
        self._position = Position()
        self._guards = Guards(run.warn)
        self._log = run.config.out / "training.jsonl"

    def run(self) -> Outcome:
        """Train from the beginning or from the checkpoint to resume from.

        Raises:
            ModelOutputError: the loss or a gradient is not finite; the last checkpoint is kept.
            ConfigError: the checkpoint was made with other settings.
        """
        torch.manual_seed(self._config.seed + rank())
        resume_from = self._resume_from
        if resume_from:
            self._position = read_position(resume_from, self._json)
            self._task.restore(resume_from)
            self._task.sampler.load_state_dict(self._position.sampler)
            load_random(resume_from)
        task, position, processes = self._task, self._position, self._processes
        self._rewind_log()
        processes.start_trackers(self._json)
        checkpoint = resume_from or self._config.out
        stopped = ""
        try:
            with interruption() as signals:
                if resume_from and self._hooks(resume_from):  # what a kill may have cut off
                    stopped = "early stopping"
                while position.phase < len(task.phases) and not stopped:
                    name, phase = task.phases[position.phase]
                    wrapped, optimiser = self._begin(name, phase, resume_from)
                    resume_from = None
                    unchanged = UnchangedWeights(task.model)
                    batches = iter(task.sampler)
                    last = False
                    while not (last or stopped):
                        self._step(name, phase, wrapped, optimiser, batches)
                        last = position.phase_step == position.phase_steps
                        if last:
                            unchanged.check(task.model, name, self._guards)
                            position.phase, position.phase_step, position.phase_steps = position.phase + 1, 0, 0
                        stop = any_process(bool(signals), processes.device)
                        if last or stop or self._due():
                            sampler = task.sampler
                            position.sampler = sampler.state_dict()
                            checkpoint = save_checkpoint(
                                self._config.out, task, wrapped, optimiser, position, self._json, processes
                            )
                            if self._hooks(checkpoint):
                                stopped = "early stopping"
                            elif task.sampler is not sampler:
                                batches = iter(task.sampler)
                        if stop and not stopped:
                            stopped = "interrupted"
        finally:
            processes.close()
        return Outcome(checkpoint, stopped)

    def _begin(self, name: str, phase: Phase, resume_from: Path | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrapped model and optimiser of a phase, in the middle of it where the run is resumed there."""
        task, position, config = self._task, self._position, self._config
        groups = task.begin(phase)
        task.model.to(self._processes.device).train()
        wrapped = self._processes.wrap(task.model, task.layers)
        optimiser = make_optimiser(task.model, groups, weight_decay=config.weight_decay)
        position.phase_steps = (
            position.phase_steps or phase.steps or math.ceil(phase.epochs * len(task.sampler) / config.accumulate)
        )
        if not phase.steps:
            self._guards.count_steps(name, position.phase_steps, batches=len(task.sampler))
        if resume_from and position.phase_step:
            load_optimiser(resume_from, wrapped, optimiser)
        return wrapped, optimiser

    def _step(
        self,
        name: str,
        phase: Phase,
        wrapped: nn.Module,
        optimiser: torch.optim.Optimizer,
        batches: Iterator[tuple[int, Any]],
    ) -> None:
        task, position, config = self._task, self._position, self._config
        begun = time.perf_counter()
        measures: dict[str, float] = {}
        rate = set_rate(optimiser, position.phase_step, position.phase_steps, config.warmup)
        rows = None
        for number in range(config.accumulate):
            epoch, rows = next(batches)
            own = rows[rank() :: world_size()]
            share = len(own) / len(rows)
            batch = task.collate(own, epoch=epoch, share=share)
            final = number == config.accumulate - 1
            found = task.step(
                wrapped,
                batch,
                phase,
                scale=world_size() / config.accumulate,  # gradients are averaged over processes
                sync=lambda last, final=final: gradient_sync(wrapped, last and final),  # type: ignore[misc]
            )
            self._add(measures, found, share)
        norm = clip_gradients([p for g in optimiser.param_groups for p in g["params"]], config.max_grad_norm)
        assert rows is not None
        if not (math.isfinite(measures["loss"]) and math.isfinite(norm)):
            raise ModelOutputError(
                f"step {position.step + 1}: loss {measures['loss']}, gradient norm {norm} on {task.name_rows(rows)}; "
                f"nothing was changed, the last checkpoint in {config.out} is good. Lower the learning "
                f"rate, or look at these rows",
                index=int(rows[0]),
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        position.step, position.phase_step = position.step + 1, position.phase_step + 1
        position.tokens += int(measures["tokens"])
        seconds = time.perf_counter() - begun
        measures |= {"gradient_norm": norm, "tokens_per_second": measures["tokens"] / seconds}
        self._guards.look(measures, position.step)
        steps = position.step - position.phase_step + position.phase_steps
        self._write(StepReport(position.step, steps, name, measures | self._costs(measures), rate, seconds))

    def _costs(self, measures: dict[str, float]) -> dict[str, float]:
        """Share of padding and peak memory."""
        padded = measures.pop("padded_tokens", 0.0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        if self._processes.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
        padding = {"padding": 1 - measures["tokens"] / padded} if padded else {}
        return padding | {"peak_memory_mib": peak / 2**20}

    def _write(self, report: StepReport) -> None:
        """Append a step to ``training.jsonl``, send it to the trackers and tell it."""
        self._processes.accelerator.log(report.measures | {"learning_rate": report.learning_rate}, step=report.step)
        if self._processes.main:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(report)) + "\n")
            self._report(report)

    def _rewind_log(self) -> None:
        """Drop lines after the present step, and a torn last one: a resumed run writes them again."""
        if self._processes.main and self._log.is_file():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self._position.step]
            self._log.write_text("".join(kept), encoding="utf-8")

    def _add(self, measures: dict[str, float], found: Measures, share: float) -> None:
        """Add one batch: means weighted by rows and averaged over batches, sums as they are."""
        weight = share / self._config.accumulate
        values = {name: value * weight for name, value in found.means.items()} | found.sums
        for name, value in sum_over_processes(values, self._processes.device).items():
            measures[name] = measures.get(name, 0.0) + value

    def _due(self) -> bool:
        step, every = self._position.step, self._config.save_every
        return bool(every and step % every == 0) or any(step % hook.every == 0 for hook in self._task.hooks)

    def _hooks(self, checkpoint: Path) -> bool:
        """Run what is due at this checkpoint; True to stop."""
        step, stop = self._position.step, False
        random = random_state()  # opening a model draws random numbers, and finding old results does not
        for hook in self._task.hooks:
            if step % hook.every == 0:
                if self._processes.main:
                    hook.run(checkpoint, step)
                self._processes.wait()
                stop |= hook.adopt(step)
        set_random_state(random)
        if self._processes.main:
            prune(self._config.out, keep=self._config.keep, best=best_checkpoint(self._config.out))
        return stop


@contextmanager
def interruption() -> Iterator[list[int]]:
    """SIGTERM and SIGINT as a request: the first is put into the list, a second one ends the program at once.

    Signals reach the main thread alone; elsewhere the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()


def best_checkpoint(out: Path) -> str | None:
    """Name of the best checkpoint so far, as the evaluation hook noted it."""
    note = out / "best.txt"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else None


def make_optimiser(model: nn.Module, groups: list[ParameterGroup], *, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; biases and LayerNorm weights do not decay. ``peak`` of a group is its highest rate."""
    parameters: list[dict[str, Any]] = []
    for group in groups:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n.startswith(group.prefixes)]
        for decays in (True, False):
            chosen = [p for _, p in named if (p.dim() > 1) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                parameters.append({"params": chosen, "peak": group.rate, "lr": group.rate, "weight_decay": decay})
    if not parameters:
        raise ConfigError(f"nothing to train in {[group.prefixes for group in groups]}: look at the phase's 'train'")
    return torch.optim.AdamW(parameters, fused=world_size() == 1)


def set_rate(optimiser: torch.optim.Optimizer, step: int, steps: int, warmup: float) -> float:
    """Linear rise over ``warmup · steps`` steps, then linear fall to 0; returns the first group's rate."""
    rise = max(1, math.ceil(warmup * steps))
    factor = (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimiser.param_groups[0]["lr"])
