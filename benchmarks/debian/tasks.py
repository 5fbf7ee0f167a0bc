"""The judged collections, in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``, ``qrels/dev.tsv``.

* same-language: queries and documents of one language, one collection per language
* cross-lingual: queries of every other language, documents in English; a query is answered by the English documents of
  all concepts that it names in its own language
* long documents: chapters, volumes of help pages and manual pages of many languages. The headings of held-out sections
  are taken out of the documents and become the queries, so that a query asks for something that is said somewhere in a
  long text and nowhere spelt out. A manual page is asked for by the line that says what it is for.

Both splits share the corpus and the file of queries; the qrels say which query belongs to which. Titles are empty
everywhere: a title is some document's query, and a corpus in which only the other documents had one would show which
documents are asked for.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from .pool import MAX_RELEVANT, Pool, english_of, queries_of
from .records import HELD_OUT, Record, Section, Side, digest, key, side_of

MAX_QUERIES: dict[Side, int] = {"test": 500, "dev": 125}
MIN_QUERIES = 60
"""Below this many test queries a mean says little; it keeps the languages that only the handbook or GNOME speaks."""
MAX_DOCUMENTS = 10_000

MAX_CROSS_QUERIES: dict[Side, int] = {"test": 450, "dev": 112}
"""Per language of the queries."""
MAX_CROSS_DOCUMENTS = 14_000

MAX_LONG_QUERIES: dict[Side, int] = {"test": 60, "dev": 15}
"""Per language: a query over long documents is expensive."""
LONG_LANGUAGES = (
    *("ca", "cs", "de", "en", "es", "fr", "id", "it", "ja", "ko", "nl", "pl", "pt", "pt-br", "ru", "tr", "zh-cn"),
)
"""Languages with enough long texts that finding the right one among them is a task."""

T = TypeVar("T")
Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a collection."""

    identifier: str
    lang: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the ids of the documents that answer it.

    Its own id never equals a document's: BEIR's evaluator drops a hit that has its query's id.
    """

    identifier: str
    lang: str
    text: str
    relevant: tuple[str, ...]


Queries = Mapping[Side, Sequence[Query]]


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write a text file that appears when it is complete: somebody may be reading the one of the last run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(parts)
    partial.replace(path)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line, readable in every script."""
    write_text(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_collection(folder: Path, documents: Sequence[Document], queries: Queries) -> Counts:
    """Write one collection and return its counts."""
    write_jsonl(
        folder / "corpus.jsonl",
        ({"_id": d.identifier, "title": "", "text": d.text, "metadata": {"lang": d.lang}} for d in documents),
    )
    asked = chain.from_iterable(queries.get(side, ()) for side in HELD_OUT)
    write_jsonl(
        folder / "queries.jsonl", ({"_id": q.identifier, "text": q.text, "metadata": {"lang": q.lang}} for q in asked)
    )
    counts = {"documents": len(documents)}
    for side in HELD_OUT:
        judged = [f"{q.identifier}\t{name}\t1\n" for q in queries.get(side, ()) for name in q.relevant]
        if judged:
            write_text(folder / "qrels" / f"{side}.tsv", ["query-id\tcorpus-id\tscore\n", *judged])
            counts |= {f"{side}_queries": len(queries[side]), f"{side}_judgements": len(judged)}
    return counts


def take_turns(items: Iterable[T], source: Callable[[T], str]) -> list[T]:
    """``items``, their sources taking turns, so that the largest does not fill a test alone."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(source(item), []).append(item)
    turns = zip_longest(*(groups[name] for name in sorted(groups)))
    return [item for item in chain.from_iterable(turns) if item is not None]


def select_documents(pool: Pool, judged: Iterable[str], limit: int) -> list[Document]:
    """All judged concepts, and others by hash until there are ``limit``, ordered by id."""
    needed = set(judged)
    others = sorted(
        (record.concept_id for record in pool.records if record.concept_id not in needed),
        key=lambda concept: digest("fill", concept),
    )
    chosen = needed | set(others[: max(0, limit - len(needed))])
    return [Document(doc.concept_id, doc.lang, doc.text) for doc in pool.records if doc.concept_id in chosen]


def _queries(pool: Pool, side: Side) -> list[tuple[Record, str]]:
    return take_turns(queries_of(pool, side), lambda pair: pair[0].source)


def _judged(queries: Queries) -> Iterator[str]:
    return (name for side in HELD_OUT for query in queries[side] for name in query.relevant)


def _without_answers_of(test: Iterable[Query], dev: Iterable[Query]) -> list[Query]:
    tested = {name for query in test for name in query.relevant}
    return [query for query in dev if tested.isdisjoint(query.relevant)]


def write_same_language(pools: Sequence[Pool], out: Path) -> dict[str, Counts]:
    """Write the collection of every language with enough queries; return the counts by language.

    Collections that an earlier run wrote for other languages are removed.
    """
    counts: dict[str, Counts] = {}
    for pool in pools:
        queries: dict[Side, list[Query]] = {
            side: [
                Query(f"q-{record.concept_id}", pool.lang, text, tuple(one.concept_id for one in pool.relevant(text)))
                for record, text in _queries(pool, side)[: MAX_QUERIES[side]]
            ]
            for side in HELD_OUT
        }
        if len(queries["test"]) >= MIN_QUERIES:
            documents = select_documents(pool, _judged(queries), MAX_DOCUMENTS)
            counts[pool.lang] = write_collection(out / pool.lang, documents, queries)
    for folder in out.glob("*/"):
        if folder.name not in counts:
            shutil.rmtree(folder)
    return counts


def write_cross_lingual(pools: Sequence[Pool], out: Path) -> dict[str, Counts]:
    """Write the collection; return the number of queries by language, or nothing without English."""
    target = english_of(pools)
    if target is None:
        return {}
    english = {record.concept_id: position for position, record in enumerate(target.records)}

    def of_language(pool: Pool, side: Side) -> list[Query]:
        """Queries with at least one English answer; what has none is left out before the limit is applied."""
        found = []
        for record, text in _queries(pool, side):
            if record.concept_id in english:
                answers = {one.concept_id for one in pool.relevant(text)} & english.keys()
                relevant = tuple(sorted(answers, key=english.__getitem__))
                found.append(Query(f"q-{pool.lang}-{record.concept_id}", pool.lang, text, relevant))
        return found[: MAX_CROSS_QUERIES[side]]

    queries: dict[Side, list[Query]] = {"test": [], "dev": []}
    for pool in (pool for pool in pools if pool is not target):
        asked = {side: of_language(pool, side) for side in HELD_OUT}
        if len(asked["test"]) >= MIN_QUERIES:
            for side in HELD_OUT:
                queries[side] += asked[side]
    queries["dev"] = _without_answers_of(queries["test"], queries["dev"])
    counts: dict[str, Counts] = {}
    for side in HELD_OUT:
        for lang, count in Counter(query.lang for query in queries[side]).items():
            counts.setdefault(lang, {})[f"{side}_queries"] = count
    if not counts:
        return {}
    documents = select_documents(target, _judged(queries), MAX_CROSS_DOCUMENTS)
    return {"all": write_collection(out, documents, queries), **counts}


def write_long_documents(pools: Sequence[Pool], out: Path) -> dict[str, Counts]:
    """Write the collection; return the counts by language."""
    queries: dict[Side, list[Query]] = {"test": [], "dev": []}
    documents: list[Document] = []
    counts: dict[str, Counts] = {}
    for pool in (pool for pool in pools if pool.long_texts and pool.lang in LONG_LANGUAGES):
        test = _long_queries(pool, "test")[: MAX_LONG_QUERIES["test"]]
        dev = _without_answers_of(test, _long_queries(pool, "dev"))[: MAX_LONG_QUERIES["dev"]]
        queries["test"] += test
        queries["dev"] += dev
        for text in pool.long_texts:
            shown = (line for one in text.sections for line in one.lines if key(line) not in pool.hidden)
            documents.append(Document(f"{pool.lang}/{text.identifier}", pool.lang, "\n".join(shown)))
        of_lang = {"documents": len(pool.long_texts), "test_queries": len(test), "dev_queries": len(dev)}
        counts[pool.lang] = of_lang
    if not queries["test"]:
        return {}
    return {"all": write_collection(out, documents, queries), **counts}


def _long_queries(pool: Pool, side: Side) -> list[Query]:
    """The queries of one side in an order fixed by hash, the sources taking turns, no query twice."""
    answers: dict[str, dict[str, None]] = {}
    asked: dict[str, tuple[str, Section]] = {}
    for text in pool.long_texts:
        for section in text.sections:
            if section.query:
                answers.setdefault(key(section.query), {})[f"{pool.lang}/{text.identifier}"] = None
                if side_of(section.concept_id) == side:
                    asked[section.concept_id] = (text.source, section)
    chosen: dict[tuple[str, str], tuple[str, Query]] = {}
    for concept in sorted(asked, key=lambda concept: digest("long", concept, pool.lang)):
        source, section = asked[concept]
        relevant = tuple(answers[key(section.query)])
        if len(relevant) <= MAX_RELEVANT:
            query = Query(f"q-{pool.lang}-{concept}", pool.lang, section.query, relevant)
            chosen.setdefault((source, key(query.text)), (source, query))
    unique: dict[str, Query] = {}
    for _, query in take_turns(chosen.values(), lambda pair: pair[0]):
        unique.setdefault(key(query.text), query)
    return list(unique.values())
