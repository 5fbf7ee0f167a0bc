"""``python -m train pretrain`` (stage 1) and ``finetune`` (stage 2) as functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from train.checkpoint_files import read_tokenizer
from train.config import ContrastiveConfig, FinetuneConfig, Phase, PretrainConfig
from train.contrastive.draw import Draw
from train.contrastive.hooks import refresh_hook, rows_before, watch_hook
from train.contrastive.task import ContrastiveTask
from train.data.store import Lengths, RowStore
from train.engine.fit import fastest_micro_tokens
from train.engine.loop import Loop, Outcome, Report, open_run
from train.engine.open import note_rejected, pick_attention, start_processes
from train.model import M3Model
from train.words import word_starts

Warn = Callable[[str], None]


def finetune(config: FinetuneConfig, *, report: Report, warn: Warn) -> Outcome:
    """Train all heads on rows with hard negatives.

    Raises:
        BundleError: the checkpoint is incomplete.
        DocumentError: a row is malformed.
        ConfigError: settings, files or directories do not fit together.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    draw = Draw(config.group_size, config.seed)
    return _train(config, draw, list(config.phases), report=report, warn=warn)


def pretrain(config: PretrainConfig, *, report: Report, warn: Warn) -> Outcome:
    """Train the dense score on pairs; raises as ``finetune``."""
    starts = word_starts(read_tokenizer(config.model)) if config.shuffle else None
    draw = Draw(1, config.seed, config.shuffle, starts)
    return _train(config, draw, [("pretrain", config.phase)], report=report, warn=warn)


def _train(
    config: ContrastiveConfig, draw: Draw, phases: list[tuple[str, Phase]], *, report: Report, warn: Warn
) -> Outcome:
    tokenizer_json = read_tokenizer(config.model)
    processes = start_processes(config)
    resume_from = open_run(config, processes)
    longest = max(config.query_max_length, config.passage_max_length)
    model = M3Model.load(config.model, attention=pick_attention(config, longest, processes))
    lengths = Lengths(*(min(n, model.max_length) for n in (config.query_max_length, config.passage_max_length)))

    def open_rows(files: list[Path]) -> RowStore:
        with processes.first():
            return RowStore(
                files,
                tokenizer_json,
                lengths,
                on_bad_row=config.on_bad_row if files == config.data else "skip",  # mining may find nothing for a row
                need_negatives=draw.group_size > 1,
                workers=config.workers,
            )

    files = config.data
    if isinstance(config, FinetuneConfig) and resume_from:
        files = rows_before(config, int(resume_from.name.removeprefix("step-")))
    store = open_rows(files)
    if processes.main:
        note_rejected(store, config.out, warn)
    torch.manual_seed(config.seed)  # adapters begin at random
    task = ContrastiveTask(config, model, tokenizer_json, store, draw, phases, processes)
    if config.watch.data:
        task.hooks.append(watch_hook(config.watch, config, processes, warn))
    if isinstance(config, FinetuneConfig) and config.refresh.every:
        task.hooks.append(refresh_hook(config.refresh, config, task, open_rows, processes, warn))
    if not config.micro_tokens:
        task.micro_tokens = fastest_micro_tokens(model, longest=int(store.column("longest").max()), processes=processes)
    return Loop(task, config, processes, report=report, warn=warn).run(resume_from)
