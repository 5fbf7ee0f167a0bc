"""What each command of ``python -m train`` does with its settings, a progress bar and a console.

Heavy packages are imported inside, so that ``--help`` does not load torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from m3_vdb.cli.output import say
from m3_vdb.encoding.bundle import DEFAULT_MODEL
from train.config import FinetuneConfig, PretrainConfig
from train.distill.config import DistillConfig
from train.edit_config import AverageConfig, ExtendConfig, ImportBaseConfig, ImportBundleConfig, ProjectConfig
from train.retromae.config import RetroMAEConfig
from train.synthesis.config import SynthesizeConfig

if TYPE_CHECKING:
    from train.engine.run import Outcome, StepReport

LINE_SECONDS: Final = 10.0
"""Time between two lines of progress where there is no terminal."""


def train(config: RetroMAEConfig | PretrainConfig | FinetuneConfig | DistillConfig, console: Console) -> Outcome:
    """Stages 0, 1 and 2, and distillation."""
    from train.contrastive.stages import contrastive
    from train.distill.stage import distill
    from train.engine.card import write_card
    from train.engine.processes import rank
    from train.retromae.stage import retromae

    if rank():
        console = Console(stderr=True, quiet=True)
    begun, steps, tokens = time.monotonic(), 0, 0

    def warn(text: str) -> None:
        say(text, style="yellow", console=console)

    def count(step: StepReport) -> None:
        nonlocal steps, tokens
        steps, tokens = steps + 1, tokens + int(step.measures["tokens"])
        report(step)

    with _progress(console) as report:
        if isinstance(config, RetroMAEConfig):
            outcome = retromae(config, report=count, warn=warn)
        elif isinstance(config, DistillConfig):
            outcome = distill(config, report=count, warn=warn)
        else:
            outcome = contrastive(config, report=count, warn=warn)
    if rank() == 0:
        if steps or not (outcome.checkpoint / "README.md").is_file():
            write_card(config, outcome)
        cost = timedelta(seconds=round(time.monotonic() - begun))
        done = f"{steps:,} optimiser steps over {tokens:,} tokens in {cost}" if steps else "finished before"
        following = f"next: python -m onnx_export {outcome.checkpoint} BUNDLE, then --model BUNDLE for m3-vdb"
        if outcome.stopped:
            how = "the same command" if config.resume else "the same command with --resume true"
            following = f"stopped: {outcome.stopped}; {how} resumes"
        for line in (done, following, str(outcome.checkpoint)):
            say(line, console=console)
    return outcome


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[StepReport], None]]:
    """Step, total and time left: a bar that appears with the first step; lines where there is no terminal."""
    last, begun, first = 0.0, 0.0, 0

    # What does not fit at 80 columns is cut off at the end.
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    progress = Progress(MofNCompleteColumn(), words, BarColumn(8), console=console, expand=True)
    task = progress.add_task("", total=None)

    def report(step: StepReport) -> None:
        nonlocal last, begun, first
        now = time.monotonic()
        if not begun:
            begun, first = now, step.step
        left = "…"  # counted from the first step on, which is slow
        if step.step > first:
            seconds = (now - begun) / (step.step - first) * (step.steps - step.step)
            left = str(timedelta(seconds=round(seconds)))
        shown = {name: v for name, v in step.measures.items() if name == "loss" or name.startswith("loss/")}
        losses = " ".join(f"{name.removeprefix('loss/')} {value:.3f}" for name, value in shown.items())
        said = f"{left} left, {step.phase}: {losses}, {step.measures['tokens_per_second']:,.0f} tokens/s"
        if console.is_terminal:
            progress.start()
            progress.update(task, total=step.steps, completed=step.step, description=said)
        elif now - last >= LINE_SECONDS or step.step == step.steps:
            last = now
            say(f"step {step.step:,} of {step.steps:,}, {said}", console=console)

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()


def _lines(module: str, name: str, config: object, console: Console) -> None:
    """A command that reports line by line; its module is imported when it runs."""
    getattr(import_module(module), name)(config, report=partial(_say_all, console))


def _say_all(console: Console, text: str) -> None:
    for line in text.splitlines():
        say(line, console=console)


mine = partial(_lines, "train.retrieval.mining", "mine")
topics = partial(_lines, "train.retrieval.topics", "topics")
evaluate = partial(_lines, "train.retrieval.evaluation", "evaluate")
select = partial(_lines, "train.data.select", "select")


def synthesize(config: SynthesizeConfig, console: Console) -> None:
    """Questions for long articles."""
    from train.synthesis.stage import synthesize as run

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("passages", total=None)
        made = run(config, report=lambda done, most: progress.update(task, total=most, completed=done))
    _say_all(console, made.summary())


def import_base(config: ImportBaseConfig, console: Console) -> None:
    """A base checkpoint."""
    from train.import_base import import_base as run

    model = run(config.out, colbert_dim=config.colbert_dim, vocab_size=config.vocab_size, seed=config.seed)
    layers = model.encoder.config.num_hidden_layers
    say(f"{config.out}: {layers} layers of {model.dim}, colbert_dim {config.colbert_dim}", console=console)


def import_bundle(config: ImportBundleConfig, console: Console) -> None:
    """A checkpoint of a bundle."""
    from train.import_bundle import import_bundle as run

    model = run(config.bundle, config.out)
    say(f"{config.out}: {config.bundle or DEFAULT_MODEL}, {model.max_length} tokens", console=console)


def extend(config: ExtendConfig, console: Console) -> None:
    """More positions."""
    from onnx_export.checkpoint import read_tokenizer
    from train.edit import extend_positions
    from train.model import M3Model

    model = M3Model.load(config.model)
    extend_positions(model.encoder, config.max_length, how=config.positions)
    model.save(config.out, tokenizer_json=read_tokenizer(config.model))
    say(f"{config.out}: {model.max_length} tokens", console=console)


def average(config: AverageConfig, console: Console) -> None:
    """One model between several."""
    from train.edit import average as run
    from train.edit import move_towards

    model, tokenizer_json = run(config.models, config.weights or [1.0] * len(config.models))
    if config.base:
        move_towards(model, config.base, config.base_share)
    model.save(config.out, tokenizer_json=tokenizer_json)
    share = f", {config.base_share:.0%} of the layers from {config.base}" if config.base else ""
    say(f"{config.out}: mean of {len(config.models)} checkpoints{share}", console=console)


def project(config: ProjectConfig, console: Console) -> None:
    """A narrower multi-vector head."""
    import random

    from m3_vdb.encoding.tokenizer import Tokenizer
    from onnx_export.checkpoint import read_tokenizer
    from train.edit import project as run
    from train.model import M3Model
    from train.retrieval.data import read_rows

    rows = read_rows([config.data])
    chosen = random.Random(config.seed).sample(rows, min(config.texts, len(rows)))
    tokenizer_json = read_tokenizer(config.model)
    # sdpa, since a base with 8192 positions reads long passages whole
    model = M3Model.load(config.model, attention="sdpa")
    narrow = run(model, Tokenizer(tokenizer_json), [row["pos"][0] for row in chosen], config.colbert_dim)
    narrow.save(config.out, tokenizer_json=tokenizer_json)
    say(f"{config.out}: colbert_dim {config.colbert_dim}", console=console)
