"""Training rows and short runs on the session's tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from train.finetune import FinetuneConfig, StepReport, finetune
from train.model import M3Model

TOPICS = ("vector search", "der die das", "une recherche", "как поиск", "数据库", "score model", "hello world", "か な")
FAST = FinetuneConfig(
    batch_size=6,
    group_size=3,
    query_max_length=16,
    passage_max_length=24,
    max_steps=8,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
    dtype="float32",
)


def write_rows(path: Path, *, seed: int = 0) -> Path:
    """24 rows: a query shares its topic words with the positive and with no negative."""
    rng = np.random.default_rng(seed)
    filler = ["the", "a", "of", "to", "and", "one", "index", "text", "document"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(24):
            topics = [TOPICS[(i + k) % len(TOPICS)] for k in range(4)]
            words = [" ".join([*rng.choice(filler, 4), topic, str(i)]) for topic in topics]
            row = {"query": f"{topics[0]} {i}", "pos": words[:1], "neg": words[1:]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def run(checkpoint: Path, folder: Path, config: FinetuneConfig = FAST) -> list[StepReport]:
    """Train into ``folder / "out"``; the reports of all steps."""
    folder.mkdir(exist_ok=True)
    reports: list[StepReport] = []
    finetune(checkpoint, write_rows(folder / "rows.jsonl"), folder / "out", config, report=reports.append)
    return reports


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every parameter of a checkpoint."""
    return M3Model.load(checkpoint).state_dict()
