"""The same-language task: queries and documents of one language, one collection per language."""

import shutil
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from .beir import Counts, Document, Query, write_collection
from .pool import Pool, queries_of
from .records import HELD_OUT, Record, Side, digest

MAX_QUERIES: dict[Side, int] = {"test": 500, "dev": 125}
MIN_QUERIES = 60
"""Below this many test queries a mean says little; it keeps the languages that only the handbook or GNOME speaks."""

MAX_DOCUMENTS = 10_000

T = TypeVar("T")


def take_turns(groups: Iterable[Iterable[T]], limit: int) -> list[T]:
    """The first ``limit`` members, the groups taking turns, so that the largest does not fill a test alone."""
    return [turn for turn in chain.from_iterable(zip_longest(*groups)) if turn is not None][:limit]


def select_queries(pool: Pool, side: Side, limit: int) -> list[tuple[Record, str]]:
    """Held-out queries, the sources taking turns."""
    by_source: dict[str, list[tuple[Record, str]]] = {}
    for record, query in queries_of(pool, side):
        by_source.setdefault(record.source, []).append((record, query))
    return take_turns((by_source[name] for name in sorted(by_source)), limit)


def select_documents(pool: Pool, judged: Iterable[int], limit: int = MAX_DOCUMENTS) -> list[Record]:
    """All judged documents, and others by hash until there are ``limit``, ordered by id."""
    needed = set(judged)
    others = sorted(set(range(len(pool.records))) - needed, key=lambda i: digest("fill", pool.records[i].concept_id))
    chosen = sorted(needed | set(others[: max(0, limit - len(needed))]))
    return [pool.records[position] for position in chosen]


def write(pools: Sequence[Pool], out: Path) -> dict[str, Counts]:
    """Write the collection of every language with enough queries; return the counts by language.

    Collections that an earlier run wrote for other languages are removed.
    """
    counts: dict[str, Counts] = {}
    for pool in pools:
        chosen = {side: select_queries(pool, side, MAX_QUERIES[side]) for side in HELD_OUT}
        if len(chosen["test"]) < MIN_QUERIES:
            continue
        judged = chain.from_iterable(pool.relevant(query) for pairs in chosen.values() for _, query in pairs)
        documents = [Document(doc.concept_id, doc.lang, doc.text) for doc in select_documents(pool, judged)]
        queries = {
            side: [
                Query(
                    f"q-{record.concept_id}",
                    pool.lang,
                    query,
                    tuple(pool.records[position].concept_id for position in pool.relevant(query)),
                )
                for record, query in pairs
            ]
            for side, pairs in chosen.items()
        }
        counts[pool.lang] = write_collection(out / "same_language" / pool.lang, documents, queries)
    for folder in (out / "same_language").glob("*/"):
        if folder.name not in counts:
            shutil.rmtree(folder)
    return counts
