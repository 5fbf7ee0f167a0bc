"""Hard negatives: what a model ranks high for a query and nobody has called relevant.

Candidates come from a window of ranks of each mode, after everything known to be relevant is removed; those that score
about as high as the positive are dropped as probably relevant, too. What is chosen depends on model, row and pool
alone, not on the order of rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from train.model import M3Model
from train.retrieval.config import MineConfig
from train.retrieval.corpus import Corpus
from train.retrieval.encoder import Encoder, TorchEncoder, load
from train.retrieval.miner import Mined, Miner
from train.retrieval.options import MineOptions, Report, silent
from train.retrieval.rows import MiningRow, known_positives, parse_row, pool, read_rows, write_rows

BLOCK: Final = 1024
"""Rows that are searched together; their queries and own passages are in memory with all their vectors."""


@dataclass(frozen=True, slots=True)
class MineReport:
    """What mining did.

    Attributes:
        rows: rows read and written.
        negatives: negatives written, kept ones included.
        short_rows: rows with fewer negatives than wanted.
        empty_rows: rows with no negative at all; a trainer cannot use them as they are.
        dropped: candidates that scored too close to a positive.
        positive_mean: mean score of the positives, in the mode ``score``.
        negative_mean: mean score of the negatives; NaN if there are none.
    """

    rows: int
    negatives: int
    short_rows: int
    empty_rows: int
    dropped: int
    positive_mean: float
    negative_mean: float


def mine(config: MineConfig, *, report: Report) -> MineReport:
    """Mine negatives for JSONL files and write the rows, with all their other fields, to a new file.

    Args:
        config: model, files and options.
        report: told about progress.

    Raises:
        ConfigError: ``out`` exists, or a file cannot be read.
        DocumentError: a row or a passage is malformed; file and line are in the message.
        BundleError: the checkpoint is incomplete.
    """
    if config.out.exists():
        raise ConfigError(f"{config.out} exists: give a new file, or remove it")
    rows = read_rows(config.data)
    corpus = None if config.corpus is None else Corpus.read(config.corpus)
    model, tokenizer = load(config.model, device=config.device)
    mined, done = mine_rows(model, tokenizer, rows, config, corpus=corpus, report=report)
    write_rows(mined, config.out)
    report(
        f"{config.out}: {done.rows:,} rows, {done.negatives:,} negatives; {done.short_rows:,} rows have fewer than "
        f"{config.negatives}, {done.empty_rows:,} none; {done.dropped:,} candidates were too close to a positive; "
        f"mean score of positives {done.positive_mean:.3f}, of negatives {done.negative_mean:.3f}"
    )
    return done


def mine_rows(
    model: M3Model,
    tokenizer: Tokenizer,
    rows: Sequence[Mapping[str, Any]],
    options: MineOptions,
    *,
    corpus: Corpus | None = None,
    report: Report = silent,
) -> tuple[list[dict[str, Any]], MineReport]:
    """Mine negatives with a loaded model, as a trainer does between two epochs.

    Args:
        model: on any device and in any mode, which it keeps.
        tokenizer: the checkpoint's.
        rows: JSON objects ``{"query", "pos", "neg"?, …}``.
        options: what to search and choose.
        corpus: passages to mine from; None takes all passages of the rows, a pool for each data set.
        report: told about progress.

    Returns:
        The rows in their order, each with all its fields and new ``neg``, ``neg_scores`` and ``pos_scores``, and
        ``neg_ids`` where all negatives have an id.

    Raises:
        DocumentError: a row is malformed; ``index`` names it.
    """
    encoder = TorchEncoder(model, tokenizer, dtype=options.dtype, batch_tokens=options.batch_tokens)
    return mine_with(encoder, rows, options, corpus=corpus, report=report)


def mine_with(
    encoder: Encoder,
    rows: Sequence[Mapping[str, Any]],
    options: MineOptions,
    *,
    corpus: Corpus | None = None,
    report: Report = silent,
) -> tuple[list[dict[str, Any]], MineReport]:
    """``mine_rows`` with any encoder."""
    parsed = [parse_row(fields, where=f"row {i}", index=i) for i, fields in enumerate(rows)]
    known = known_positives(parsed)
    mined: dict[int, Mined] = {}
    for name, members in _pools(parsed, shared=corpus is not None):
        passages = pool(parsed[i] for i in members) if corpus is None else corpus
        report(f"{name}: {len(members):,} rows, {len(passages):,} passages")
        miner = Miner(encoder, passages, options, report=report)
        members.sort(key=lambda i: parsed[i].key)  # the same blocks, thus the same roundings, in any order of rows
        for start in range(0, len(members), BLOCK):
            block = members[start : start + BLOCK]
            found = miner.mine([parsed[i] for i in block], [known[parsed[i].query.strip()] for i in block])
            mined.update(zip(block, found, strict=True))
            report(f"{name}: mined {start + len(block):,} of {len(members):,} rows")
    written = [
        {key: value for key, value in fields.items() if key != "neg_ids"} | mined[i].fields
        for i, fields in enumerate(rows)
    ]
    return written, _summary(written, sum(one.dropped for one in mined.values()), options)


def _pools(rows: Sequence[MiningRow], *, shared: bool) -> list[tuple[str, list[int]]]:
    """(name, row numbers) of what is mined from one pool."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members["corpus" if shared else row.dataset].append(i)
    return sorted(members.items())


def _summary(rows: Sequence[Mapping[str, Any]], dropped: int, options: MineOptions) -> MineReport:
    counts = [len(row["neg"]) for row in rows]
    positives, negatives = ([score for row in rows for score in row[key]] for key in ("pos_scores", "neg_scores"))
    return MineReport(
        rows=len(rows),
        negatives=sum(counts),
        short_rows=sum(count < options.negatives for count in counts),
        empty_rows=counts.count(0),
        dropped=dropped,
        positive_mean=fmean(positives) if positives else math.nan,
        negative_mean=fmean(negatives) if negatives else math.nan,
    )
