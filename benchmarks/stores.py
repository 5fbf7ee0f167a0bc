"""``python -m benchmarks.stores``: documents/s into a store, and the latency of every kind of query, p50 and p95.

No model is asked: the vectors are random, of m3-small's shape (``common.py``), and made before the clock starts.
Modes: ``dense`` and ``sparse`` alone, ``multi_vector`` (the dense candidates scored by their token rows),
``all, union`` and ``all, dense`` (the M3 score in one request, of both lists or of the dense one), the latter also
``filtered``, ``explained`` and by ``three requests``: what a client does that fuses by itself, three rankings of the
same candidates, added here, and the documents of the best. Latencies of stubs are not a server's, so stubs are not on
the list. The last line is one JSON object.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks import common
from benchmarks.common import APPROXIMATE, INDEXED, STORES, Opener
from m3_vdb.stores import DEFAULT_CANDIDATES, MemoryStore, VectorStore
from m3_vdb.types import Hit, M3Embedding, M3Embeddings
from m3_vdb.weights import Weights

LIMIT: Final = 10
BATCH: Final = 256
TIMED: Final[dict[str, Opener]] = {
    **{name: opener for name, opener in {**STORES, **APPROXIMATE}.items() if "stub" not in name},
    "memory": lambda identity, *_: MemoryStore(identity),
}
FILTER: Final = {"lang": "de", "draft": False}
_ONE_BY_ONE: Final = (Weights(1, 0, 0), Weights(0, 1, 0), Weights(0, 0, 1))
_CLOSE: Final = 1e-4
"""How near the scores of one request and of three must be, or they are not the same query."""


def one_request(store: VectorStore, query: M3Embedding) -> list[tuple[str, float]]:
    """The best of the dense candidates by the M3 score, added in the store."""
    return [(hit.document.id, hit.score) for hit in store.query(query, limit=LIMIT, source="dense")]


def three_requests(store: VectorStore, query: M3Embedding) -> list[tuple[str, float]]:
    """The same, added here: a ranking by each vector of all candidates, then the documents of the best."""
    weights, total = Weights(), dict[str, float]()
    factors = (weights.dense, weights.sparse, weights.multi_vector)
    for factor, alone in zip(factors, _ONE_BY_ONE, strict=True):
        for name, score in store.rank(query, weights=alone, limit=DEFAULT_CANDIDATES, source="dense"):
            total[name] = total.get(name, 0.0) + factor * score
    best = sorted(total.items(), key=lambda pair: -pair[1])[:LIMIT]
    found = {document.id for document in store.get([name for name, _ in best])}
    return [(name, score) for name, score in best if name in found]


MODES: Final[dict[str, Callable[[VectorStore, M3Embedding], list[Hit] | list[tuple[str, float]]]]] = {
    "dense": lambda store, query: store.query(query, limit=LIMIT, weights=Weights(1, 0, 0), source="dense"),
    "sparse": lambda store, query: store.query(query, limit=LIMIT, weights=Weights(0, 1, 0), source="sparse"),
    "multi_vector": lambda store, query: store.query(query, limit=LIMIT, weights=Weights(0, 0, 1), source="dense"),
    "all, dense": lambda store, query: store.query(query, limit=LIMIT, source="dense"),
    "all, union": lambda store, query: store.query(query, limit=LIMIT, source="union"),
    "all, dense, filtered": lambda store, query: store.query(query, limit=LIMIT, source="dense", filter=FILTER),
    "all, dense, explained": lambda store, query: store.query(query, limit=LIMIT, source="dense", explain=True),
    "all, dense, three requests": three_requests,
}


def batches(documents: int) -> Iterator[tuple[int, M3Embeddings]]:
    """(first document, vectors) of each batch."""
    for start in range(0, documents, BATCH):
        yield start, common.embeddings(min(BATCH, documents - start), seed=start)


def load(store: VectorStore, documents: int) -> dict[str, float]:
    """Fill a store; seconds that the store took, without the making of the vectors."""
    seconds = 0.0
    for start, vectors in batches(documents):
        written = common.documents(start, start + len(vectors))
        begun = time.perf_counter()
        store.upsert(written, vectors)
        seconds += time.perf_counter() - begun
    begun = time.perf_counter()
    store.optimize()
    return {
        "documents_per_s": round(documents / seconds, 1),
        "optimize_s": round(time.perf_counter() - begun, 1),
        "bytes_per_document": round((store.disk_bytes() or 0) / documents),
    }


def latencies(store: VectorStore, queries: list[M3Embedding], modes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of each mode. Modes take turns, in reverse for every other query: a drifting machine is fair."""
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for turn, query in enumerate([*queries[:2], *queries]):  # the first two warm up
        for name in modes if turn % 2 else reversed(modes):
            begun = time.perf_counter()
            MODES[name](store, query)
            taken[name].append(1000 * (time.perf_counter() - begun))
    return {
        name: {f"p{q}_ms": round(float(np.percentile(times[2:], q)), 2) for q in (50, 95)}
        for name, times in taken.items()
    }


def agreement(store: VectorStore, queries: list[M3Embedding]) -> float:
    """Largest relative difference between the scores of one request and of three.

    Raises:
        ValueError: it is more than ``_CLOSE``.
    """
    worst = 0.0
    for query in queries:
        one, three = one_request(store, query), dict(three_requests(store, query))
        worst = max([worst, *(abs(score - three.get(name, 0.0)) / abs(score) for name, score in one)])
    if worst > _CLOSE:
        raise ValueError(f"one request and three differ by {worst:.1e}: they are not the same query")
    return worst


def measure(name: str, documents: int, queries: list[M3Embedding], modes: Sequence[str]) -> dict[str, Any]:
    """Fill one store and ask it."""
    with (
        tempfile.TemporaryDirectory(prefix="m3-stores-") as folder,
        TIMED[name](common.identity(), Path(folder), INDEXED) as store,
    ):
        loaded = load(store, documents)
        typer.echo(f"\n{name}, {documents:,} documents: {loaded}")
        asked = latencies(store, queries, modes)
        error = agreement(store, queries[:10])
    for mode, figures in asked.items():
        typer.echo(f"  {mode:26} p50 {figures['p50_ms']:9.2f} ms   p95 {figures['p95_ms']:9.2f} ms")
    return {"store": name, "documents": documents, **loaded, "modes": asked, "one_against_three": error}


def main(
    stores: Annotated[list[str] | None, typer.Option("--store", help=f"{', '.join(TIMED)}.")] = None,
    documents: Annotated[list[int] | None, typer.Option(help="Sizes. Default: 10,000 and 50,000.")] = None,
    queries: Annotated[int, typer.Option(help="Timed queries of each mode.")] = 100,
    modes: Annotated[list[str] | None, typer.Option("--mode", help=f"{'; '.join(MODES)}. Default: all.")] = None,
) -> None:
    """Measure stores that are not stubs. Default: Qdrant's engine in a folder."""
    chosen, sizes = common.known(stores or ["qdrant folder"], TIMED), documents or [10_000, 50_000]
    asked = common.queries(queries)
    timed = common.known(modes or list(MODES), MODES)
    results = [measure(name, size, asked, timed) for name in chosen for size in sizes]
    typer.echo(json.dumps({"machine": common.MACHINE, "queries": queries, "limit": LIMIT, "results": results}))


if __name__ == "__main__":
    typer.run(main)
