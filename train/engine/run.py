"""A run of a stage: what it opens before its loop, what it reports while it trains, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar

import torch
from torch import nn

from m3_vdb.errors import ConfigError
from onnx_export.checkpoint import read_tokenizer
from train.config import Phase, RunConfig, as_json
from train.data.store import Lengths, RowStore
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


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step of all processes.

    Attributes:
        step: number from 1.
        steps: of the whole run, as far as it is known: later phases may be given in epochs.
        phase: name of the phase.
        measures: loss terms, accuracies and so on, by name (docs/training.md).
        learning_rate: of the encoder, or of the heads where only they train.
        seconds: wall time.
    """

    step: int
    steps: int
    phase: str
    measures: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        checkpoint: the last one.
        stopped: "" at the regular end, else why it stopped before.
    """

    checkpoint: Path
    stopped: str = ""


Report = Callable[[StepReport], None]
C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True, slots=True)
class Run(Generic[C]):
    """What all parts of a stage share.

    Attributes:
        config: settings.
        tokenizer_json: goes into checkpoints.
        processes: this process among its peers.
        report: called after each step in the main process.
        warn: called with each warning in the main process.
        resume_from: checkpoint to resume from; None for a new run.
    """

    config: C
    tokenizer_json: str
    processes: Processes
    report: Report
    warn: Callable[[str], None]
    resume_from: Path | None = None

    @classmethod
    def open(cls, config: C, *, report: Report, warn: Callable[[str], None]) -> Run[C]:
        """Start the processes and make ``config.out``, or find the checkpoint to resume from.

        Raises:
            BundleError: ``config.model`` has no tokenizer.
            ConfigError: ``out`` holds something and ``resume`` is not set.
        """
        tokenizer_json, processes, out = read_tokenizer(config.model), Processes(config), config.out
        if not config.resume and out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty: give a new directory, or set resume to true to resume there")
        resume_from = last_checkpoint(out)
        processes.wait()
        if processes.main:
            out.mkdir(parents=True, exist_ok=True)
        processes.wait()
        return cls(
            config, tokenizer_json, processes, report, warn if processes.main else lambda text: None, resume_from
        )

    def is_finished(self, phases: Sequence[tuple[str, Phase]]) -> bool:
        """Whether the checkpoint is that of the end, so that nothing need be loaded.

        Raises:
            ConfigError: the checkpoint was made with other settings.
        """
        resume_from = self.resume_from
        return resume_from is not None and read_position(resume_from, as_json(self.config)).phase == len(phases)

    def load_model(self, path: Path, *, longest: int) -> M3Model:
        """A checkpoint with the attention that suits the device and texts of ``longest`` tokens."""
        attention: str = self.config.attention
        if attention == "auto":
            attention = "eager" if self.processes.device.type == "cpu" and longest <= SHORT else "sdpa"
        return M3Model.load(path, attention=attention)

    def read_rows(
        self,
        files: Sequence[Path],
        lengths: Lengths,
        *,
        need_negatives: bool = False,
        kind: Literal["rows", "texts"] = "rows",
    ) -> RowStore:
        """The rows, tokenized by the main process first.

        Skipped lines of ``config.data`` are listed in ``out/rejected.txt``; rows that were mined on the way may lack
        negatives, which is no fault of the data.

        Raises:
            DocumentError: a line of ``config.data`` is malformed, and the policy is "stop".
            ConfigError: a file cannot be read, or no row is left.
        """
        given = list(files) == self.config.data
        with self.processes.first():
            store = RowStore(
                files,
                self.tokenizer_json,
                lengths,
                on_bad_row=self.config.on_bad_row if given else "skip",
                need_negatives=need_negatives,
                workers=self.config.workers,
                kind=kind,
            )
        if given and store.rejected and self.processes.main:
            path = self.config.out / "rejected.txt"
            path.write_text("\n".join(store.rejected) + "\n", encoding="utf-8")
            self.warn(f"{len(store.rejected)} bad rows were skipped, listed in {path}; {len(store)} remain")
        return store

    def set_dropout(self, model: nn.Module) -> None:
        """Give every dropout layer the share of the settings; None keeps the checkpoint's own."""
        if self.config.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.config.dropout

    def idle_passes(self, passes: int) -> int:
        """Forward passes without effect that keep this process in step with sharded peers, which have more of them."""
        return most(passes, self.processes.device) - passes if self.processes.lockstep else 0


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
