"""Collections in a store, and their queries answered by it: filling, rankings, latencies.

Unchanged documents are skipped: the store is asked for every document, so an evaluation resumes without a progress file
and searches exactly the collection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from sys import intern
from typing import Final

import numpy as np

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import CollectionMismatchError
from m3_vdb.evaluation.collection import Query
from m3_vdb.evaluation.protocol import DEPTH, Request
from m3_vdb.evaluation.results import Percentiles
from m3_vdb.ingest import IngestReport, ingest
from m3_vdb.marks import document_id
from m3_vdb.passages import DocumentPage
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document, M3Embedding

ENCODING: Final = "encoding"
"""Field of the payload that says how a document was encoded; nothing else of the payload is stored."""
BLOCK: Final = 512
"""Queries that are encoded together."""
TIMED: Final = 200
"""Queries whose latency is measured, one after the other."""
WARM_UP: Final = 5
"""Requests before the clock is read: caches, and the runtime's first run."""
SHOWN: Final = 10
"""Hits of a timed request: what a search page shows."""
_MORE: Final = 4
"""How many times more passages are asked for where they belong to too few documents."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A collection that is completely in a store.

    Attributes:
        documents: documents of the collection.
        reused: of what the store holds (documents, or their passages), stored before and unchanged.
        report: what was encoded and stored now, with everything that was rejected.
        digest: changes with any document and with how documents are encoded.
    """

    documents: int
    reused: int
    report: IngestReport
    digest: str


def fill(
    documents: Iterable[Document],
    embed: M3EmbeddingFunction,
    store: VectorStore,
    *,
    long_documents: LongDocuments = DEFAULT_POLICY,
    progress: Callable[[int], None] = lambda _: None,
) -> Filled:
    """Make the store hold exactly these documents, encoded by this function.

    Args:
        documents: read once.
        embed: encodes passages, at its maximum length.
        store: empty, or filled by an earlier call that may have been interrupted.
        long_documents: what becomes of documents longer than the store's multi-vector limit.
        progress: called with the number of documents that are done; where they are split, with that of passages.

    Raises:
        CollectionMismatchError: the store also holds other documents.
        StoreError: the database failed; what was stored stays, and the next call resumes.
    """
    plan = "" if long_documents == DEFAULT_POLICY else f",{long_documents.describe()}"
    encoding = f"max_length={embed.max_length}{plan}"
    digest, seen = blake2b(encoding.encode(), digest_size=16), 0

    def marked() -> Iterator[Document]:
        nonlocal seen
        for document in documents:
            seen += 1
            digest.update(repr((document.id, document.title, document.text)).encode())
            yield replace(document, payload={ENCODING: encoding})

    # The mark is the evaluation's own, so the pipeline sets none.
    report = ingest(
        marked(),
        embed,
        store,
        encoding="",
        long_documents=long_documents,
        progress=lambda state: progress(state.rows),
    )
    progress(seen)
    held, expected = store.count(), report.documents + report.unchanged
    if held != expected:
        raise CollectionMismatchError(
            f"the store holds {held:,} documents and the collection {expected:,}: evaluate in a separate store "
            f"(or this corpus has changed since: delete the store's collection)"
        )
    return Filled(seen, report.unchanged, report, digest.hexdigest())


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
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """One request per query: query id → document id → score.

    Args:
        store: what is asked.
        queries: (id, embedding) of each.
        request: for every query.
        passages: the store holds passages, and documents are wanted, each with the score of its best passage: the
            first ``DEPTH``, for which as many passages are candidates as it takes.
        progress: called with the number of queries done.
    """
    run: dict[str, dict[str, float]] = {}
    for done, (name, query) in enumerate(queries, start=1):
        rank = partial(store.rank, query, weights=request.weights, source=request.source)
        if passages:
            ranking = _documents(rank, request.candidates)
        else:
            ranking = rank(limit=request.limit, candidates=request.candidates)
        run[name] = {intern(document): score for document, score in ranking}  # an id comes back with every query
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
        page = DocumentPage(SHOWN, 0, request.candidates)
        return page.documents(find(limit=page.first), find)

    return _timed([partial(ask, query) for _, query in queries[:TIMED]])


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
