"""Training rows and short runs on the session's tiny checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.config import Batching, FinetuneConfig, Phase, Schedule
from train.contrastive.stages import contrastive
from train.engine.run import Outcome, StepReport
from train.model import M3Model

TOPICS = ("vector search", "der die das", "une recherche", "как поиск", "数据库", "score model", "hello world", "か な")
UNIFIED = Phase(
    steps=8,
    train=["encoder", "sparse", "multi_vector"],
    self_distill=True,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
)


def config(checkpoint: Path, folder: Path, **changes: Any) -> FinetuneConfig:
    """A run of eight unified steps into ``folder / "out"``."""
    base = FinetuneConfig(
        model=checkpoint,
        data=[write_rows(folder / "rows.jsonl")],
        out=folder / "out",
        device="cpu",
        precision="fp32",
        batching=Batching(tokens=0, rows=6),
        query_max_length=16,
        passage_max_length=24,
        group_size=3,
        phases=Schedule(unified=UNIFIED),
    )
    return replace(base, **changes)


def write_rows(path: Path, *, seed: int = 0, rows: int = 24, scores: bool = False) -> Path:
    """Rows whose query shares its topic words with the positive and with no negative; passages of unlike lengths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    filler = ["the", "a", "of", "to", "and", "one", "index", "text", "document"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            topics = [TOPICS[(i + k) % len(TOPICS)] for k in range(4)]
            words = [" ".join([*rng.choice(filler, 1 + (5 * i + 3 * k) % 13), t, str(i)]) for k, t in enumerate(topics)]
            row: dict[str, Any] = {"query": f"{topics[0]} {i}", "pos": words[:1], "neg": words[1:]}
            if scores:
                row |= {"pos_scores": [3.0], "neg_scores": [2.0, 0.5, -1.0]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def run(settings: FinetuneConfig) -> tuple[Outcome, list[StepReport], list[str]]:
    """(outcome, reports of all steps, warnings)."""
    reports: list[StepReport] = []
    warnings: list[str] = []
    outcome = contrastive(settings, report=reports.append, warn=warnings.append)
    return outcome, reports, warnings


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every parameter of a checkpoint."""
    return M3Model.load(checkpoint).state_dict()


def assert_same(first: Path, second: Path) -> None:
    """The same parameters, bit for bit."""
    expected, found = tensors(first), tensors(second)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
