"""The five rankings of a corpus, by the protocol of the paper (section 4 and appendix C of arXiv 2402.03216v4).

Dense and sparse search the whole corpus; dense + sparse ranks the union of both lists by exact sums; multi-vector and
all re-rank the dense top 200 by exact scores. Nothing here is a fusion of ranks, and no missing score counts as 0.
Legend: Q queries, k results, n passages of a shard, d dense width. Equal scores rank in the order of the corpus.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.protocol import Mode, Part
from m3_vdb.types import FloatArray, M3Embeddings
from train.retrieval.exact import lexical_scores, pair_scores, weighted
from train.retrieval.faiss_index import build, import_faiss, search
from train.retrieval.options import SearchOptions
from train.retrieval.shards import Shards

EXACT_INDEX: Final = "Flat"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Results of Q queries, best first.

    Attributes:
        rows: int64 [Q, k], corpus rows; −1 where a query has fewer results.
        scores: float32 [Q, k]; −∞ where a query has fewer results.
    """

    rows: NDArray[np.int64]
    scores: FloatArray

    def cut(self, k: int) -> Ranking:
        """The first k results of each query."""
        return Ranking(self.rows[:, :k], self.scores[:, :k])

    def hits(self, query: int) -> tuple[NDArray[np.int64], FloatArray]:
        """(rows, scores) of one query, without padding."""
        found = self.rows[query] >= 0
        return self.rows[query, found], self.scores[query, found]


class Index:
    """A corpus that can be searched.

    Args:
        shards: the encoded corpus.
        factory: "Flat" searches the dense vectors exactly and holds none of them; any other faiss factory string
            builds that index in memory, and its results get their exact scores.

    Raises:
        ConfigError: faiss cannot build such an index for this corpus.
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, shards: Shards, *, factory: str = EXACT_INDEX) -> None:
        self._shards = shards
        dense = any(shard.dense is not None for shard in shards)
        self._approximate = build(shards, factory) if dense and factory != EXACT_INDEX else None

    def dense(self, queries: M3Embeddings, k: int) -> Ranking:
        """The k best passages by s_dense."""
        assert queries.dense is not None
        if self._approximate is not None:
            rows = search(self._approximate, queries.dense, k)
            return _best(rows, self.scores(queries, rows, ["dense"])["dense"], k)
        faiss = import_faiss()
        best = _nothing(len(queries))
        for shard in self._shards:
            scores, rows = faiss.knn(queries.dense, shard.dense, min(k, shard.count), metric=faiss.METRIC_INNER_PRODUCT)
            best = _best(
                np.hstack([best.rows, rows + shard.first]), np.hstack([best.scores, scores.astype(np.float32)]), k
            )
        return best

    def sparse(self, queries: M3Embeddings, k: int) -> Ranking:
        """The k best passages by s_lex, among those that share a token with the query."""
        best = _nothing(len(queries))
        for shard in self._shards:
            rows = np.full((len(queries), min(k, shard.count)), -1, dtype=np.int64)
            scores = np.full(rows.shape, -np.inf, dtype=np.float32)
            for i, query in enumerate(queries):
                assert query.sparse is not None
                every = lexical_scores(shard, query.sparse)
                top = _top(every, k)
                rows[i, : len(top)], scores[i, : len(top)] = top + shard.first, every[top]
            best = _best(np.hstack([best.rows, rows]), np.hstack([best.scores, scores]), k)
        return best

    def scores(self, queries: M3Embeddings, rows: NDArray[np.int64], parts: Collection[Part]) -> dict[Part, FloatArray]:
        """Exact raw scores of chosen pairs, each float32 [Q, k]; see ``pair_scores``."""
        return pair_scores(self._shards, queries, rows, parts)


def rank(
    index: Index,
    queries: M3Embeddings,
    modes: Collection[Mode],
    options: SearchOptions,
    *,
    depth: int,
    rerank: int | None = None,
) -> dict[Mode, Ranking]:
    """The rankings of several modes; they share the two searches of the whole corpus.

    Args:
        index: the corpus.
        queries: with the parts that ``options.parts_of(modes)`` names.
        modes: rankings to make.
        options: weights, and what is re-ranked.
        depth: results of a ranking, at most.
        rerank: dense results to re-rank; None takes ``options.rerank``.
    """
    wanted = set(modes)
    again = wanted & {"multi_vector", "all"}
    rerank = rerank or options.rerank
    rankings: dict[Mode, Ranking] = {}
    if wanted - {"sparse"}:
        rankings["dense"] = index.dense(queries, max(depth, rerank))
    if wanted & {"sparse", "dense_sparse"} or (again and options.rerank_sparse):
        rankings["sparse"] = index.sparse(queries, max(depth, rerank))

    def exact(some: Collection[Mode], best: int, *, both: bool) -> None:
        rows = rankings["dense"].rows[:, :best]
        if both:
            rows = _union(rows, rankings["sparse"].rows[:, :best])
        scores = index.scores(queries, rows, options.parts_of(some))
        for mode in some:
            rankings[mode] = _best(rows, weighted(scores, options.weights_of(mode)), depth)

    if "dense_sparse" in wanted:
        exact(["dense_sparse"], depth, both=True)
    if again:
        exact(again, rerank, both=options.rerank_sparse)
    return {mode: rankings[mode].cut(depth) for mode in modes}


def _nothing(queries: int) -> Ranking:
    return Ranking(np.zeros((queries, 0), np.int64), np.zeros((queries, 0), np.float32))


def _best(rows: NDArray[np.int64], scores: FloatArray, k: int) -> Ranking:
    """The k best of each query; what has no score is no result."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    return Ranking(np.where(np.isneginf(scores), -1, np.take_along_axis(rows, order, axis=1)), scores)


def _top(scores: FloatArray, k: int) -> NDArray[np.intp]:
    """The k best passages with a positive score, in no order; of equal ones the first."""
    found = np.flatnonzero(scores > 0)
    if len(found) <= k:
        return found
    edge = np.partition(scores[found], -k)[-k]
    above, equal = found[scores[found] > edge], found[scores[found] == edge]
    return np.concatenate([above, equal[: k - len(above)]])


def _union(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of both lists of each query, once."""
    rows = np.sort(np.hstack([left, right]), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    return rows
