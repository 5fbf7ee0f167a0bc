"""``README.md`` of a checkpoint: a model card for the Hugging Face hub, made of the run's own files.

Every number is read from the settings, the logs or the checkpoint; what was not measured is not mentioned. Files and
directories go by their names, since the paths of a machine do not belong in public.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from onnx_export.checkpoint import COLBERT_FILE, POSITION_OFFSET
from train.config import ContrastiveConfig, FinetuneConfig, Phase, PretrainConfig, RunConfig
from train.engine.checkpoint import STATE
from train.engine.loop import Outcome, best_checkpoint
from train.engine.plot import Log, plot_training, read_lines, read_log
from train.retromae.config import RetroMAEConfig

END: Final = 0.05  # share of the steps whose measures are averaged
CAPTION: Final = "Lines are running medians; light are single steps or, in a long run, the middle 90 % of them."
PHASES: Final = ("phase", "planned", "steps done", "learning rate", "of the heads", "trained", "losses")
TAGS: Final = ("sentence-transformers", "feature-extraction", "bge-m3", "sparse", "colbert")
ELSEWHERE: Final = ("model", "data", "out", "resume", "phase", "phases")
"""Settings that the card has in its text and tables."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A checkpoint and what its run wrote until then; ``phases`` are name, settings, steps done."""

    config: RunConfig
    checkpoint: Path
    position: dict[str, int]
    log: Log
    evaluations: list[dict[str, Any]]
    shape: dict[str, int]
    colbert_dim: int
    stage: str
    phases: list[tuple[str, Phase, int]]


def write_card(config: RunConfig, outcome: Outcome) -> None:
    """Write ``README.md`` and ``training.png`` into the last and the best checkpoint of a run.

    Args:
        config: settings of the run.
        outcome: how it ended. Where there is no checkpoint, nothing is written.
    """
    best = best_checkpoint(config.out)
    found = {outcome.checkpoint, *([config.out / best] if best else [])}
    checkpoints = [path for path in found if (path / STATE / "trainer.json").is_file()]
    picture = plot_training(config.out) if checkpoints else None
    for checkpoint in checkpoints:
        run = _read(config, checkpoint)
        stopped = outcome.stopped if checkpoint == outcome.checkpoint else ""
        parts = [*_model(run), *_training(run, stopped), *_results(run)]
        if picture:
            shutil.copyfile(picture, checkpoint / picture.name)
            parts.append(f"![All steps of the run]({picture.name})\n\n{CAPTION}")
        (checkpoint / "README.md").write_text("\n\n".join([*parts, *_use(run)]) + "\n", encoding="utf-8")


def _read(config: RunConfig, checkpoint: Path) -> _Run:
    position = json.loads((checkpoint / STATE / "trainer.json").read_text(encoding="utf-8"))["position"]
    log = read_log(config.out, last=position["step"])
    evaluations = [e for e in read_lines(config.out / "evaluations.jsonl") if e["step"] <= position["step"]]
    done = {name: lines.stop - lines.start for name, lines in log.phases}
    if isinstance(config, FinetuneConfig):
        stage = "Stage 2 of M3-Embedding: fine-tuned for dense, sparse and multi-vector retrieval."
        phases = list(config.phases)
    elif isinstance(config, PretrainConfig):
        stage = "Stage 1 of M3-Embedding: trained on pairs of texts with the dense score, the other pairs as negatives."
        phases = [("pretrain", config.phase)]
    else:
        assert isinstance(config, RetroMAEConfig)
        stage = "Stage 0 of M3-Embedding: RetroMAE on plain text. A base for stages 1 and 2, not for retrieval."
        phases = [("retromae", config.phase)]
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    head = torch.load(checkpoint / COLBERT_FILE, map_location="cpu", weights_only=True)
    steps = [(name, phase, done.get(name, 0)) for name, phase in phases]
    return _Run(config, checkpoint, position, log, evaluations, shape, len(head["weight"]), stage, steps)


def _model(run: _Run) -> Iterator[str]:
    """Front matter, stage, dimensions."""
    base = json.dumps(_name(run.config.model), ensure_ascii=False)  # a JSON string is one in YAML too
    yield "\n- ".join([f"---\nbase_model: {base}\nlibrary_name: sentence-transformers\ntags:", *TAGS]) + "\n---"
    yield f"# {_name(run.config.out)}, step {run.position['step']:,}\n\n{run.stage}"
    shape, longest = run.shape, run.shape["max_position_embeddings"] - POSITION_OFFSET
    yield (
        f"Dense: {shape['hidden_size']:,} dimensions. Sparse: weights of {shape['vocab_size']:,} pieces. Multi-vector: "
        f"{run.colbert_dim:,} dimensions a token. Texts of up to {longest:,} tokens; XLM-RoBERTa with "
        f"{shape['num_hidden_layers']} layers."
    )
    phases = [] if isinstance(run.config, RetroMAEConfig) else run.phases  # it has no heads, whatever its phase says
    trained = {part for _, phase, done in phases if done for part in phase.train}
    if untouched := [head for head in ("sparse", "multi_vector") if head not in trained]:
        yield f"Not trained in this run, but as in the base: {', '.join(untouched)}."


def _training(run: _Run, stopped: str) -> Iterator[str]:
    """Phases, rows, settings."""
    config, position, minutes = run.config, run.position, run.log.columns["seconds"].sum() / 60
    processes = len(list((run.checkpoint / STATE).glob("random-*.safetensors")))
    yield "## Training"
    end = f" Stopped before its regular end: {stopped}." if stopped else ""
    yield (
        f"From `{_name(config.model)}` in {position['step']:,} optimiser steps over {position['tokens']:,} tokens "
        f"({minutes:,.1f} minutes of steps); processes: {processes}, seed: {config.seed}, {config.precision}; torch "
        f"{torch.__version__}, transformers {transformers.__version__}.{end}"
    )
    yield _table(PHASES, [_phase(run, *phase) for phase in run.phases])
    sizes = {path: f", {path.stat().st_size:,} bytes" for path in config.data if path.is_file()}
    files = "\n".join(f"- `{_name(path)}`{sizes.get(path, '')}" for path in config.data)
    yield f"<details><summary>Files of rows: {len(config.data)}</summary>\n\n{files}\n\n</details>"
    rows = [(f"`{name}`", value) for name, value in _settings(config) if name.split(".")[0] not in ELSEWHERE]
    yield f"<details><summary>All settings</summary>\n\n{_table(['setting', 'value'], rows)}\n\n</details>"


def _phase(run: _Run, name: str, phase: Phase, done: int) -> list[str]:
    """A line of the table of phases."""
    encoder: list[str] = [part for part in phase.train if part in ("embeddings", "encoder")]
    heads: list[str] = [part for part in phase.train if part not in encoder]
    losses = [*phase.losses, *["combined"] * (len(phase.losses) > 1), *["self-distillation"] * phase.self_distill]
    if isinstance(run.config, RetroMAEConfig):
        encoder, heads, losses = [*encoder, "decoder", "MLM head"], [], ["MLM", "decoder"]
    elif isinstance(run.config, ContrastiveConfig) and run.config.lora.rank and encoder:
        encoder = ["adapters (LoRA)"]
    frozen = f" without {phase.freeze_layers} lower layers" if phase.freeze_layers else ""
    planned = f"steps: {phase.steps:,}" if phase.steps else f"epochs: {phase.epochs:g}"
    rates = [f"{phase.learning_rate:g}" if encoder else "–", f"{phase.head_learning_rate:g}" if heads else "–"]
    return [name, planned, f"{done:,}", *rates, ", ".join([*encoder, *heads]) + frozen, ", ".join(losses)]


def _settings(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted name; of paths the last part."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _settings(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    else:
        items = value if isinstance(value, (list, tuple)) else [value]
        paths = (isinstance(item, Path) or (isinstance(item, str) and os.path.isabs(item)) for item in items)
        yield name, ", ".join(_name(item) if path else str(item) for item, path in zip(items, paths, strict=True))


def _results(run: _Run) -> Iterator[str]:
    """The last and the best evaluation, and the measures at the end."""
    yield "## Results"
    if run.evaluations and isinstance(run.config, ContrastiveConfig):
        watch, last = run.config.watch, run.evaluations[-1]
        best = max(run.evaluations, key=lambda entry: float(entry["value"]))
        yield f"Retrieval, mean over {', '.join(f'`{_name(place)}`' for place in watch.data)} ({watch.options.split}):"
        for entry in [last] if last is best else [last, best]:
            notes = [f"step {entry['step']:,}", *["this checkpoint"] * (entry["step"] == run.position["step"])]
            notes += [f"the best so far by {watch.metric}"] * (entry is best)
            measures = list(next(iter(entry["mean"].values())))
            rows = [(mode, *(f"{found[m]:.4f}" for m in measures)) for mode, found in entry["mean"].items()]
            yield _table([", ".join(notes), *measures], rows)
    if run.log.phases:
        count = len(run.log.columns["step"])
        first = max(count - math.ceil(END * count), run.log.phases[-1][1].start)  # phases have nothing in common
        names = sorted(set(run.log.columns) - {"step", "seconds", "learning_rate"})
        ends = [(name, run.log.columns[name][first:]) for name in names]
        means = [(f"`{name}`", f"{np.nanmean(end):,.6g}") for name, end in ends if np.isfinite(end).any()]
        yield f"Measures of the training, mean of the last steps ({count - first:,}):"
        yield _table(["measure", "mean"], means)


def _use(run: _Run) -> Iterator[str]:
    """How to load it."""
    yield "## Use\n\n`CHECKPOINT` is this directory."
    if isinstance(run.config, RetroMAEConfig):
        yield "- next stage: `python -m train pretrain --model CHECKPOINT --data PAIRS --out OUT`"
    else:
        narrower = f", colbert_dim={run.colbert_dim}" * (run.colbert_dim != run.shape["hidden_size"])
        yield (
            "- m3-vdb, all three representations: `python -m onnx_export CHECKPOINT BUNDLE`\n"
            f'- FlagEmbedding, all three: `BGEM3FlagModel("CHECKPOINT"{narrower})`\n'
            '- sentence-transformers, dense: `SentenceTransformer("CHECKPOINT")`'
        )


def _name(path: str | Path) -> str:
    return Path(os.path.abspath(path)).name


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))
