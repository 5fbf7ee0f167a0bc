"""The long-document task: chapters, volumes of help pages and manual pages of many languages in one collection.

The headings of held-out sections are taken out of the documents and become the queries, so that a query asks for
something that is said somewhere in a long text and nowhere spelt out. A manual page is asked for by the line that
says what it is for, which its text does not have.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from .beir import Counts, Document, Query, write_collection
from .pool import MAX_RELEVANT, Shelf
from .records import Side, digest, key, side_of
from .same_language import take_turns
from .texts import Section

LANGUAGES = (
    *("ca", "cs", "de", "en", "es", "fr", "id", "it", "ja", "ko", "nl", "pl", "pt", "pt-br", "ru", "tr", "zh-cn"),
)
"""Languages with enough long texts that finding the right one among them is a task."""

MAX_QUERIES: dict[Side, int] = {"test": 60, "dev": 15}
"""Per language: a query over long documents is dear."""


def body(sections: Iterable[Section], hidden: AbstractSet[str]) -> str:
    """Headings and texts of ``sections``, without the lines that are ``hidden``."""
    lines = (line for section in sections for line in (section.heading, *section.text.split("\n")))
    return "\n".join(line for line in lines if line and key(line) not in hidden)


def answers(shelf: Shelf) -> dict[str, tuple[int, ...]]:
    """Normalised query to the positions of the texts that have a section of this name."""
    found: dict[str, dict[int, None]] = {}
    for position, text in enumerate(shelf.texts):
        for section in text.sections:
            if section.query:
                found.setdefault(key(section.query), {})[position] = None
    return {query: tuple(positions) for query, positions in found.items()}


def queries_of(shelf: Shelf, side: Side) -> list[Query]:
    """The queries of one side in an order fixed by hash, the sources taking turns, no query twice."""
    relevant = answers(shelf)
    sections = {
        section.concept_id: (text.source, section)
        for text in shelf.texts
        for section in text.sections
        if section.query and side_of(section.concept_id) == side
    }
    chosen: dict[str, dict[str, Query]] = {}
    for concept in sorted(sections, key=lambda concept: digest("long", concept, shelf.lang)):
        source, section = sections[concept]
        positions = relevant[key(section.query)]
        if len(positions) <= MAX_RELEVANT:
            names = tuple(_name(shelf, position) for position in positions)
            query = Query(f"q-{shelf.lang}-{concept}", shelf.lang, section.query, names)
            chosen.setdefault(source, {}).setdefault(key(section.query), query)
    unique: dict[str, Query] = {}
    for query in take_turns((chosen[source].values() for source in sorted(chosen)), len(sections)):
        unique.setdefault(key(query.text), query)
    return list(unique.values())


def _name(shelf: Shelf, position: int) -> str:
    return f"{shelf.lang}/{shelf.texts[position].identifier}"


def documents(shelf: Shelf) -> Iterator[Document]:
    """The texts of one language as documents."""
    for position, text in enumerate(shelf.texts):
        yield Document(_name(shelf, position), shelf.lang, body(text.sections, shelf.hidden))


def write(shelves: Sequence[Shelf], out: Path) -> dict[str, Counts]:
    """Write the collection; return the counts by language."""
    queries: dict[Side, list[Query]] = {"test": [], "dev": []}
    rows: list[Document] = []
    counts: dict[str, Counts] = {}
    for shelf in (shelf for shelf in shelves if shelf.lang in LANGUAGES):
        test = queries_of(shelf, "test")[: MAX_QUERIES["test"]]
        tested = {name for query in test for name in query.relevant}
        dev = [query for query in queries_of(shelf, "dev") if tested.isdisjoint(query.relevant)][: MAX_QUERIES["dev"]]
        queries["test"] += test
        queries["dev"] += dev
        of_lang = list(documents(shelf))
        rows += of_lang
        counts[shelf.lang] = {"documents": len(of_lang), "test_queries": len(test), "dev_queries": len(dev)}
    if not queries["test"]:
        return {}
    return {"all": write_collection(out / "long_documents", rows, queries), **counts}
