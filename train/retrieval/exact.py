"""The exact scores of chosen (query, passage) pairs over the shards of a corpus: ``m3_vdb.scoring``, many at a time.

Legend: Q queries, k passages of each, n passages of a shard, N and R rows of a query's and of the passages'
multi-vectors. Passages are corpus rows; −1 is no passage, and its score is −∞.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.protocol import PARTS, Part
from m3_vdb.types import FloatArray, M3Embedding, M3Embeddings, OffsetArray, SparseVector
from m3_vdb.weights import Weights
from train.retrieval.shards import Shard

BLOCK_ROWS: Final = 1 << 15
"""Multi-vector rows in float32 at once: 128 MiB at 1024 wide. One longer passage is a block of its own."""


def pair_scores(
    shards: Iterable[Shard], queries: M3Embeddings, rows: NDArray[np.int64], parts: Collection[Part]
) -> dict[Part, FloatArray]:
    """The raw scores of every pair.

    Args:
        shards: the corpus, with these parts.
        queries: Q queries, likewise.
        rows: int64 [Q, k], corpus rows.
        parts: scores to compute.

    Returns:
        part → float32 [Q, k].
    """
    scores: dict[Part, FloatArray] = {part: np.full(rows.shape, -np.inf, dtype=np.float32) for part in parts}
    for shard in shards:
        inside = (rows >= shard.first) & (rows < shard.first + shard.count)
        for i in np.flatnonzero(inside.any(axis=1)):
            query, local = queries[int(i)], rows[i, inside[i]] - shard.first
            for part in parts:
                scores[part][i, inside[i]] = _score(shard, query, local, part)
    return scores


def weighted(scores: Mapping[Part, FloatArray], weights: Weights) -> FloatArray:
    """s_hybrid (paper §3.2) of raw scores, each float32 [Q, k]; only those with a weight are needed."""
    terms = [np.float32(getattr(weights, part)) * scores[part] for part in PARTS if getattr(weights, part)]
    total: FloatArray = np.sum(terms, axis=0, dtype=np.float32)
    return total


def _score(shard: Shard, query: M3Embedding, rows: NDArray[np.int64], part: Part) -> FloatArray:
    if part == "dense":
        assert query.dense is not None
        assert shard.dense is not None
        return shard.dense[rows] @ query.dense
    if part == "sparse":
        assert query.sparse is not None
        return lexical_scores(shard, query.sparse)[rows]
    assert query.multi_vector is not None
    return multi_vector_scores(shard, query.multi_vector, rows)


def lexical_scores(shard: Shard, query: SparseVector) -> FloatArray:
    """s_lex of one query and every passage of the shard, by its postings: float32 [n]."""
    assert shard.terms is not None
    assert shard.term_offsets is not None
    assert shard.term_rows is not None
    assert shard.term_weights is not None
    if not len(shard.terms):
        return np.zeros(shard.count, dtype=np.float32)
    place = np.minimum(np.searchsorted(shard.terms, query.ids), len(shard.terms) - 1)
    known = shard.terms[place] == query.ids
    spans = [slice(shard.term_offsets[i], shard.term_offsets[i + 1]) for i in place[known]]
    if not spans:
        return np.zeros(shard.count, dtype=np.float32)
    rows = np.concatenate([shard.term_rows[span] for span in spans])
    products = [shard.term_weights[span] * weight for span, weight in zip(spans, query.weights[known], strict=True)]
    return np.bincount(rows, np.concatenate(products), minlength=shard.count).astype(np.float32)


def multi_vector_scores(shard: Shard, query: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
    """s_mul of one query and some passages of the shard: the mean over query rows of the best passage row.

    Args:
        shard: with multi-vectors.
        query: float32 [N, m].
        rows: int64 [k], passages from 0 within the shard.

    Returns:
        float32 [k].
    """
    assert shard.multi_vector is not None
    assert shard.multi_vector_offsets is not None
    offsets = shard.multi_vector_offsets
    scores = []
    for block in _blocks(offsets[rows + 1] - offsets[rows]):
        spans = [slice(offsets[row], offsets[row + 1]) for row in rows[block]]
        vectors = np.concatenate([shard.multi_vector[span] for span in spans]).astype(np.float32)
        starts = np.cumsum([0] + [span.stop - span.start for span in spans[:-1]])
        # No row is empty (``</s>`` is kept), so every segment of the reduction is one passage.
        scores.append(np.maximum.reduceat(vectors @ query.T, starts, axis=0).mean(axis=1))
    return np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32)


def _blocks(lengths: OffsetArray) -> Iterator[slice]:
    """Consecutive passages of at most ``BLOCK_ROWS`` rows together."""
    start = total = 0
    for i, length in enumerate(lengths):
        if total + length > BLOCK_ROWS and i > start:
            yield slice(start, i)
            start, total = i, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
