"""``python -m benchmarks.train_step``: a step of our trainer and of FlagEmbedding's on the same texts.

Groups are drawn once, so both trainers see the same batches: unified fine-tuning with self-distillation, AdamW, dropout
off, plain memory. Each run is a fresh process and trainers take turns; a step's time holds its batch, gradients and
update; memory is also counted above what the process held before it loaded a model. Real tokens are the same for both,
or the benchmark stops. Attention and tokenizing are each trainer's own: ours takes eager attention on CPUs up to 512
tokens and rows that were tokenized before, FlagEmbedding SDPA and a collator that tokenizes. The last line is one JSON
object. FlagEmbedding's lexical loss takes 8 bytes per padded passage token and vocabulary entry on a CPU: 25 GB for 32
passages of 512 tokens and 190,000 entries, so choose --batch and --group for the memory there is.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import tokenizers
import typer
from numpy.typing import NDArray

from benchmarks._flag_step import (
    LEARNING_RATE,
    LEXICAL_PASSAGES,
    LEXICAL_TOKENS,
    MAX_GRAD_NORM,
    TEMPERATURE,
    WARM_UP_STEPS,
    WARMUP,
    WEIGHT_DECAY,
    LexicalInputs,
    Meter,
    Work,
    answer,
    measure_lexical,
)
from benchmarks.common import MACHINE
from m3_vdb.encoding.tokenizer import CONTROL_PIECES
from train.config import Batching, FinetuneConfig, Objective, Phase, Schedule
from train.data.batches import RowSizes, plan_epoch

ROOT: Final = Path(__file__).resolve().parents[1]
OURS, PEER = "ours", "flagembedding"
SHORTEST: Final = 16
"""Tokens of the shortest passage of the mixed workload."""

HEADER: Final = (
    f"{'workload':9} {'trainer':14} {'s/step':>8} {'CPU s':>8} {'tokens/s':>9} {'tokens':>8} {'padded':>8} "
    f"{'padding':>8} {'forwards':>9} {'peak MiB':>9} {'above MiB':>9} {'first loss':>11} attention"
)
SETTINGS: Final = ("batch", "group", "query_max_length", "passage_max_length", "precision", "threads")

Row = dict[str, Any]
Result = dict[str, Any]


class Precision(str, Enum):
    """Of forward passes; weights are float32."""

    bf16 = "bf16"
    fp32 = "fp32"


class _Enough(Exception):  # noqa: N818
    """The last step is done; the loop would go on to write a checkpoint."""


def train(work: Work) -> Result:
    """Steps of our trainer; runs in a process of its own."""
    from train.contrastive.stages import contrastive
    from train.engine.run import StepReport

    meter = Meter()

    def report(step: StepReport) -> None:
        meter.step(step.seconds, step.measures["loss"])
        if step.step == step.steps:
            raise _Enough

    with suppress(_Enough):
        contrastive(settings(work), report=report, warn=typer.echo)
    return meter.result()


def settings(work: Work) -> FinetuneConfig:
    """What FlagEmbedding's arguments say, in ours; its loss masks no duplicates and has one learning rate."""
    phase = Phase(steps=work.steps, self_distill=True, learning_rate=LEARNING_RATE, head_learning_rate=LEARNING_RATE)
    return FinetuneConfig(
        model=Path(work.checkpoint),
        data=[Path(work.rows)],
        out=Path(work.folder),
        device="cpu",
        precision=work.precision,  # type: ignore[arg-type]
        attention=work.attention,  # type: ignore[arg-type]
        batching=batching(work.batch),
        query_max_length=work.query_max_length,
        passage_max_length=work.passage_max_length,
        warmup=WARMUP,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        objective=Objective(temperature=TEMPERATURE, mask_duplicates=False),
        group_size=work.group,
        phases=Schedule(unified=phase),
    )


def batching(rows: int) -> Batching:
    """Batches of a fixed number of rows, whatever their lengths."""
    return Batching(tokens=0, rows=rows, edges=[])


def lexical(work: Work) -> Result:
    """Our lexical loss."""
    import torch
    from torch import Tensor

    from train.contrastive.losses import info_nce
    from train.contrastive.representations import Representations, pack_output
    from train.contrastive.scores import lexical_scores
    from train.model import M3Output

    def pack(inputs: LexicalInputs, states: Tensor, ids: Tensor) -> Representations:
        weights = torch.relu(inputs.linear(states)).squeeze(-1).float()
        output = M3Output(states[:, 0], weights, states[:, 1:])
        return pack_output(output, ids, torch.ones_like(ids), ["sparse"])

    def loss_of(inputs: LexicalInputs) -> Tensor:
        queries = pack(inputs, inputs.queries, inputs.query_ids)
        passages = pack(inputs, inputs.passages, inputs.passage_ids)
        return info_nce(lexical_scores(queries, passages), torch.arange(len(queries)), TEMPERATURE)

    return measure_lexical(work, loss_of)


def serve() -> None:
    """The child process of our trainer."""
    answer({"train": train, "lexical": lexical})


def draw(path: Path, *, rows: int, group: int) -> list[Row]:
    """Rows with one positive and ``group - 1`` negatives each.

    Rows that spell a control token are left out: FlagEmbedding's tokenizer reads it, ours takes it for text.
    """
    with path.open(encoding="utf-8") as file:
        lines = [line for line in file if not any(piece in line for piece in CONTROL_PIECES)]
    drawn: list[Row] = []
    for number in np.random.default_rng(0).permutation(len(lines)):
        row = json.loads(lines[number])
        if len(row["neg"]) >= group - 1:
            drawn.append({"query": row["query"], "pos": row["pos"][:1], "neg": row["neg"][: group - 1]})
        if len(drawn) == rows:
            return drawn
    raise typer.BadParameter(f"{path} has {len(drawn)} rows with {group - 1} negatives, {rows} are needed")


def lengthen(rows: list[Row], tokenizer: tokenizers.Tokenizer, longest: int) -> list[Row]:
    """Other texts joined to every passage, and all cut to lengths that are log-uniform up to ``longest`` tokens."""
    random = np.random.default_rng(1)
    texts = [text for row in rows for text in row["pos"] + row["neg"]]

    def passage(text: str) -> str:
        inner = int(np.exp(random.uniform(np.log(SHORTEST), np.log(longest)))) - 2
        while len(found := tokenizer.encode(text, add_special_tokens=False)) < inner:
            text = f"{text} {texts[random.integers(len(texts))]}"
        return text[: found.offsets[inner - 1][1]]

    return [row | {"pos": [passage(t) for t in row["pos"]], "neg": [passage(t) for t in row["neg"]]} for row in rows]


def texts_of(work: Work, path: Path) -> dict[str, tuple[list[Row], int]]:
    """Name → (rows of all steps, maximum length of a passage): texts as they are, and of very different lengths."""
    checkpoint = Path(work.checkpoint)
    longest = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"] - 2
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    # transformers' loader asks for one batch more than its trainer takes
    rows = draw(path, rows=work.batch * (work.steps + 1), group=work.group)
    return {"short": (rows, work.passage_max_length), "mixed": (lengthen(rows, tokenizer, longest), longest)}


def write_rows(rows: list[Row], folder: Path, batch: int) -> dict[str, Path]:
    """One file for each trainer with the same batches; ours shuffles its rows, so they stand where its plan looks."""
    zeros: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    plan = plan_epoch(RowSizes(zeros, zeros, zeros), batching(batch), least=2, seed=0, epoch=0)
    placed = dict(zip(np.concatenate(plan).tolist(), rows, strict=True))
    paths = {}
    for name, ordered in {PEER: rows, OURS: [placed[number] for number in range(len(rows))]}.items():
        paths[name] = folder / f"{name}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ordered]
        paths[name].write_text("".join(lines), encoding="utf-8")
    return paths


def commands(peer_python: Path | None) -> dict[str, list[str]]:
    """How a process of each trainer is started: ours, and FlagEmbedding's if its Python is known."""
    found = {OURS: [sys.executable, "-c", "from benchmarks.train_step import serve; serve()"]}
    if peer_python:
        found[PEER] = [str(peer_python.absolute()), "-m", "benchmarks._flag_step"]
    return found


def run(command: list[str], task: str, work: Work) -> Result:
    """What a fresh process answers."""
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps(asdict(replace(work, folder=f"{folder}/out")))
        added = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder, "OMP_NUM_THREADS": str(work.threads)}
        done = subprocess.run(
            [*command, task, given], cwd=ROOT, env=os.environ | added, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{command} {task} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def take_turns(
    trainers: dict[str, list[str]], work: Work, rows: dict[str, Path], rounds: int
) -> dict[str, list[Result]]:
    """Runs of every trainer.

    Raises:
        RuntimeError: they saw different tokens.
    """
    runs: dict[str, list[Result]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, command in trainers.items():
            runs[name].append(run(command, "train", replace(work, rows=str(rows[name]))))
    seen = {name: [[step["tokens"] for step in one["steps"]] for one in found] for name, found in runs.items()}
    if any(tokens != seen[OURS][0] for found in seen.values() for tokens in found):
        raise RuntimeError(f"not the same tokens: {seen}")
    return runs


def figures(runs: list[Result]) -> Result:
    """Medians of time and memory, means of counts, of the steps after the warm-up."""
    steps = [step for run in runs for step in run["steps"][WARM_UP_STEPS:]]
    totals = {name: sum(step[name] for step in steps) for name in ("tokens", "padded_tokens", "forwards")}
    peak = statistics.median(run["peak_mib"] for run in runs)
    return {
        "seconds": round(statistics.median(step["seconds"] for step in steps), 4),
        "cpu_seconds": round(statistics.median(step["cpu_seconds"] for step in steps), 4),
        "tokens_per_s": round(statistics.median(step["tokens"] / step["seconds"] for step in steps), 1),
        "tokens": round(totals["tokens"] / len(steps), 1),
        "padded_tokens": round(totals["padded_tokens"] / len(steps), 1),
        "padding": round(1 - totals["tokens"] / totals["padded_tokens"], 4),
        "forwards": round(totals["forwards"] / len(steps), 2),
        "peak_mib": round(peak, 1),
        "above_mib": round(statistics.median(run["peak_mib"] - run["before_mib"] for run in runs), 1),
        "first_loss": runs[0]["steps"][0]["loss"],
        "attention": runs[0]["attention"],
    }


def compare(workload: dict[str, Any]) -> dict[str, float]:
    """Ours against FlagEmbedding's; more than 1 is better for ours, but for the difference of the first losses."""
    ours, peer = workload[OURS], workload[PEER]
    return {
        "tokens_per_s": round(ours["tokens_per_s"] / peer["tokens_per_s"], 3),
        "cpu_seconds": round(peer["cpu_seconds"] / ours["cpu_seconds"], 3),
        "padded_tokens": round(peer["padded_tokens"] / ours["padded_tokens"], 3),
        "peak_mib": round(peer["peak_mib"] / ours["peak_mib"], 3),
        "above_mib": round(peer["above_mib"] / ours["above_mib"], 3),
        "first_loss_difference": ours["first_loss"] - peer["first_loss"],
    }


def table(name: str, workload: dict[str, Any]) -> Iterator[str]:
    """A line for each trainer, and the ratios."""
    for trainer in (OURS, PEER):
        if row := workload.get(trainer):
            yield (
                f"{name:9} {trainer:14} {row['seconds']:8.2f} {row['cpu_seconds']:8.2f} {row['tokens_per_s']:9,.0f} "
                f"{row['tokens']:8,.0f} {row['padded_tokens']:8,.0f} {row['padding']:8.1%} {row['forwards']:9.1f} "
                f"{row['peak_mib']:9,.0f} {row['above_mib']:9,.0f} {row['first_loss']:11.6f} {row['attention']}"
            )
    if ratio := workload.get("ratio"):
        yield f"{name:9} " + ", ".join(f"{key} {value:.3g}" for key, value in ratio.items())


def measure_steps(
    trainers: dict[str, list[str]], work: Work, workloads: dict[str, tuple[list[Row], int]], rounds: int
) -> dict[str, Any]:
    """Workload → figures of every trainer, and their ratios if there are two; prints the table."""
    typer.echo(HEADER)
    result = {}
    for name, (rows, length) in workloads.items():
        with tempfile.TemporaryDirectory() as folder:
            files = write_rows(rows, Path(folder), work.batch)
            runs = take_turns(trainers, replace(work, passage_max_length=length), files, rounds)
        result[name] = {trainer: figures(results) for trainer, results in runs.items()}
        if PEER in trainers:
            result[name]["ratio"] = compare(result[name])
        for line in table(name, result[name]):
            typer.echo(line)
    return result


def measure_memory(trainers: dict[str, list[str]], work: Work) -> dict[str, Any]:
    """Peak memory of the lexical loss by itself."""
    found: dict[str, Any] = {name: run(command, "lexical", work) for name, command in trainers.items()}
    for name, row in found.items():
        what = f"lexical loss of {LEXICAL_PASSAGES} passages of {LEXICAL_TOKENS} tokens"
        typer.echo(f"{what}, {name:14} {row['above_mib']:9,.1f} MiB")
    if PEER in found:
        found["ratio"] = round(found[PEER]["above_mib"] / found[OURS]["above_mib"], 1)
    return found


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Directory in BGE-M3 layout.")],
    rows: Annotated[Path, typer.Argument(help="JSONL of query, pos and neg.")],
    peer_python: Annotated[Path | None, typer.Option(help="Python that has FlagEmbedding.")] = None,
    steps: Annotated[int, typer.Option(help="Counted steps after one that warms up.")] = 5,
    batch: Annotated[int, typer.Option(help="Queries per step.")] = 8,
    group: Annotated[int, typer.Option(help="Passages per query.")] = 4,
    query_max_length: Annotated[int, typer.Option()] = 64,
    passage_max_length: Annotated[int, typer.Option(help='Of the "short" workload; "mixed" has the model\'s.')] = 256,
    precision: Annotated[Precision, typer.Option()] = Precision.bf16,
    rounds: Annotated[int, typer.Option(help="Processes per trainer.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of torch in every process.")] = os.cpu_count() or 1,
    attention: Annotated[str, typer.Option(help="Of our trainer: auto, eager or sdpa.")] = "auto",
    workloads: Annotated[str, typer.Option(help="Workloads, comma-separated.")] = "short,mixed",
) -> None:
    """Compare the trainers on this machine."""
    work = Work(
        checkpoint=str(checkpoint.resolve()),
        steps=WARM_UP_STEPS + steps,
        batch=batch,
        group=group,
        query_max_length=query_max_length,
        passage_max_length=passage_max_length,
        precision=precision.value,
        attention=attention,
        threads=threads,
    )
    trainers = commands(peer_python)
    if not peer_python:
        typer.echo("FlagEmbedding is left out: --peer-python names no Python that has it")
    result: dict[str, Any] = {"machine": MACHINE, "rounds": rounds, "steps": steps}
    result |= {name: value for name, value in asdict(work).items() if name in SETTINGS} | {"dropout": 0.0}
    chosen = {name: found for name, found in texts_of(work, rows).items() if name in workloads.split(",")}
    result |= measure_steps(trainers, work, chosen, rounds)
    typer.echo(json.dumps(result | {"lexical": measure_memory(trainers, work)}))


if __name__ == "__main__":
    typer.run(main)
