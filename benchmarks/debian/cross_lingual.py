"""The cross-lingual task: queries of every other language, documents in English, one collection.

A query is answered by the English documents of all concepts that it names in its own language. The measure is the
mean over the languages of the queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from .beir import Counts, Document, Query, write_collection
from .pool import Pool
from .records import HELD_OUT, Side
from .same_language import select_documents, select_queries

MAX_QUERIES: dict[Side, int] = {"test": 450, "dev": 112}
"""Per language."""

MIN_QUERIES = 60
MAX_DOCUMENTS = 14_000


def _queries(pool: Pool, english: Mapping[str, int], names: Sequence[str], side: Side) -> Iterator[Query]:
    """One language's queries with at least one English answer; ``english`` maps concept to position."""
    # What has no English document is left out before the limit is applied, not after.
    for record, query in select_queries(pool, side, len(pool.records)):
        concepts = (pool.records[position].concept_id for position in pool.relevant(query))
        answers = sorted({english[concept] for concept in concepts if concept in english})
        if record.concept_id in english:
            identifier = f"q-{pool.lang}-{record.concept_id}"
            yield Query(identifier, pool.lang, query, tuple(names[position] for position in answers))


def write(pools: Sequence[Pool], out: Path) -> dict[str, Counts]:
    """Write the collection; return the number of queries by language, or nothing without English."""
    target = next((pool for pool in pools if pool.lang == "en"), None)
    if target is None:
        return {}
    english = {record.concept_id: position for position, record in enumerate(target.records)}
    names = [record.concept_id for record in target.records]
    queries: dict[Side, list[Query]] = {"test": [], "dev": []}
    counts: dict[str, Counts] = {}
    for pool in pools:
        found = {side: list(_queries(pool, english, names, side))[: MAX_QUERIES[side]] for side in HELD_OUT}
        if pool is target or len(found["test"]) < MIN_QUERIES:
            continue
        for side in HELD_OUT:
            queries[side] += found[side]
    tested = {name for query in queries["test"] for name in query.relevant}
    queries["dev"] = [query for query in queries["dev"] if tested.isdisjoint(query.relevant)]
    for side, found_queries in queries.items():
        for query in found_queries:
            of_lang = counts.setdefault(query.lang, {})
            of_lang[f"{side}_queries"] = of_lang.get(f"{side}_queries", 0) + 1
    if not counts:
        return {}
    judged = chain.from_iterable(query.relevant for side in HELD_OUT for query in queries[side])
    documents = select_documents(target, (english[name] for name in judged), MAX_DOCUMENTS)
    rows = [Document(doc.concept_id, "en", doc.text) for doc in documents]
    return {"all": write_collection(out / "cross_lingual", rows, queries), **counts}
