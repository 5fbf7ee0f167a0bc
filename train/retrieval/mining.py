"""Hard negatives: passages that a model ranks high for a query and that no row labels as relevant.

Candidates come from a window of ranks of each mode, after everything known to be relevant is removed; those that score
about as high as the positive are dropped as probably relevant, too. What is chosen depends on model, row and pool
alone, not on the order of rows. A row's own passages are encoded with its block of rows, whether or not they are in the
pool, so that their scores are exact in every mode. Legend: Q rows of a block, k passages of each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import Mode, Request
from m3_vdb.stores.exact import Block, ExactIndex
from m3_vdb.types import Document, FloatArray, M3Embeddings
from train.retrieval.choose import Choice, Found, choose, score_limit
from train.retrieval.config import MineConfig, MineOptions, Report, no_report
from train.retrieval.data import (
    Corpus,
    Known,
    MiningRow,
    digest,
    known_positives,
    parse_row,
    pool,
    read_rows,
    write_rows,
)
from train.retrieval.index import encode, encode_passages, rank, weighted
from train.session import embedding_function, load

BLOCK: Final = 1024
"""Rows that are searched together; their queries and own passages are in memory with all their vectors."""
SCORE_DIGITS: Final = 6
"""Digits of a written score: float32 has no more."""


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
        report: called with lines about progress.

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
    embed = embedding_function(model, tokenizer, dtype=config.dtype, batch_tokens=config.batch_tokens)
    mined, done = mine_rows(embed, rows, config, corpus=corpus, report=report)
    write_rows(mined, config.out)
    report(
        f"{config.out}: {done.rows:,} rows, {done.negatives:,} negatives; {done.short_rows:,} rows have fewer than "
        f"{config.negatives}, {done.empty_rows:,} none; {done.dropped:,} candidates were too close to a positive; "
        f"mean score of positives {done.positive_mean:.3f}, of negatives {done.negative_mean:.3f}"
    )
    return done


def mine_rows(
    embed: M3EmbeddingFunction,
    rows: Sequence[Mapping[str, Any]],
    options: MineOptions,
    *,
    corpus: Corpus | None = None,
    report: Report = no_report,
) -> tuple[list[dict[str, Any]], MineReport]:
    """Mine negatives with a loaded model, as a trainer does between two epochs.

    Args:
        embed: the model, see ``train.session``.
        rows: JSON objects ``{"query", "pos", "neg"?, …}``.
        options: what to search and choose.
        corpus: passages to mine from; None takes all passages of the rows, a pool for each data set.
        report: called with lines about progress.

    Returns:
        The rows in their order, each with all its fields and new ``neg``, ``neg_scores`` and ``pos_scores``, and
        ``neg_ids`` where all negatives have an id.

    Raises:
        DocumentError: a row is malformed; ``index`` names it.
    """
    parsed = [parse_row(fields, where=f"row {i}", index=i) for i, fields in enumerate(rows)]
    known = known_positives(parsed)
    mined: dict[int, _Mined] = {}
    for name, members in _pools(parsed, shared=corpus is not None):
        passages = pool(parsed[i] for i in members) if corpus is None else corpus
        report(f"{name}: {len(members):,} rows, {len(passages):,} passages")
        miner = _Miner(embed, passages, options, report=report)
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


@dataclass(frozen=True, slots=True)
class _Mined:
    """What a row gets: its new fields, and how many candidates scored too close to a positive."""

    fields: dict[str, Any]
    dropped: int


class _Miner:
    """A pool of passages, encoded now, that rows can be mined from."""

    def __init__(self, embed: M3EmbeddingFunction, corpus: Corpus, options: MineOptions, *, report: Report) -> None:
        self._embed, self._corpus, self._options = embed, corpus, options
        self._parts = options.parts_of({*options.modes, options.score})
        self._weights = options.weights_of(options.score)
        self._index = encode_passages(embed, corpus, self._parts, options, report=report)

    def mine(self, rows: Sequence[MiningRow], known: Sequence[Known]) -> list[_Mined]:
        """The negatives of a block of rows; ``known`` says what is relevant to each."""
        kept = [self._kept(row, one) for row, one in zip(rows, known, strict=True)]
        queries = self._encode([row.query for row in rows], self._options.query_max_length)
        own = self._own_scores(queries, [(*row.positives, *stay) for row, stay in zip(rows, kept, strict=True)])
        choices = self._choose(queries, rows, known, kept, own)
        table = _table([choice.rows for choice in choices])
        new = self._index.scores(queries, table, self._parts)
        mined = []
        for row, stay, choice, *scores in zip(rows, kept, choices, self._final(own), self._final(new), strict=True):
            passages = [*stay, *(self._corpus[number] for number in choice.rows)]
            fields: dict[str, Any] = {"neg": [passage.content for passage in passages]}
            if passages and all(passage.id for passage in passages):
                fields["neg_ids"] = [passage.id for passage in passages]
            fields["pos_scores"] = scores[0][: len(row.positives)]
            fields["neg_scores"] = scores[0][len(row.positives) :] + scores[1]
            mined.append(_Mined(fields, choice.dropped))
        return mined

    def _kept(self, row: MiningRow, known: Known) -> list[Document]:
        """The row's own negatives that stay: what another row calls relevant to the same query does not."""
        own = row.negatives if self._options.keep_existing else ()
        return [one for one in own if digest(one.text) not in known.digests and one.id not in known.ids]

    def _own_scores(self, queries: M3Embeddings, passages: Sequence[Sequence[Document]]) -> dict[str, FloatArray]:
        """The scores of each row's own passages, each float32 [Q, k]."""
        texts = list(dict.fromkeys(passage.text for group in passages for passage in group))
        place = {text: i for i, text in enumerate(texts)}
        index = ExactIndex([Block.of(self._encode(texts, self._options.passage_max_length), half=True)])
        return index.scores(queries, _table([[place[one.text] for one in group] for group in passages]), self._parts)

    def _choose(
        self,
        queries: M3Embeddings,
        rows: Sequence[MiningRow],
        known: Sequence[Known],
        kept: Sequence[Sequence[Document]],
        own: Mapping[str, FloatArray],
    ) -> list[Choice]:
        options = self._options
        skipped = [
            self._corpus.rows_of(one.digests | {digest(passage.text) for passage in stay}, one.ids)
            for one, stay in zip(known, kept, strict=True)
        ]
        depth = options.last + max(map(len, skipped))
        requests: dict[Mode, Request] = {
            mode: options.request(mode, depth=depth, rerank=depth) for mode in options.modes
        }
        rankings = rank(self._index, queries, requests)
        choices = []
        for i, row in enumerate(rows):
            lowest = {mode: float(own[mode][i, : len(row.positives)].min()) for mode in options.modes}
            limits = {mode: score_limit(lowest[mode], options) for mode in options.modes}
            # A positive without a common token says nothing about passages that have one.
            found = [
                Found(*rankings[mode].hits(i), limit) for mode, limit in limits.items() if mode != "sparse" or limit > 0
            ]
            wanted = options.negatives - len(kept[i])
            choices.append(choose(found, self._corpus, skipped=skipped[i], key=row.key, wanted=wanted, options=options))
        return choices

    def _final(self, scores: Mapping[str, FloatArray]) -> list[list[float]]:
        """Scores as they are written, without the padding of a table."""
        total = weighted(scores, self._weights)
        return [[round(score, SCORE_DIGITS) for score in row[np.isfinite(row)].tolist()] for row in total]

    def _encode(self, texts: Sequence[str], max_length: int) -> M3Embeddings:
        return encode(self._embed, texts, max_length=max_length, parts=self._parts)


def _table(groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Ragged passage numbers as int64 [Q, k], −1 for none."""
    table = np.full((len(groups), max(map(len, groups))), -1, dtype=np.int64)
    for i, group in enumerate(groups):
        table[i, : len(group)] = group
    return table
