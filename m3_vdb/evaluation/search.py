"""Queries of a collection, answered by a store: rankings, latencies, and what approximate search loses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import islice
from sys import intern
from typing import Final

import numpy as np

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.evaluation.collection import Query
from m3_vdb.evaluation.metrics import Run, ordered
from m3_vdb.evaluation.protocol import DEPTH, Request
from m3_vdb.evaluation.results import Percentiles
from m3_vdb.marks import document_id
from m3_vdb.passages import group_hits
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import M3Embedding

BLOCK: Final = 512
"""Queries that are encoded together."""
TIMED: Final = 200
"""Queries whose latency is measured, one after the other."""
WARM_UP: Final = 5
"""Requests before the clock is read: caches, and the runtime's first run."""
SHOWN: Final = 10
"""Hits of a timed request: what a search page shows."""
_MORE: Final = 4
"""So many times more passages are asked for where they belong to too few documents."""


def query_encoder(embed: M3EmbeddingFunction, *, max_length: int) -> M3EmbeddingFunction:
    """The same model, session and all, for queries of at most ``max_length`` tokens; truncates without a warning."""
    short = copy(embed)
    short.max_length, short.on_truncate = min(embed.max_length, max_length), "ignore"
    return short


def encode(embed: M3EmbeddingFunction, queries: Mapping[str, Query]) -> list[tuple[str, M3Embedding]]:
    """(query id, embedding) of every query."""
    names = iter(queries)
    encoded: list[tuple[str, M3Embedding]] = []
    while block := list(islice(names, BLOCK)):
        encoded += zip(block, embed.encode_queries([queries[name].text for name in block]), strict=True)
    return encoded


def search(
    store: VectorStore,
    queries: Sequence[tuple[str, M3Embedding]],
    request: Request,
    *,
    passages: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """One request a query: query id → document id → score.

    Args:
        store: what is asked.
        queries: (id, embedding) of each.
        request: for every query.
        passages: the store holds passages, and documents are wanted, each with the score of its best passage: the
            first ``DEPTH``, for which as many passages are candidates as it takes.
        progress: told how many queries are done.
    """
    run: dict[str, dict[str, float]] = {}
    for done, (name, query) in enumerate(queries, start=1):
        rank = partial(store.rank, query, weights=request.weights, source=request.source)
        if passages:
            ranking = _documents(rank, request.candidates)
        else:
            ranking = rank(limit=request.limit, candidates=request.candidates)
        run[name] = {intern(document): score for document, score in ranking}  # an id comes back with every query
        if progress is not None:
            progress(done)
    return run


def time_encoding(embed: M3EmbeddingFunction, queries: Mapping[str, Query]) -> Percentiles:
    """Latency of encoding one query."""
    return _timed([partial(embed.encode_queries, [query.text]) for query in islice(queries.values(), TIMED)])


def time_search(store: VectorStore, queries: Sequence[tuple[str, M3Embedding]], request: Request) -> Percentiles:
    """Latency of the first ``SHOWN`` documents with their texts, got as ``HybridIndex.query`` gets them."""

    def ask(query: M3Embedding) -> object:
        find = partial(
            store.query, query, weights=request.weights, candidates=request.candidates, source=request.source
        )
        return group_hits(lambda offset, limit: find(offset=offset, limit=limit), SHOWN, most=request.candidates)

    return _timed([partial(ask, query) for _, query in queries[:TIMED]])


def overlap(exact: Run, approximate: Run) -> float:
    """Share of the exact first ``SHOWN`` results that the approximate ones hold, mean over queries."""
    shares = []
    for name, scores in exact.items():
        best, found = (dict(ordered(hits)[:SHOWN]).keys() for hits in (scores, approximate[name]))
        shares.append(len(best & found) / len(best) if best else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def _documents(rank: Callable[..., list[tuple[str, float]]], candidates: int) -> list[tuple[str, float]]:
    """The first ``DEPTH`` documents with the score of their best passage; more candidates where they are too few."""
    limit = DEPTH
    while True:
        ranking = rank(limit=limit, candidates=max(limit, candidates))
        best: dict[str, float] = {}
        for passage, score in ranking:
            best.setdefault(document_id(passage), score)
        if len(best) >= DEPTH or len(ranking) < limit:
            return list(best.items())[:DEPTH]
        limit *= _MORE


def _timed(calls: Sequence[Callable[[], object]]) -> Percentiles:
    for call in calls[:WARM_UP]:
        call()
    elapsed = []
    for call in calls:
        begun = time.perf_counter()
        call()
        elapsed.append(1000 * (time.perf_counter() - begun))
    p50, p95, p99 = (float(value) for value in np.percentile(elapsed, [50, 95, 99]))
    return Percentiles(p50, p95, p99, len(elapsed))
