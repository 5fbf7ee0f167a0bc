"""One collection through one store: filled, searched in every mode, timed. ``evaluate`` puts collections together.

Rankings and times are kept in the evaluation's folder, so an interrupted evaluation resumes: ``<out>/<collection>/
<name>.trec`` holds a ranking, and ``state.json`` beside it the key that it was made under and a hash of the file. A key
covers everything that a ranking depends on: with a changed corpus, model or weight the store is asked again, otherwise
not. A file that was cut off or changed since is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.metrics import Run, read_run, write_run
from m3_vdb.evaluation.protocol import DEPTH, PARTS, WEIGHTED, Mode, Part, Protocol, Request
from m3_vdb.evaluation.results import Cost, Percentiles
from m3_vdb.evaluation.search import encode, fill, search, time_encoding, time_search
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.waiting import OPTIMIZE_SECONDS
from m3_vdb.types import M3Embedding

BM25_NAME: Final = "bm25"
STATE: Final = "state.json"
APPROXIMATE_QUERIES: Final = 500
"""Queries of a collection that are asked again with approximate search, as many of each language as there are."""
StoreOpener: TypeAlias = Callable[[str, bool], VectorStore]
"""(name of a collection, exact search) → its store, made if there is none."""
Progress: TypeAlias = Callable[[str, str, int, int], None]
"""Called with the collection, the current step, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What is done with every collection.

    Attributes:
        embed: encodes passages.
        query_embed: encodes queries.
        opener: opens the stores.
        store: where the documents are, in words; rankings are kept for it alone.
        protocol: requests and weights.
        modes: rankings to make.
        bm25: rank with BM25 too.
        approximate: also ask with the engine's approximate search.
        out: folder for rankings.
        progress: called with the current step.
        long_documents: what becomes of documents longer than the store's multi-vector limit.
        part: put before the names of rankings: "dev." for dev queries.
        untuned: the protocol before its weights were tuned, also measured; None if nothing was tuned.
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
    long_documents: LongDocuments = DEFAULT_POLICY
    part: str = ""
    untuned: Protocol | None = None

    @property
    def passages(self) -> bool:
        """Whether stores hold passages, and documents are ranked by their best one."""
        return self.long_documents.plan == "split"


@dataclass(frozen=True, slots=True)
class CollectionRuns:
    """What one collection gave.

    Attributes:
        collection: which.
        documents: documents that were searched.
        runs: system → ranking.
        components: raw score → its ranking of the candidates of "all"; empty if they were not asked for.
        cost: times and sizes.
        untuned: mode → ranking with the weights before tuning.
        approximate: mode → ranking by approximate search, of ``APPROXIMATE_QUERIES`` queries.
        approximate_ms: mode → latency of approximate search.
        passages: the candidates in ``components`` are passages; all other rankings hold documents.
    """

    collection: Collection
    documents: int
    runs: Mapping[str, Run]
    components: Mapping[Part, Run]
    cost: Cost
    untuned: Mapping[Mode, Run] = field(default_factory=dict)
    approximate: Mapping[Mode, Run] = field(default_factory=dict)
    approximate_ms: Mapping[str, Percentiles] = field(default_factory=dict)
    passages: bool = False


def run_collection(collection: Collection, settings: EvalSettings) -> CollectionRuns:
    """Fill a store with a collection and make every ranking."""
    protocol, modes = settings.protocol, settings.modes
    with settings.opener(collection.name, True) as store:
        searcher = Searcher(collection, store, settings)
        runs = {str(mode): searcher.rank(mode, protocol.request(mode)) for mode in modes}
        components: dict[Part, Run] = {}
        if "all" in modes and collection.qrels:
            components = searcher.component_scores("all", PARTS)
        if settings.bm25:
            runs[BM25_NAME] = searcher.bm25()
        untuned: dict[Mode, Run] = {}
        if settings.untuned is not None:
            weighted: list[Mode] = [mode for mode in modes if mode in WEIGHTED]
            untuned = {mode: searcher.rank(f"{mode}.untuned", settings.untuned.request(mode)) for mode in weighted}
        documents, cost = searcher.documents, searcher.cost()
        if settings.approximate:
            # Shown as seconds of the limit.
            store.optimize(
                waiting=lambda what, seconds: settings.progress(
                    collection.name, f"the store is {what}", round(seconds), round(OPTIMIZE_SECONDS)
                )
            )
    found = CollectionRuns(collection, documents, runs, components, cost, untuned, passages=settings.passages)
    if not settings.approximate:
        return found
    with settings.opener(collection.name, False) as store:
        both = {mode: searcher.approximate(store, mode) for mode in modes}
    return replace(
        found,
        approximate={mode: run for mode, (run, _) in both.items()},
        approximate_ms={mode: times for mode, (_, times) in both.items()},
    )


class Searcher:
    """One filled store and the queries of one collection; rankings that are already in the folder are not repeated.

    Args:
        collection: what is searched.
        store: filled here, and not closed.
        settings: what to do.
    """

    def __init__(self, collection: Collection, store: VectorStore, settings: EvalSettings) -> None:
        self._collection, self._store, self._settings = collection, store, settings
        self._made: dict[tuple[Request, bool], Run] = {}
        total = len(collection.documents)
        filled = fill(
            collection.documents,
            settings.embed,
            store,
            long_documents=settings.long_documents,
            progress=lambda done: self._tell("documents", done, max(done, total)),
        )
        self.documents: int = filled.documents
        embed = settings.embed
        runtime = embed.session.description.partition(" (")[0]  # bfloat16 ranks a little differently from float32
        about = (filled.digest, embed.identity.fingerprint, runtime, settings.store)
        self._workspace = Workspace(settings.out / file_name(collection.name), repr(about))
        texts = [(name, query.text) for name, query in collection.queries.items()]
        about_queries = repr((settings.query_embed.max_length, texts)).encode()
        self._about_queries = blake2b(about_queries, digest_size=12).hexdigest()
        report = filled.report
        if report.documents:
            self._workspace.forget("filling")
        now = {
            "documents": report.documents,
            "reused": filled.reused,
            "rejected": report.rejected_count,
            "tokens": report.tokens,
            "truncated": report.truncated,
            "ingest_seconds": report.seconds,
        }
        self._filling: dict[str, Any] = self._workspace.value("filling", "", lambda: now)

    @cached_property
    def queries(self) -> list[tuple[str, M3Embedding]]:
        """(query id, embedding); encoded when the first ranking needs them."""
        return encode(self._settings.query_embed, self._collection.queries)

    def rank(self, name: str, request: Request) -> Run:
        """The ranking of documents for every query by one request; under another name it is not asked for again."""
        return self._rank(name, request, passages=self._settings.passages)

    def component_scores(self, mode: Mode, parts: Sequence[Part]) -> dict[Part, Run]:
        """Each raw score of the candidates of a weighted mode; these are passages where documents were split."""
        found: dict[Part, Run] = {}
        for part in parts:
            requests = self._settings.protocol.component_requests(mode, part)
            runs = [self._rank(f"{mode}.{part}.{source}", one, passages=False) for source, one in requests.items()]
            found[part] = {query: {name: s for run in runs for name, s in run[query].items()} for query in runs[0]}
        return found

    def _rank(self, name: str, request: Request, *, passages: bool) -> Run:
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

    def bm25(self) -> Run:
        """BM25's ranking of the same documents, title and text."""

        def make() -> Run:
            self._tell(BM25_NAME, 0, len(self._collection.queries))
            names: list[str] = []

            def texts() -> Iterable[str]:
                for document in self._collection.documents:
                    names.append(document.id)
                    yield document.content

            index = BM25(texts())
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
        request, name = self._settings.protocol.request(mode), f"{mode}.approximate"
        turns = chain.from_iterable(zip_longest(*self._collection.by_language().values()))
        sample = set(islice((query for query in turns if query is not None), APPROXIMATE_QUERIES))

        def make() -> Run:
            self._tell(f"{mode} approximate", 0, 1)
            queries = [(query, one) for query, one in self.queries if query in sample]
            return search(store, queries, request, passages=self._settings.passages)

        run = self._run(name, request, make, [query for query in self._collection.queries if query in sample])
        return run, self._latency(name, request, lambda: time_search(store, self.queries, request))

    def cost(self) -> Cost:
        """What filling cost when it was done, and latencies."""
        texts, protocol = self._collection.queries, self._settings.protocol

        def search_ms(mode: Mode) -> Percentiles:
            request = protocol.request(mode)
            return self._latency(mode, request, lambda: time_search(self._store, self.queries, request))

        return Cost(
            **self._filling,
            index_bytes=self._store.disk_bytes(),
            encode_ms=self._latency("encoding", "", lambda: time_encoding(self._settings.query_embed, texts)),
            search_ms={mode: search_ms(mode) for mode in self._settings.modes},
        )

    def _run(self, name: str, about: object, make: Callable[[], Run], queries: Iterable[str]) -> Run:
        found = self._workspace.run(f"{self._settings.part}{name}", (about, self._about_queries), make)
        return {query: found.get(query, {}) for query in queries}

    def _latency(self, name: str, about: object, measure: Callable[[], Percentiles]) -> Percentiles:
        def make() -> dict[str, float]:
            self._tell("latency", 0, 1)
            return asdict(measure())

        return Percentiles(**self._workspace.value(f"{name} latency", (about, self._about_queries), make))

    def _tell(self, what: str, done: int, total: int) -> None:
        self._settings.progress(self._collection.name, f"{self._settings.part}{what}", done, total)


class Workspace:
    """Rankings and measurements of one collection, kept in a folder.

    Args:
        folder: made if it does not exist.
        digest: of the corpus, the model and the store.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        folder.mkdir(parents=True, exist_ok=True)
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            state = {}  # all of it can be made again
        entries = state.items() if isinstance(state, dict) else ()
        self._state: dict[str, dict[str, Any]] = {name: entry for name, entry in entries if isinstance(entry, dict)}

    def run(self, name: str, about: object, make: Callable[[], Run]) -> Run:
        """A ranking as it stands in its file, which is made first if there is none under this key.

        Queries without results are missing, and scores have the file's nine digits: in any case, so that a resumed
        evaluation gives the same figures as an uninterrupted one.

        Args:
            name: of the file.
            about: what else it depends on; its ``repr`` is part of the key.
            make: makes it.
        """
        path, key = self._folder / f"{name}.trec", self._key(name, about)
        if not path.is_file() or self._state.get(name) != {"key": key, "file": _hash(path.read_bytes())}:
            write_run(make(), path, tag=name)
            self._keep(name, {"key": key, "file": _hash(path.read_bytes())})
        return read_run(path)

    def value(self, name: str, about: object, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """A JSON value, likewise."""
        key, kept = self._key(name, about), self._state.get(name, {})
        if kept.get("key") == key and "value" in kept:
            return kept["value"]
        value = make()
        self._keep(name, {"key": key, "value": value})
        return value

    def forget(self, name: str) -> None:
        """Make a value anew when it is next asked for."""
        self._state.pop(name, None)

    def _key(self, name: str, about: object) -> str:
        return _hash(f"{self._digest}\0{name}\0{about!r}".encode())

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        self._state[name] = content
        partial = self._folder / f".{STATE}.partial"
        partial.write_text(json.dumps(self._state, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._folder / STATE)


def file_name(collection: str) -> str:
    """The name of a collection as that of a folder or a store's collection."""
    return collection.replace("/", "-")


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=12).hexdigest()
