"""``python -m benchmarks.exactness``: the fused scores of every store against the memory oracle.

The same random documents (``common.py``) go into every store; every query runs with three presets of weights and with
four parts, and without a filter, with two conditions and with a tree of them. Four parts are left out, and the reason
is shown, where the store refuses exact words, and on several shards, which count the documents of a word each by
itself (``tests/stores/test_exact_words.py`` compares these). Compared are each of the best 50: its score with the
oracle's score of the same document (relative), and the oracle's score of the document at this rank with that of the
oracle's own at this rank (relative; 0 is the same order). The last line is one JSON object, and the exit code is 1 if
one of the two is 1e-4 or more anywhere, or a hit is missing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks import common
from benchmarks.common import INDEXED, STORES
from m3_vdb.bm25 import bm25_query
from m3_vdb.errors import ConfigError, M3Error
from m3_vdb.stores import MemoryStore, VectorStore
from m3_vdb.types import Filter, M3Embedding
from m3_vdb.weights import PRESETS, Weights

ALLOWED: Final = 1e-4
"""Largest relative difference of a fused score, and of what stands at a rank to what should."""
LIMIT: Final = 50
SLOW: Final = ("qdrant local mode", "milvus-lite file", "milvus-lite server", "milvus gRPC stub")
"""Searched by plain Python and NumPy; milvus-lite takes seconds for a condition, which it evaluates row by row."""
FOUR: Final = "four parts"
WEIGHTS: Final = {
    **{name: PRESETS[name] for name in ("default", "dense_sparse", "long_document")},
    FOUR: Weights(1, 0.3, 1, 0.6),
}
FILTERS: Final[dict[str, Filter | None]] = {
    "none": None,
    "two conditions": {"lang": ["de", "en"], "draft": False},
    "a tree": {
        "$or": [{"year": {"$gte": 2002, "$lt": 2014}}, {"$not": {"tags": ["t1", "t2"]}}],
        "price": {"$ne": 1.5},
    },
}
Truth = dict[tuple[int, str, str], list[tuple[str, float]]]
"""(query, weights, filter) → the oracle's (id, score) of all candidates, best first."""


@dataclass(slots=True)
class Comparison:
    """What a store's hits were like.

    Attributes:
        searches: queries times weights times filters.
        hits: scores that were compared.
        largest_error: relative, of a score.
        largest_gap: relative, between the true scores of what stands at a rank and of what should.
        strangers: hits that are none of the oracle's candidates, or hits that are missing.
        seconds: for all searches.
    """

    searches: int = 0
    hits: int = 0
    largest_error: float = 0.0
    largest_gap: float = 0.0
    strangers: int = 0
    seconds: float = 0.0

    def add(self, got: list[tuple[str, float]], truth: list[tuple[str, float]]) -> None:
        """Compare the hits of a search."""
        scores = dict(truth)
        self.searches += 1
        self.strangers += abs(len(got) - min(LIMIT, len(truth)))
        for (name, score), (_, at_rank) in zip(got, truth, strict=False):
            if name not in scores:
                self.strangers += 1
                continue
            self.hits += 1
            self.largest_error = max(self.largest_error, abs(score - scores[name]) / abs(scores[name]))
            self.largest_gap = max(self.largest_gap, abs(scores[name] - at_rank) / abs(at_rank))

    @property
    def passed(self) -> bool:
        """Whether every score is within ``ALLOWED``, in an order that these scores allow, and there were any."""
        return self.hits > 0 and self.strangers == 0 and max(self.largest_error, self.largest_gap) < ALLOWED


def words(embedding: M3Embedding) -> str:
    """A text with a word for each token of a lexical vector, some more often than others."""
    assert embedding.sparse is not None
    return " ".join(f"w{i}" for i in embedding.sparse.ids.tolist() for _ in range(1 + i % 3))


def fill(store: VectorStore, documents: int, *, chunk: int = 500) -> None:
    """Put the documents into a store; they are of different lengths, or many would have the same score of words."""
    for start in range(0, documents, chunk):
        stop = min(start + chunk, documents)
        vectors = common.embeddings(stop - start, seed=start)
        texts = [words(one) + " more" * (i * 7 % 997) for i, one in enumerate(vectors, start=start)]
        made = [replace(one, text=text) for one, text in zip(common.documents(start, stop), texts, strict=True)]
        store.upsert(made, vectors)


def asked_words(queries: list[M3Embedding]) -> list[M3Embedding]:
    """The queries with the exact words of their tokens."""
    return [replace(query, bm25=bm25_query(words(query))) for query in queries]


def compare(store: VectorStore, queries: list[M3Embedding], truth: Truth) -> Comparison:
    """Run every search and compare."""
    found = Comparison()
    for (i, weights, condition), expected in truth.items():
        if i >= len(queries):
            continue
        begun = time.perf_counter()
        got = store.rank(queries[i], weights=WEIGHTS[weights], limit=LIMIT, filter=FILTERS[condition])
        found.seconds += time.perf_counter() - begun
        found.add(got, expected)
    return found


def oracle(documents: int, queries: list[M3Embedding]) -> Truth:
    """The scores of all candidates by the reference definition."""
    with MemoryStore(common.identity(), bm25=True) as store:
        fill(store, documents)
        return {
            (i, weights, condition): store.rank(query, weights=WEIGHTS[weights], limit=200, filter=FILTERS[condition])
            for i, query in enumerate(queries)
            for weights in WEIGHTS
            for condition in FILTERS
        }


def main(
    stores: Annotated[list[str] | None, typer.Option("--store", help=f"{', '.join(STORES)}. Default: all.")] = None,
    documents: Annotated[int, typer.Option(help="In every store.")] = 5000,
    queries: Annotated[int, typer.Option(help="Each runs twelve times: weights times filters.")] = 200,
    slow_queries: Annotated[int, typer.Option(help=f"Queries of {', '.join(SLOW)}.")] = 20,
) -> None:
    """Compare the stores with the oracle."""
    chosen = common.known(stores or list(STORES), STORES)
    asked = asked_words(common.queries(queries))
    truth = oracle(documents, asked)
    typer.echo(f"{documents:,} documents, {len(truth):,} searches, the best {LIMIT} of each")
    typer.echo(f"{'store':28} {'searches':>8} {'hits':>8} {'largest error':>14} {'largest gap':>12} {'ms/search':>10}")
    results: dict[str, dict[str, Any]] = {}
    for name in chosen:
        results[name] = measure(name, documents, asked[: slow_queries if name in SLOW else queries], truth)
    passed = all(result.get("passed") for result in results.values())
    typer.echo(json.dumps({"documents": documents, "limit": LIMIT, "passed": passed, "stores": results}))
    raise typer.Exit(0 if passed else 1)


@contextmanager
def opened(name: str) -> Iterator[tuple[VectorStore, str]]:
    """A new collection, and why four parts are left out; "" where they are not."""
    with tempfile.TemporaryDirectory(prefix="m3-exactness-") as folder, ExitStack() as stack:
        made, without = (common.identity(), Path(folder)), ""
        try:
            store = stack.enter_context(STORES[name](*made, replace(INDEXED, bm25=True)))
        except ConfigError as error:
            store, without = stack.enter_context(STORES[name](*made, INDEXED)), str(error)
        if (store.facts().options.get("shard_number") or 1) > 1:
            without = "every shard counts the documents of a word by itself"
        yield store, without


def measure(name: str, documents: int, queries: list[M3Embedding], truth: Truth) -> dict[str, Any]:
    """Fill one store and compare it; an error of the store is its result."""
    try:
        with opened(name) as (store, without):
            fill(store, documents)
            asked = {key: found for key, found in truth.items() if not (without and key[1] == FOUR)}
            found = compare(store, queries, asked)
    except M3Error as error:
        typer.echo(f"{name:28} {error}")
        return {"passed": False, "error": str(error)}
    milliseconds = 1000 * found.seconds / max(1, found.searches)
    typer.echo(
        f"{name:28} {found.searches:8,} {found.hits:8,} {found.largest_error:14.1e} {found.largest_gap:12.1e} "
        f"{milliseconds:10.1f}{'' if found.passed else '  FAILED'}"
    )
    if without:
        typer.echo(f"{'':28} without four parts: {without}")
    return {"passed": found.passed, **asdict(found), "without_four_parts": without}


if __name__ == "__main__":
    typer.run(main)
