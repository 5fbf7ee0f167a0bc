"""What happens at checkpoints of stages 1 and 2: evaluation with choice of the best, and fresh hard negatives.

Both read the checkpoint that was just written, in the main process, so what is measured is what is saved, whatever the
model's shards or adapters. Both leave their results in files and find them again, so a resumed run repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3_vdb.encoding.tokenizer import Tokenizer
from train.config import FinetuneConfig, Refresh, RunConfig, Watch
from train.contrastive.task import ContrastiveTask
from train.data.store import RowStore
from train.engine.open import pick_attention
from train.engine.plot import read_lines
from train.engine.processes import Processes
from train.engine.task import Hook
from train.model import M3Model
from train.retrieval.corpus import Corpus
from train.retrieval.evaluate import evaluate_model
from train.retrieval.mine import mine_rows
from train.retrieval.rows import read_rows, write_rows

Say = Callable[[str], None]


def watch_hook(watch: Watch, config: RunConfig, processes: Processes, say: Say) -> Hook:
    """Evaluate every ``watch.every`` steps: ``evaluations.jsonl`` and the name of the best checkpoint, ``best.txt``."""
    path = config.out / "evaluations.jsonl"

    def run(checkpoint: Path, step: int) -> None:
        if all(entry["step"] != step for entry in read_evaluations(path)):
            model, tokenizer = _load(checkpoint, config, processes)
            result = evaluate_model(model, tokenizer, watch.data, watch.options)
            mode, measure = watch.metric.split("/", 1)
            entry = {"step": step, "value": result.mean[mode][measure], "mean": asdict(result)["mean"]}  # type: ignore[index]
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            say(f"step {step}: {watch.metric} {entry['value']:.4f}")
        best = max(read_evaluations(path), key=lambda entry: float(entry["value"]))
        (config.out / "best.txt").write_text(f"step-{best['step']:06d}\n", encoding="utf-8")

    def adopt(step: int) -> bool:
        values = [float(entry["value"]) for entry in read_evaluations(path) if entry["step"] <= step]
        since_best = len(values) - 1 - values.index(max(values))
        return bool(watch.patience) and since_best >= watch.patience

    return Hook("watch", watch.every, run, adopt)


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """Entries {"step", "value", "mean"} so far; a torn line does not count."""
    return list(read_lines(path))


def refresh_hook(
    refresh: Refresh,
    config: FinetuneConfig,
    task: ContrastiveTask,
    open_rows: Callable[[list[Path]], RowStore],
    processes: Processes,
    say: Say,
) -> Hook:
    """Mine new negatives every ``refresh.every`` steps into ``negatives/step-N.jsonl`` and begin an epoch with them."""

    def run(checkpoint: Path, step: int) -> None:
        path = negatives_path(config.out, step)
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            model, tokenizer = _load(checkpoint, config, processes)
            corpus = Corpus.read(refresh.corpus) if refresh.corpus else None
            rows, done = mine_rows(model, tokenizer, read_rows(config.data), refresh.options, corpus=corpus)
            write_rows(rows, path)
            say(f"step {step}: {done.negatives} new negatives, {done.dropped} candidates too close to a positive")

    def adopt(step: int) -> bool:
        task.use_rows(open_rows([negatives_path(config.out, step)]), epoch=task.sampler.epoch + 1)
        return False

    return Hook("refresh", refresh.every, run, adopt)


def negatives_path(out: Path, step: int) -> Path:
    """Where the rows that were mined at a step are."""
    return out / "negatives" / f"step-{step:06d}.jsonl"


def rows_before(config: FinetuneConfig, step: int) -> list[Path]:
    """The rows that a run trains on when it arrives at a step: those of the last refresh before it, or its own."""
    if config.refresh.every:
        last = (step - 1) // config.refresh.every * config.refresh.every
        if last > 0:
            return [negatives_path(config.out, last)]
    return config.data


def _load(checkpoint: Path, config: RunConfig, processes: Processes) -> tuple[M3Model, Tokenizer]:
    attention = pick_attention(config, config.passage_max_length, processes)
    model = M3Model.load(checkpoint, attention=attention).to(processes.device)
    return model, Tokenizer.from_file(checkpoint / "tokenizer.json")
