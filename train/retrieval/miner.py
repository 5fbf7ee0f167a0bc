"""One pool of passages, encoded, and the negatives that it has for blocks of rows.

Legend: Q rows of a block, k passages of each. A row's own passages are encoded with the block, whether or not they are
in the pool, so that their scores are exact in every mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.protocol import Part
from m3_vdb.types import Document, FloatArray, M3Embeddings
from train.retrieval.choose import Choice, Found, Lookup, choose, score_limit
from train.retrieval.corpus import Corpus, digest
from train.retrieval.encoder import Encoder
from train.retrieval.exact import weighted
from train.retrieval.options import MineOptions, Report, silent
from train.retrieval.rows import Known, MiningRow
from train.retrieval.search import Index, rank
from train.retrieval.shards import Shards, encode_corpus, make_shard

SCORE_DIGITS: Final = 6
"""Digits of a written score: float32 has no more."""


@dataclass(frozen=True, slots=True)
class Mined:
    """What a row gets.

    Attributes:
        fields: ``neg``, ``neg_scores``, ``pos_scores``, and ``neg_ids`` if every negative has an id.
        dropped: candidates that scored too close to a positive.
    """

    fields: dict[str, Any]
    dropped: int


class Miner:
    """A pool that rows can be mined from.

    Args:
        encoder: the model.
        corpus: the pool; it is encoded now.
        options: what to search and choose.
        report: told about progress.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Corpus,
        options: MineOptions,
        *,
        report: Report = silent,
    ) -> None:
        self._encoder, self._corpus, self._options = encoder, corpus, options
        self._parts = options.parts_of({*options.modes, options.score})
        self._lookup = Lookup(corpus)
        shards = encode_corpus(
            encoder,
            corpus,
            parts=self._parts,
            max_length=options.passage_max_length,
            shard_size=options.shard_size,
            work=options.work,
            report=report,
        )
        self._index = Index(shards, factory=options.index)

    def mine(self, rows: Sequence[MiningRow], known: Sequence[Known]) -> list[Mined]:
        """The negatives of a block of rows; ``known`` says what is relevant to each."""
        block = [_Row(row, one, self._kept(row, one)) for row, one in zip(rows, known, strict=True)]
        queries = self._encode([row.query for row in rows], self._options.query_max_length)
        own = self._score_own(queries, block)
        choices = self._choose(queries, block, own.lowest)
        table = _table([choice.rows for choice in choices])
        scores = _lists(self._final(self._index.scores(queries, table, self._parts)))
        return [
            self._mined(one.kept, choice, own.positives[i], own.kept[i] + scores[i])
            for i, (choice, one) in enumerate(zip(choices, block, strict=True))
        ]

    def _kept(self, row: MiningRow, known: Known) -> list[Document]:
        """The row's own negatives that stay: what another row calls relevant to the same query does not."""
        own = row.negative_passages() if self._options.keep_existing else []
        return [one for one in own if digest(one.text) not in known.digests and one.id not in known.ids]

    def _score_own(self, queries: M3Embeddings, block: Sequence[_Row]) -> _Own:
        positives = [one.row.positives for one in block]
        negatives = [tuple(passage.text for passage in one.kept) for one in block]
        texts = list(dict.fromkeys(text for group in (*positives, *negatives) for text in group))
        place = {text: i for i, text in enumerate(texts)}
        index = Index(Shards([make_shard(self._encode(texts, self._options.passage_max_length))]))
        positive, negative = (_table([[place[t] for t in group] for group in part]) for part in (positives, negatives))
        kept = index.scores(queries, negative, self._parts)
        scores = index.scores(queries, positive, self._parts)
        lowest = {
            mode: np.where(positive >= 0, scores[mode], np.inf).min(axis=1).tolist() for mode in self._options.modes
        }
        return _Own(_lists(self._final(scores)), _lists(self._final(kept)), lowest)

    def _final(self, scores: Mapping[Part, FloatArray]) -> FloatArray:
        return weighted(scores, self._options.weights_of(self._options.score))

    def _choose(
        self, queries: M3Embeddings, block: Sequence[_Row], lowest: Mapping[Part, Sequence[float]]
    ) -> list[Choice]:
        options = self._options
        skipped = [
            self._lookup.rows_of(one.known.digests | {digest(passage.text) for passage in one.kept}, one.known.ids)
            for one in block
        ]
        depth = options.last + max(map(len, skipped))
        rankings = rank(self._index, queries, options.modes, options, depth=depth, rerank=depth)
        choices = []
        for i, one in enumerate(block):
            # A positive without a common token says nothing about passages that have one.
            limits = {mode: score_limit(lowest[mode][i], options) for mode in options.modes}
            found = [
                Found(*rankings[mode].hits(i), limit) for mode, limit in limits.items() if mode != "sparse" or limit > 0
            ]
            wanted = options.negatives - len(one.kept)
            choices.append(
                choose(found, self._corpus, skipped=skipped[i], key=one.row.key, wanted=wanted, options=options)
            )
        return choices

    def _mined(self, kept: Sequence[Document], choice: Choice, positives: list[float], negatives: list[float]) -> Mined:
        passages = [*kept, *(self._corpus[row] for row in choice.rows)]
        fields: dict[str, Any] = {"neg": [passage.content for passage in passages]}
        if passages and all(passage.id for passage in passages):
            fields["neg_ids"] = [passage.id for passage in passages]
        return Mined(fields | {"pos_scores": positives, "neg_scores": negatives}, choice.dropped)

    def _encode(self, texts: Sequence[str], max_length: int) -> M3Embeddings:
        return self._encoder.encode(texts, max_length=max_length, parts=self._parts)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, what is relevant to it, and which of its own negatives stay."""

    row: MiningRow
    known: Known
    kept: list[Document]


@dataclass(frozen=True, slots=True)
class _Own:
    """Scores of the rows' own passages: of each row in the mode ``score``, and its lowest positive in each mode."""

    positives: list[list[float]]
    kept: list[list[float]]
    lowest: dict[Part, list[float]]


def _table(groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Ragged passage numbers as int64 [Q, k], −1 for none."""
    table = np.full((len(groups), max(map(len, groups))), -1, dtype=np.int64)
    for i, group in enumerate(groups):
        table[i, : len(group)] = group
    return table


def _lists(scores: FloatArray) -> list[list[float]]:
    """Scores as they are written, without the padding of a table."""
    return [[round(score, SCORE_DIGITS) for score in row[np.isfinite(row)].tolist()] for row in scores]
