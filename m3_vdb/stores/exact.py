"""The exact engine: full scans of packed embeddings for many queries at a time, in memory or mapped from files.

``MemoryStore`` is documents and filters around one block of it; training mines and evaluates with it over corpora that
may be larger than memory. ``m3_vdb.scoring`` defines the scores. Legend: Q queries, k results per query, n passages in
a block, d dense width, m multi-vector width, N rows of a query's multi-vector, T distinct token ids, nnz lexical
weights. Passages are numbers from 0; −1 is no passage, and its score is −∞. Equal scores rank by number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.stores.options import DENSE, SPARSE
from m3_vdb.types import FloatArray, IntArray, M3Embedding, M3Embeddings, OffsetArray, SparseVector

SCORES_AT_ONCE: Final = 1 << 24
"""Scores of a scan that are in memory together: 64 MiB."""
ROWS_AT_ONCE: Final = 1 << 15
"""Multi-vector rows that are compared together: 128 MiB at 1024 wide. One longer passage is compared alone."""
ABOUT: Final = "shard.json"


@dataclass(frozen=True, slots=True)
class Block:
    """The embeddings of passages first … first + count − 1; a part that they lack is None.

    Attributes:
        first: number of the first passage.
        count: n.
        dense: float32 [n, d], unit rows.
        terms: int32 [T], token ids, ascending.
        term_offsets: int64 [T + 1], where a token id's passages begin.
        term_rows: int32 [nnz], passages of each token id, from 0 within the block, ascending.
        term_weights: float32 [nnz].
        multi_vector: float32 or float16 [rows, m], unit rows.
        multi_vector_offsets: int64 [n + 1].
    """

    first: int
    count: int
    dense: FloatArray | None = None
    terms: IntArray | None = None
    term_offsets: OffsetArray | None = None
    term_rows: IntArray | None = None
    term_weights: FloatArray | None = None
    multi_vector: NDArray[np.floating[Any]] | None = None
    multi_vector_offsets: OffsetArray | None = None

    @classmethod
    def of(cls, embeddings: M3Embeddings, *, first: int = 0, half: bool = False) -> Block:
        """A block of embeddings; ``half`` keeps multi-vectors as float16, which moves a score by about 1e-4."""
        arrays: dict[str, Any] = {}
        if embeddings.sparse_ids is not None:
            weights, ids, offsets = embeddings.sparse_csr()
            order = np.argsort(ids, kind="stable")
            passages = np.repeat(np.arange(len(embeddings), dtype=np.int32), np.diff(offsets))
            terms, starts = np.unique(ids[order], return_index=True)
            arrays = {
                "terms": terms,
                "term_offsets": np.append(starts, len(ids)).astype(np.int64),
                "term_rows": passages[order],
                "term_weights": weights[order],
            }
        if embeddings.multi_vector is not None:
            arrays["multi_vector"] = embeddings.multi_vector.astype(np.float16 if half else np.float32, copy=False)
            arrays["multi_vector_offsets"] = embeddings.multi_vector_offsets
        return cls(first, len(embeddings), embeddings.dense, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Block:
        """A block that ``save`` wrote, mapped into memory."""
        about: dict[str, int] = json.loads((folder / ABOUT).read_text())
        arrays: dict[str, Any] = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        return cls(about["first"], about["count"], **arrays)

    def save(self, folder: Path) -> None:
        """Write the block completely or not at all; two processes that write the same one write the same bytes."""
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            if isinstance(value, np.ndarray):
                np.save(partial / f"{name}.npy", value)
        (partial / ABOUT).write_text(json.dumps({"first": self.first, "count": self.count}) + "\n")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(partial)  # another process was first

    def all_scores(self, part: str, queries: M3Embeddings) -> Iterator[FloatArray]:
        """Dense or lexical scores of every passage, float32 [n] for each query; 0 without a common token."""
        if part == DENSE:
            assert queries.dense is not None
            assert self.dense is not None
            step = max(1, SCORES_AT_ONCE // max(1, self.count))
            for start in range(0, len(queries), step):
                yield from queries.dense[start : start + step] @ self.dense.T
        else:
            yield from (self.lexical_scores(query.sparse) for query in queries if query.sparse is not None)

    def lexical_scores(self, query: SparseVector) -> FloatArray:
        """s_lex of one query and every passage: float32 [n], 0 without a common token."""
        assert self.term_rows is not None
        assert self.term_weights is not None
        spans = self.spans(query.ids)
        if not spans:
            return np.zeros(self.count, dtype=np.float32)
        products = [self.term_weights[span] * weight for span, weight in zip(spans, query.weights, strict=True)]
        passages = np.concatenate([self.term_rows[span] for span in spans])
        return np.bincount(passages, np.concatenate(products), minlength=self.count).astype(np.float32)

    def spans(self, ids: IntArray) -> list[slice]:
        """Where the passages of each token id are; empty for one that no passage has."""
        assert self.terms is not None
        assert self.term_offsets is not None
        first, last = (np.searchsorted(self.terms, ids, side) for side in ("left", "right"))
        return [slice(self.term_offsets[i], self.term_offsets[j]) for i, j in zip(first, last, strict=True)]

    def pair_scores(self, part: str, query: M3Embedding, rows: NDArray[np.int64]) -> FloatArray:
        """One raw score of a query and each of k passages, which are numbers from 0 within the block: float32 [k]."""
        if part == DENSE:
            assert query.dense is not None
            assert self.dense is not None
            # Unlike a product with a matrix, this rounds alike in every row: equal passages have equal scores.
            products: FloatArray = np.einsum("kd,d->k", self.dense[rows], query.dense)
            return products
        if part == SPARSE:
            assert query.sparse is not None
            return self.lexical_scores(query.sparse)[rows]
        assert query.multi_vector is not None
        return self._multi_vector_scores(query.multi_vector, rows)

    def _multi_vector_scores(self, query: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        """The mean over the query's rows [N, m] of the best passage row: float32 [k]."""
        assert self.multi_vector is not None
        assert self.multi_vector_offsets is not None
        offsets = self.multi_vector_offsets
        scores = np.zeros(len(rows), dtype=np.float32)
        for some in _groups(offsets[rows + 1] - offsets[rows]):
            spans = [slice(offsets[row], offsets[row + 1]) for row in rows[some]]
            vectors = np.concatenate([self.multi_vector[span] for span in spans]).astype(np.float32, copy=False)
            starts = np.cumsum([0] + [span.stop - span.start for span in spans[:-1]])
            # No passage is without rows (``</s>`` is kept), so every segment of the reduction is one passage.
            scores[some] = np.maximum.reduceat(vectors @ query.T, starts, axis=0).mean(axis=1)
        return scores


@dataclass(frozen=True, slots=True)
class Ranking:
    """Results of Q queries, best first.

    Attributes:
        rows: int64 [Q, k], passages; −1 where a query has fewer results.
        scores: float32 [Q, k]; −∞ where a query has fewer results.
    """

    rows: NDArray[np.int64]
    scores: FloatArray

    @classmethod
    def of(cls, rows: NDArray[np.int64], scores: FloatArray, k: int) -> Ranking:
        """The k best of candidates, each [Q, any]; candidates without a score are not results."""
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        return cls(np.where(np.isneginf(scores), -1, np.take_along_axis(rows, order, axis=1)), scores)

    def hits(self, query: int) -> tuple[NDArray[np.int64], FloatArray]:
        """(rows, scores) of one query, without padding."""
        found = self.rows[query] >= 0
        return self.rows[query, found], self.scores[query, found]


class ExactIndex:
    """Passages that can be searched and scored exactly.

    Args:
        blocks: in the order of their passages, each a block or the folder of one. Folders are mapped one at a time, so
            memory holds one block of them and the scores of a scan, however many there are.
    """

    def __init__(self, blocks: Sequence[Block | Path]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[Block]:
        return (one if isinstance(one, Block) else Block.load(one) for one in self._blocks)

    def best(self, part: str, queries: M3Embeddings, k: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The k best passages by the dense or the lexical score, the latter of those that share a token with the query.

        Args:
            part: "dense" or "sparse".
            queries: Q queries with that part.
            k: results per query, at most.
            allowed: bool, one per passage: results are among these; None allows all.
        """
        best = Ranking(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
        floor = 0.0 if part == SPARSE else -np.inf
        for block in self:
            rows = np.full((len(queries), min(k, block.count)), -1, dtype=np.int64)
            scores = np.full(rows.shape, -np.inf, dtype=np.float32)
            for i, every in enumerate(block.all_scores(part, queries)):
                if allowed is not None:
                    every[~allowed[block.first : block.first + block.count]] = -np.inf
                top = best_rows(every, k, floor)
                rows[i, : len(top)], scores[i, : len(top)] = top + block.first, every[top]
            best = Ranking.of(np.hstack([best.rows, rows]), np.hstack([best.scores, scores]), k)
        return best

    def scores(self, queries: M3Embeddings, rows: NDArray[np.int64], parts: Collection[str]) -> dict[str, FloatArray]:
        """The raw scores of chosen pairs.

        Args:
            queries: Q queries with these parts.
            rows: int64 [Q, k], passages.
            parts: scores to compute.

        Returns:
            part → float32 [Q, k].
        """
        scores: dict[str, FloatArray] = {part: np.full(rows.shape, -np.inf, dtype=np.float32) for part in parts}
        for block in self:
            inside = (rows >= block.first) & (rows < block.first + block.count)
            for i in np.flatnonzero(inside.any(axis=1)):
                query, local = queries[int(i)], rows[i, inside[i]] - block.first
                for part in parts:
                    scores[part][i, inside[i]] = block.pair_scores(part, query, local)
        return scores


def best_rows(scores: FloatArray, k: int, floor: float) -> NDArray[np.intp]:
    """The k best of the scores above ``floor``, in no order; of equal ones the first."""
    found = np.flatnonzero(scores > floor)
    if len(found) <= k:
        return found
    values = scores[found]
    edge = np.partition(values, -k)[-k]
    above, equal = found[values > edge], found[values == edge]
    return np.concatenate([above, equal[: k - len(above)]])


def _groups(lengths: OffsetArray) -> Iterator[slice]:
    """Consecutive passages of at most ``ROWS_AT_ONCE`` rows together."""
    start = total = 0
    for i, length in enumerate(lengths):
        if total + length > ROWS_AT_ONCE and i > start:
            yield slice(start, i)
            start, total = i, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
