"""``README.md`` of a checkpoint: a model card for the Hugging Face hub, made of the run's own files.

``card.md.jinja`` is the text. Every number is read from the settings, the logs or the checkpoint; what was not measured
is not mentioned. Files and directories go by their names, since the paths of a machine do not belong in public.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData

from onnx_export.checkpoint import COLBERT_FILE, POSITION_OFFSET
from train.config import ContrastiveConfig, FinetuneConfig, Phase, PretrainConfig, RunConfig
from train.distill.config import DistillConfig
from train.engine.checkpoint import STATE
from train.engine.loop import best_checkpoint
from train.engine.plot import plot_training, read_lines, read_log
from train.engine.run import Outcome
from train.retromae.config import RetroMAEConfig

END: Final = 0.05  # share of the steps whose measures are averaged
TEMPLATE: Final = Path(__file__).with_name("card.md.jinja")
TAGS: Final = ["sentence-transformers", "feature-extraction", "bge-m3", "sparse", "colbert"]
ELSEWHERE: Final = ("model", "data", "out", "resume", "phase", "phases")
"""Settings that the card has in its text and tables."""
STAGES: Final = {
    FinetuneConfig: "Stage 2 of M3-Embedding: fine-tuned for dense, sparse and multi-vector retrieval.",
    PretrainConfig: (
        "Stage 1 of M3-Embedding: trained on pairs of texts with the dense score, the other pairs as negatives."
    ),
    DistillConfig: "Distilled: trained to give the vectors of a teacher.",
    RetroMAEConfig: "Stage 0 of M3-Embedding: RetroMAE on plain text. A base for stages 1 and 2, not for retrieval.",
}


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
        if picture:
            shutil.copyfile(picture, checkpoint / picture.name)
        data = ModelCardData(base_model=_name(config.model), library_name="sentence-transformers", tags=TAGS)
        stopped = outcome.stopped if checkpoint == outcome.checkpoint else ""
        values = _values(config, checkpoint) | {"stopped": stopped, "picture": picture.name if picture else ""}
        ModelCard.from_template(data, template_path=str(TEMPLATE), **values).save(checkpoint / "README.md")


def _values(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    """What the template names."""
    position = json.loads((checkpoint / STATE / "trainer.json").read_text(encoding="utf-8"))["position"]
    step = position["step"]
    log = read_log(config.out, last=step)
    done = {name: lines.stop - lines.start for name, lines in log.phases}
    is_base = isinstance(config, RetroMAEConfig)
    if isinstance(config, FinetuneConfig):
        planned = list(config.phases)
    else:
        assert isinstance(config, (PretrainConfig, RetroMAEConfig, DistillConfig))
        only = {RetroMAEConfig: "retromae", PretrainConfig: "pretrain", DistillConfig: "distill"}[type(config)]
        planned = [(only, config.phase)]
    trained = {part for name, phase in planned if done.get(name) and not is_base for part in phase.train}
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    head = torch.load(checkpoint / COLBERT_FILE, map_location="cpu", weights_only=True)
    values = {
        "name": _name(config.out),
        "base": _name(config.model),
        "stage": STAGES[type(config)],
        "config": config,
        "step": step,
        "tokens": position["tokens"],
        "minutes": log.columns["seconds"].sum() / 60,
        "shape": shape,
        "colbert_dim": len(head["weight"]),
        "max_length": shape["max_position_embeddings"] - POSITION_OFFSET,
        "untrained": [head for head in ("sparse", "multi_vector") if head not in trained],
        "processes": len(list((checkpoint / STATE).glob("random-*.safetensors"))),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "phases": [_phase(config, name, phase, done.get(name, 0)) for name, phase in planned],
        "files": [(_name(path), path.stat().st_size if path.is_file() else 0) for path in config.data],
        "settings": [(f"`{n}`", value) for n, value in _settings(config) if n.split(".")[0] not in ELSEWHERE],
        "is_base": is_base,
    }
    if isinstance(config, ContrastiveConfig):
        values["collections"] = ", ".join(f"`{_name(place)}`" for place in config.watch.data)
        values["evaluations"] = list(_evaluations(config, step))
    if log.phases:
        count = len(log.columns["step"])
        first = max(count - math.ceil(END * count), log.phases[-1][1].start)  # phases have nothing in common
        names = sorted(set(log.columns) - {"step", "seconds", "learning_rate"})
        ends = [(name, log.columns[name][first:]) for name in names]
        values["measures"] = [(f"`{n}`", f"{np.nanmean(end):,.6g}") for n, end in ends if np.isfinite(end).any()]
        values["last_steps"] = count - first
    return values


def _evaluations(config: ContrastiveConfig, step: int) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The last and the best evaluation until a step: notes, measures, a row for each mode."""
    entries = [entry for entry in read_lines(config.out / "evaluations.jsonl") if entry["step"] <= step]
    if entries:
        best = max(entries, key=lambda entry: float(entry["value"]))
        for entry in entries[-1:] if best is entries[-1] else [entries[-1], best]:
            notes = [f"step {entry['step']:,}", *["this checkpoint"] * (entry["step"] == step)]
            notes += [f"the best so far by {config.watch.metric}"] * (entry is best)
            rows = [[mode, *(f"{value:.4f}" for value in found.values())] for mode, found in entry["mean"].items()]
            yield ", ".join(notes), list(next(iter(entry["mean"].values()))), rows


def _phase(config: RunConfig, name: str, phase: Phase, done: int) -> list[str]:
    """A line of the table of phases."""
    encoder: list[str] = [part for part in phase.train if part in ("embeddings", "encoder")]
    heads: list[str] = [part for part in phase.train if part not in encoder]
    losses = [*phase.losses, *["combined"] * (len(phase.losses) > 1), *["self-distillation"] * phase.self_distill]
    if isinstance(config, RetroMAEConfig):
        encoder, heads, losses = [*encoder, "decoder", "MLM head"], [], ["MLM", "decoder"]
    elif isinstance(config, ContrastiveConfig) and config.lora.rank and encoder:
        encoder = ["adapters (LoRA)"]
    elif isinstance(config, DistillConfig):
        encoder = ["corrections of 4-bit blocks"] if config.export_precision == "int4" and encoder else encoder
        losses = ["dense", "sparse", "multi_vector"]
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


def _name(path: str | Path) -> str:
    return Path(os.path.abspath(path)).name
