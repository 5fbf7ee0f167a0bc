"""One collection through one store: filled, searched in every mode, timed. ``run`` puts collections together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.corpus import Filled, fill
from m3_vdb.evaluation.metrics import Run
from m3_vdb.evaluation.protocol import DEPTH, PARTS, WEIGHTED, Mode, Part, Protocol, Request
from m3_vdb.evaluation.results import Cost, Percentiles
from m3_vdb.evaluation.search import encode, query_encoder, search, time_encoding, time_search
from m3_vdb.evaluation.workspace import Workspace
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import M3Embedding

BM25_NAME: Final = "bm25"
APPROXIMATE_QUERIES: Final = 500
"""Queries that are asked again with approximate search."""
StoreOpener: TypeAlias = Callable[[str, bool], VectorStore]
"""(name of a collection, exact search) → its store, made if there is none."""
Progress: TypeAlias = Callable[[str, str, int, int], None]
"""Told the collection, what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to do with every collection.

    Attributes:
        protocol: requests and weights.
        modes: rankings to make.
        bm25: rank with BM25 beside them.
        approximate: also ask with the engine's approximate search.
        store: where the documents are, in words; rankings are kept for it alone.
        out: folder for rankings; None keeps none.
        progress: told what is going on.
        untuned: weights before tuning, to be measured beside; None if nothing was tuned.
    """

    protocol: Protocol
    modes: tuple[Mode, ...]
    bm25: bool
    approximate: bool
    store: str
    out: Path | None
    progress: Progress
    untuned: Protocol | None = None


@dataclass(frozen=True, slots=True)
class Searched:
    """What one collection gave.

    Attributes:
        collection: which.
        documents: documents that were searched.
        runs: system → ranking.
        probes: raw score → its ranking of the candidates of "all"; empty if they were not asked for.
        cost: times and sizes.
        untuned: mode → ranking with the weights before tuning.
        approximate: mode → ranking by approximate search, of the first ``APPROXIMATE_QUERIES`` queries.
        approximate_ms: mode → latency of approximate search.
    """

    collection: Collection
    documents: int
    runs: Mapping[str, Run]
    probes: Mapping[Part, Run]
    cost: Cost
    untuned: Mapping[Mode, Run] = field(default_factory=dict)
    approximate: Mapping[Mode, Run] = field(default_factory=dict)
    approximate_ms: Mapping[str, Percentiles] = field(default_factory=dict)


class Searcher:
    """One filled store and the queries of one collection; rankings that are already in the workspace are not repeated.

    Args:
        collection: what is searched.
        embed: encodes passages.
        store: filled here, and not closed.
        asked: what to do.
    """

    def __init__(self, collection: Collection, embed: M3EmbeddingFunction, store: VectorStore, asked: Asked) -> None:
        self._collection = collection
        self._embed = query_encoder(embed, max_length=asked.protocol.query_max_length)
        self._store = store
        self._asked = asked
        total = len(collection.documents)
        self.filled: Filled = fill(
            collection.documents, embed, store, progress=lambda done: self._tell("documents", done, total)
        )
        queries = [(name, query.text) for name, query in collection.queries.items()]
        about = (self.filled.digest, embed.identity.fingerprint, self._embed.max_length, asked.store, queries)
        folder = None if asked.out is None else asked.out / collection.name.replace("/", "-")
        self.workspace = Workspace(folder, repr(about))

    @cached_property
    def queries(self) -> list[tuple[str, M3Embedding]]:
        """(query id, embedding); encoded when the first ranking needs them."""
        return encode(self._embed, self._collection.queries)

    def rank(self, name: str, request: Request) -> Run:
        """The ranking of every query by one request."""

        def make() -> Run:
            total = len(self.queries)
            return search(self._store, self.queries, request, progress=lambda done: self._tell(name, done, total))

        return self.workspace.run(name, request, make)

    def probe(self, mode: Mode, parts: Sequence[Part]) -> dict[Part, Run]:
        """The raw scores of the candidates of a weighted mode."""
        protocol = self._asked.protocol
        return {part: self.rank(f"{mode}.{part}", protocol.probe(mode, part)) for part in parts}

    def bm25(self) -> Run:
        """BM25's ranking of the same documents, title and text."""

        def make() -> Run:
            self._tell(BM25_NAME, 0, len(self._collection.queries))
            names: list[str] = []
            texts = []
            for document in self._collection.documents:
                names.append(document.id)
                texts.append(document.content)
            index = BM25(texts)
            return {
                query: {names[position]: score for position, score in index.search(one.text, DEPTH)}
                for query, one in self._collection.queries.items()
            }

        return self.workspace.run(BM25_NAME, "lucene", make)

    def cost(self) -> Cost:
        """What filling cost when it was done, and latencies."""
        report, asked = self.filled.report, self._asked
        now = {
            "documents": report.documents,
            "reused": self.filled.reused,
            "rejected": len(report.rejected),
            "tokens": report.tokens,
            "truncated": report.truncated,
            "ingest_seconds": report.seconds,
        }
        if report.documents:
            self.workspace.forget("filling")
        filling = self.workspace.value("filling", "", lambda: now)

        def measure() -> dict[str, object]:
            self._tell("latency", 0, 1)
            requests = {mode: asked.protocol.request(mode) for mode in asked.modes}
            return {
                "encode_ms": asdict(time_encoding(self._embed, self._collection.queries)),
                "search_ms": {
                    mode: asdict(time_search(self._store, self.queries, request)) for mode, request in requests.items()
                },
            }

        timed = self.workspace.value("latency", (asked.protocol, asked.modes), measure)
        return Cost(
            **filling,
            index_bytes=self._store.disk_bytes(),
            encode_ms=Percentiles(**timed["encode_ms"]),
            search_ms={mode: Percentiles(**values) for mode, values in timed["search_ms"].items()},
        )

    def approximate(self, store: VectorStore, mode: Mode) -> tuple[Run, Percentiles]:
        """The ranking of the first queries by the engine's approximate search, and its latency.

        Args:
            store: the same documents, opened for approximate search.
            mode: what to rank.
        """
        request = self._asked.protocol.request(mode)

        def make() -> Run:
            self._tell(f"{mode} approximate", 0, 1)
            return search(store, self.queries[:APPROXIMATE_QUERIES], request)

        run = self.workspace.run(f"{mode}.approximate", request, make)
        timed = self.workspace.value(
            f"{mode}.approximate latency", request, lambda: asdict(time_search(store, self.queries, request))
        )
        return run, Percentiles(**timed)

    def _tell(self, what: str, done: int, total: int) -> None:
        self._asked.progress(self._collection.name, what, done, total)


def evaluate_collection(
    collection: Collection, embed: M3EmbeddingFunction, opener: StoreOpener, asked: Asked
) -> Searched:
    """Fill a store with a collection and ask everything."""
    protocol = asked.protocol
    with opener(collection.name, True) as store:
        searcher = Searcher(collection, embed, store, asked)
        runs = {str(mode): searcher.rank(mode, protocol.request(mode)) for mode in asked.modes}
        probes: dict[Part, Run] = searcher.probe("all", PARTS) if "all" in asked.modes and collection.qrels else {}
        if asked.bm25:
            runs[BM25_NAME] = searcher.bm25()
        untuned: dict[Mode, Run] = {}
        if asked.untuned is not None:
            weighted: list[Mode] = [mode for mode in asked.modes if mode in WEIGHTED]
            untuned = {mode: searcher.rank(f"{mode}.untuned", asked.untuned.request(mode)) for mode in weighted}
        searched = Searched(collection, searcher.filled.documents, runs, probes, searcher.cost(), untuned)
        if asked.approximate:
            store.optimize()
    if not asked.approximate:
        return searched
    with opener(collection.name, False) as store:
        found = {mode: searcher.approximate(store, mode) for mode in asked.modes}
    return replace(
        searched,
        approximate={mode: run for mode, (run, _) in found.items()},
        approximate_ms={mode: times for mode, (_, times) in found.items()},
    )
