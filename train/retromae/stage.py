"""``python -m train retromae`` (stage 0) as a function."""

from __future__ import annotations

from collections.abc import Callable

from train.checkpoint_files import read_tokenizer
from train.data.store import Lengths, RowStore
from train.engine.loop import Loop, Outcome, Report, open_run
from train.engine.open import note_rejected, pick_attention, start_processes
from train.model import M3Model
from train.retromae.config import RetroMAEConfig
from train.retromae.positions import extend_positions
from train.retromae.task import RetroMAETask


def retromae(config: RetroMAEConfig, *, report: Report, warn: Callable[[str], None]) -> Outcome:
    """Train encoder and decoder on plain text.

    Raises:
        BundleError: the checkpoint is incomplete.
        DocumentError: a line is malformed.
        ConfigError: settings, files or directories do not fit together.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    length = config.retromae.max_length
    tokenizer_json = read_tokenizer(config.model)
    processes = start_processes(config)
    resume_from = open_run(config, processes)
    base = M3Model.load(config.model, attention=pick_attention(config, length, processes))
    extend_positions(base.encoder, length, how=config.retromae.positions)
    with processes.first():
        store = RowStore(
            config.data,
            tokenizer_json,
            Lengths(length, length),
            on_bad_row=config.on_bad_row,
            workers=config.workers,
            kind="texts",
        )
    if processes.main:
        note_rejected(store, config.out, warn)
    task = RetroMAETask(config, base, tokenizer_json, store, processes)
    return Loop(task, config, processes, report=report, warn=warn).run(resume_from)
