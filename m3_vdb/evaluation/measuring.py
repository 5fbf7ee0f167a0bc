"""One collection through one store: filled, searched in every mode, timed. ``run`` puts collections together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.corpus import Filled, fill
from m3_vdb.evaluation.metrics import Run
from m3_vdb.evaluation.protocol import DEPTH, PARTS, WEIGHTED, Mode, Part, Protocol, Request
from m3_vdb.evaluation.results import Cost, Percentiles
from m3_vdb.evaluation.search import encode, search, time_encoding, time_search
from m3_vdb.evaluation.workspace import Workspace, file_name
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import M3Embedding

BM25_NAME: Final = "bm25"
APPROXIMATE_QUERIES: Final = 500
"""Queries of a collection that are asked again with approximate search, as many of each language as there are."""
StoreOpener: TypeAlias = Callable[[str, bool], VectorStore]
"""(name of a collection, exact search) → its store, made if there is none."""
Progress: TypeAlias = Callable[[str, str, int, int], None]
"""Told the collection, what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to do with every collection.

    Attributes:
        embed: encodes passages.
        query_embed: encodes queries.
        opener: opens the stores.
        store: where the documents are, in words; rankings are kept for it alone.
        protocol: requests and weights.
        modes: rankings to make.
        bm25: rank with BM25 beside them.
        approximate: also ask with the engine's approximate search.
        out: folder for rankings.
        progress: told what is going on.
        part: put before the names of rankings: "dev." for dev queries.
        untuned: weights before tuning, to be measured beside; None if nothing was tuned.
        long_documents: what becomes of documents with more tokens than a store takes rows.
    """

    embed: M3EmbeddingFunction
    query_embed: M3EmbeddingFunction
    opener: StoreOpener
    store: str
    protocol: Protocol
    modes: tuple[Mode, ...]
    bm25: bool
    approximate: bool
    out: Path
    progress: Progress
    part: str = ""
    untuned: Protocol | None = None
    long_documents: LongDocuments = REFUSE

    @property
    def passages(self) -> bool:
        """Whether stores hold passages, and documents are ranked by their best one."""
        return self.long_documents.plan == "split"


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
        approximate: mode → ranking by approximate search, of ``APPROXIMATE_QUERIES`` queries.
        approximate_ms: mode → latency of approximate search.
        passages: the candidates in ``probes`` are passages; in all other rankings there are documents.
    """

    collection: Collection
    documents: int
    runs: Mapping[str, Run]
    probes: Mapping[Part, Run]
    cost: Cost
    untuned: Mapping[Mode, Run] = field(default_factory=dict)
    approximate: Mapping[Mode, Run] = field(default_factory=dict)
    approximate_ms: Mapping[str, Percentiles] = field(default_factory=dict)
    passages: bool = False


class Searcher:
    """One filled store and the queries of one collection; rankings that are already in the workspace are not repeated.

    Args:
        collection: what is searched.
        store: filled here, and not closed.
        asked: what to do.
    """

    def __init__(self, collection: Collection, store: VectorStore, asked: Asked) -> None:
        self._collection = collection
        self._store = store
        self._asked = asked
        self._made: dict[tuple[Request, bool], Run] = {}
        total = len(collection.documents)
        self.filled: Filled = fill(
            collection.documents,
            asked.embed,
            store,
            long_documents=asked.long_documents,
            progress=lambda done: self._tell("documents", done, max(done, total)),
        )
        runtime = asked.embed.session.description  # bfloat16 ranks a little differently from float32
        about = (self.filled.digest, asked.embed.identity.fingerprint, runtime, asked.store)
        self._workspace = Workspace(asked.out / file_name(collection.name), repr(about))
        texts = [(name, query.text) for name, query in collection.queries.items()]
        about_queries = repr((asked.query_embed.max_length, texts)).encode()
        self._about_queries = blake2b(about_queries, digest_size=12).hexdigest()
        self._filling = self._remember_filling()

    @cached_property
    def queries(self) -> list[tuple[str, M3Embedding]]:
        """(query id, embedding); encoded when the first ranking needs them."""
        return encode(self._asked.query_embed, self._collection.queries)

    def rank(self, name: str, request: Request) -> Run:
        """The ranking of documents for every query by one request."""
        return self._rank(name, request, passages=self._asked.passages)

    def _rank(self, name: str, request: Request, *, passages: bool) -> Run:
        """The same request under another name is not asked for again."""

        def make() -> Run:
            if (request, passages) in self._made:
                return self._made[request, passages]
            total = len(self.queries)
            return search(
                self._store,
                self.queries,
                request,
                passages=passages,
                progress=lambda done: self._tell(name, done, total),
            )

        run = self._made[request, passages] = self._run(name, request, make, self._collection.queries)
        return run

    def probe(self, mode: Mode, parts: Sequence[Part]) -> dict[Part, Run]:
        """The raw scores of the candidates of a weighted mode; these are passages where documents were split."""
        return {part: self._probe(mode, part) for part in parts}

    def _probe(self, mode: Mode, part: Part) -> Run:
        requests = self._asked.protocol.probes(mode, part)
        runs = [self._rank(f"{mode}.{part}.{source}", request, passages=False) for source, request in requests.items()]
        return {query: {name: score for run in runs for name, score in run[query].items()} for query in runs[0]}

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

        return self._run(BM25_NAME, "lucene", make, self._collection.queries)

    def approximate(self, store: VectorStore, mode: Mode) -> tuple[Run, Percentiles]:
        """The ranking of a sample of the queries by the engine's approximate search, and its latency.

        Args:
            store: the same documents, opened for approximate search.
            mode: what to rank.
        """
        request, name = self._asked.protocol.request(mode), f"{mode}.approximate"
        turns = chain.from_iterable(zip_longest(*self._collection.by_language().values()))
        sample = set(islice((query for query in turns if query is not None), APPROXIMATE_QUERIES))

        def make() -> Run:
            self._tell(f"{mode} approximate", 0, 1)
            queries = [(query, one) for query, one in self.queries if query in sample]
            return search(store, queries, request, passages=self._asked.passages)

        run = self._run(name, request, make, [query for query in self._collection.queries if query in sample])
        return run, self._latency(name, request, lambda: time_search(store, self.queries, request))

    def cost(self) -> Cost:
        """What filling cost when it was done, and latencies."""
        texts = self._collection.queries
        return Cost(
            **self._filling,
            index_bytes=self._store.disk_bytes(),
            encode_ms=self._latency("encoding", "", lambda: time_encoding(self._asked.query_embed, texts)),
            search_ms={mode: self._search_ms(mode) for mode in self._asked.modes},
        )

    def _run(self, name: str, about: object, make: Callable[[], Run], queries: Iterable[str]) -> Run:
        found = self._workspace.run(f"{self._asked.part}{name}", (about, self._about_queries), make)
        return {query: found.get(query, {}) for query in queries}

    def _search_ms(self, mode: Mode) -> Percentiles:
        request = self._asked.protocol.request(mode)
        return self._latency(mode, request, lambda: time_search(self._store, self.queries, request))

    def _latency(self, name: str, about: object, measure: Callable[[], Percentiles]) -> Percentiles:
        def make() -> dict[str, float]:
            self._tell("latency", 0, 1)
            return asdict(measure())

        return Percentiles(**self._workspace.value(f"{name} latency", (about, self._about_queries), make))

    def _remember_filling(self) -> dict[str, Any]:
        """What was encoded now or, if that is nothing, when it was."""
        report = self.filled.report
        if report.documents:
            self._workspace.forget("filling")
        now = {
            "documents": report.documents,
            "reused": self.filled.reused,
            "rejected": report.rejected_count,
            "tokens": report.tokens,
            "truncated": report.truncated,
            "ingest_seconds": report.seconds,
        }
        kept: dict[str, Any] = self._workspace.value("filling", "", lambda: now)
        return kept

    def _tell(self, what: str, done: int, total: int) -> None:
        self._asked.progress(self._collection.name, f"{self._asked.part}{what}", done, total)


def evaluate_collection(collection: Collection, asked: Asked) -> Searched:
    """Fill a store with a collection and ask everything."""
    protocol = asked.protocol
    with asked.opener(collection.name, True) as store:
        searcher = Searcher(collection, store, asked)
        runs = {str(mode): searcher.rank(mode, protocol.request(mode)) for mode in asked.modes}
        probes: dict[Part, Run] = searcher.probe("all", PARTS) if "all" in asked.modes and collection.qrels else {}
        if asked.bm25:
            runs[BM25_NAME] = searcher.bm25()
        untuned: dict[Mode, Run] = {}
        if asked.untuned is not None:
            weighted: list[Mode] = [mode for mode in asked.modes if mode in WEIGHTED]
            untuned = {mode: searcher.rank(f"{mode}.untuned", asked.untuned.request(mode)) for mode in weighted}
        searched = Searched(
            collection,
            searcher.filled.documents,
            runs,
            probes,
            searcher.cost(),
            untuned,
            passages=asked.passages,
        )
        if asked.approximate:
            store.optimize()
    if not asked.approximate:
        return searched
    with asked.opener(collection.name, False) as store:
        found = {mode: searcher.approximate(store, mode) for mode in asked.modes}
    return replace(
        searched,
        approximate={mode: run for mode, (run, _) in found.items()},
        approximate_ms={mode: times for mode, (_, times) in found.items()},
    )
