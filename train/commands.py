"""What each command of ``python -m train`` does with its settings, a progress bar and a console.

Heavy packages are imported inside, so that ``--help`` does not load torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from m3_vdb.encoding.bundle import DEFAULT_MODEL
from train.config import (
    AverageConfig,
    FinetuneConfig,
    ImportBaseConfig,
    ImportBundleConfig,
    PretrainConfig,
    ProjectConfig,
)
from train.data.config import SelectConfig
from train.retrieval.config import EvaluateConfig, MineConfig, TopicsConfig
from train.retromae.config import ExtendConfig, RetroMAEConfig
from train.synthesis.config import SynthesizeConfig

if TYPE_CHECKING:
    from train.engine.loop import Outcome, StepReport

LINE_SECONDS: Final = 10.0
"""Time between two lines of progress where there is no terminal."""


def say(console: Console, text: str, *, style: str | None = None) -> None:
    """One line, however long; brackets are text and no markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def train(config: RetroMAEConfig | PretrainConfig | FinetuneConfig, console: Console) -> Outcome:
    """Stages 0, 1 and 2."""
    from train.contrastive.stages import contrastive
    from train.engine.card import write_card
    from train.engine.processes import rank
    from train.retromae.stage import retromae

    if rank():
        console = Console(stderr=True, quiet=True)
    begun, steps, tokens = time.monotonic(), 0, 0

    def warn(text: str) -> None:
        say(console, text, style="yellow")

    def count(step: StepReport) -> None:
        nonlocal steps, tokens
        steps, tokens = steps + 1, tokens + int(step.measures["tokens"])
        report(step)

    with _progress(console) as report:
        if isinstance(config, RetroMAEConfig):
            outcome = retromae(config, report=count, warn=warn)
        else:
            outcome = contrastive(config, report=count, warn=warn)
    if rank() == 0:
        if steps or not (outcome.checkpoint / "README.md").is_file():
            write_card(config, outcome)
        cost = timedelta(seconds=round(time.monotonic() - begun))
        say(console, f"{steps:,} optimiser steps over {tokens:,} tokens in {cost}" if steps else "finished before")
        if outcome.stopped:
            how = "the same command" if config.resume else "the same command with --resume true"
            say(console, f"stopped: {outcome.stopped}; {how} resumes")
        else:
            say(console, f"next: python -m onnx_export {outcome.checkpoint} BUNDLE, then --model BUNDLE for m3-vdb")
        say(console, str(outcome.checkpoint))
    return outcome


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[StepReport], None]]:
    """Step, total and time left: a bar that appears with the first step, or where there is no terminal lines."""
    last, begun, first = 0.0, 0.0, 0

    def left(step: StepReport) -> str:
        """Time left, by the steps since the first, which is slow."""
        if step.step == first:
            return "…"
        seconds = (time.monotonic() - begun) / (step.step - first) * (step.steps - step.step)
        return f"{timedelta(seconds=round(seconds))}"

    def losses(step: StepReport) -> str:
        shown = {name: v for name, v in step.measures.items() if name == "loss" or name.startswith("loss/")}
        return " ".join(f"{name.removeprefix('loss/')} {value:.3f}" for name, value in shown.items())

    # What does not fit at 80 columns is cut off at the end.
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    progress = Progress(MofNCompleteColumn(), words, BarColumn(8), console=console, expand=True)
    task = progress.add_task("", total=None)

    def report(step: StepReport) -> None:
        nonlocal last, begun, first
        now = time.monotonic()
        if not begun:
            begun, first = now, step.step
        speed = f"{step.measures['tokens_per_second']:,.0f} tokens/s"
        said = f"{left(step)} left, {step.phase}: {losses(step)}, {speed}"
        if console.is_terminal:
            progress.start()
            progress.update(task, total=step.steps, completed=step.step, description=said)
        elif now - last >= LINE_SECONDS or step.step == step.steps:
            last = now
            say(console, f"step {step.step:,} of {step.steps:,}, {said}")

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()


def mine(config: MineConfig, console: Console) -> None:
    """Hard negatives."""
    from train.retrieval.mining import mine as run

    run(config, report=lambda line: say(console, line))


def select(config: SelectConfig, console: Console) -> None:
    """A choice of rows."""
    from train.data.select import select as run

    run(config, report=lambda line: say(console, line), warn=lambda line: say(console, line, style="yellow"))


def topics(config: TopicsConfig, console: Console) -> None:
    """Rows by topic."""
    from train.retrieval.topics import topics as run

    run(config, report=lambda line: say(console, line))


def synthesize(config: SynthesizeConfig, console: Console) -> None:
    """Questions for long articles."""
    from train.synthesis.stage import synthesize as run

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("passages", total=None)
        made = run(config, report=lambda done, most: progress.update(task, total=most, completed=done))
    say(console, made.summary())


def evaluate(config: EvaluateConfig, console: Console) -> None:
    """Figures of a checkpoint."""
    from train.retrieval.evaluation import evaluate as run

    run(config, report=lambda line: say(console, line))


def import_base(config: ImportBaseConfig, console: Console) -> None:
    """A base checkpoint."""
    from train.import_base import import_base as run

    model = run(config.out, colbert_dim=config.colbert_dim, vocab_size=config.vocab_size, seed=config.seed)
    layers = model.encoder.config.num_hidden_layers
    say(console, f"{config.out}: {layers} layers of {model.dim}, colbert_dim {config.colbert_dim}")


def import_bundle(config: ImportBundleConfig, console: Console) -> None:
    """A checkpoint of a bundle."""
    from train.import_bundle import import_bundle as run

    model = run(config.bundle, config.out)
    say(console, f"{config.out}: {config.bundle or DEFAULT_MODEL}, {model.max_length} tokens")


def extend(config: ExtendConfig, console: Console) -> None:
    """More positions."""
    from onnx_export.checkpoint import read_tokenizer
    from train.edit import extend_positions
    from train.model import M3Model

    model = M3Model.load(config.model)
    extend_positions(model.encoder, config.max_length, how=config.positions)
    model.save(config.out, tokenizer_json=read_tokenizer(config.model))
    say(console, f"{config.out}: {model.max_length} tokens")


def average(config: AverageConfig, console: Console) -> None:
    """One model between several."""
    from train.edit import average as run

    model, tokenizer_json = run(config.models, config.weights or [1.0] * len(config.models))
    model.save(config.out, tokenizer_json=tokenizer_json)
    say(console, f"{config.out}: mean of {len(config.models)} checkpoints")


def project(config: ProjectConfig, console: Console) -> None:
    """A narrower multi-vector head."""
    import random

    from m3_vdb.encoding.tokenizer import Tokenizer
    from onnx_export.checkpoint import read_tokenizer
    from train.data.rows import read_rows
    from train.edit import project as run
    from train.model import M3Model

    rows = read_rows(config.data)
    chosen = random.Random(config.seed).sample(rows, min(config.texts, len(rows)))
    tokenizer_json = read_tokenizer(config.model)
    # sdpa, since a base with 8192 positions reads long passages whole
    model = M3Model.load(config.model, attention="sdpa")
    narrow = run(model, Tokenizer(tokenizer_json), [row.positives[0] for row in chosen], config.colbert_dim)
    narrow.save(config.out, tokenizer_json=tokenizer_json)
    say(console, f"{config.out}: colbert_dim {config.colbert_dim}")
