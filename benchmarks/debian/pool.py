"""One language's documents and long texts, who answers what, and what is held out.

A pool does not know where its records came from. Relevance is by construction: a document answers a query when the
query is its title or one of its keywords, so that an index entry shared by several pages has several answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .records import HELD_OUT, Record, Side, digest, key, side_of
from .texts import LongText

MAX_RELEVANT = 10
"""A query with more answers than this ("functions") asks for nothing in particular and is not used."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The documents of one language, each text once, ordered by concept id.

    Attributes:
        lang: language tag.
        records: the documents.
        answers: normalised query to the positions of the documents that answer it.
    """

    lang: str
    records: Sequence[Record]
    answers: Mapping[str, tuple[int, ...]]

    def relevant(self, query: str) -> tuple[int, ...]:
        """Positions of the documents that answer ``query``."""
        return self.answers.get(key(query), ())


@dataclass(frozen=True, slots=True)
class Shelf:
    """The long texts of one language.

    Attributes:
        lang: language tag.
        texts: ordered by identifier.
        hidden: normalised queries of all held-out sections, which no text may show as a line.
    """

    lang: str
    texts: Sequence[LongText]
    hidden: frozenset[str]


@dataclass(slots=True)
class HeldOut:
    """Everything that belongs to a judged query, over all languages; training rows must touch none of it."""

    queries: set[str] = field(default_factory=set)
    concepts: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def add(self, pool: Pool, query: str) -> None:
        """Hold out ``query`` of ``pool`` with all documents that answer it."""
        self.queries.add(key(query))
        for position in pool.relevant(query):
            self.concepts.add(pool.records[position].concept_id)
            self.texts.add(key(pool.records[position].text))

    def owns(self, query: str) -> bool:
        """Whether a query is held out, in whatever language."""
        return key(query) in self.queries

    def touches_concept(self, concept_id: str) -> bool:
        """Whether a concept is held out, be it only because it shares a query with one that is."""
        return side_of(concept_id) != "train" or concept_id in self.concepts

    def touches(self, record: Record) -> bool:
        """Whether a document may not be trained on, as a positive or as a negative."""
        return self.touches_concept(record.concept_id) or key(record.text) in self.texts


def make_pool(lang: str, records: Iterable[Record]) -> Pool:
    """Gather one language's records; of several with the same text the first by concept id stays."""
    by_text: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.concept_id):
        by_text.setdefault(key(record.text), record)
    kept = tuple(by_text.values())
    answers: dict[str, list[int]] = {}
    for position, record in enumerate(kept):
        for candidate in dict.fromkeys(map(key, record.candidates)):
            answers.setdefault(candidate, []).append(position)
    return Pool(lang, kept, {query: tuple(positions) for query, positions in answers.items()})


def make_shelf(lang: str, texts: Iterable[LongText]) -> Shelf:
    """Gather one language's long texts."""
    ordered = sorted(texts, key=lambda text: text.identifier)
    held = (section for text in ordered for section in text.sections if side_of(section.concept_id) in HELD_OUT)
    return Shelf(lang, ordered, frozenset(key(section.query) for section in held if section.query))


def queries_of(pool: Pool, side: Side) -> list[tuple[Record, str]]:
    """Each record's chosen query on one side of the split, in an order fixed by hash, no query twice.

    A dev query shares no answer with a test query, so that nothing chosen on the one was fitted to the other.
    """
    chosen: dict[str, tuple[Record, str]] = {}
    records = [record for record in pool.records if side_of(record.concept_id) == side and record.query]
    for record in sorted(records, key=lambda record: digest("order", record.concept_id, record.lang)):
        if len(pool.relevant(record.query)) <= MAX_RELEVANT:
            chosen.setdefault(key(record.query), (record, record.query))
    if side != "dev":
        return list(chosen.values())
    tested = {position for _, query in queries_of(pool, "test") for position in pool.relevant(query)}
    return [pair for pair in chosen.values() if tested.isdisjoint(pool.relevant(pair[1]))]


def hold_out(pools: Iterable[Pool], shelves: Iterable[Shelf] = ()) -> HeldOut:
    """What the tests and the dev sets own: every query that a held-out concept offers.

    Those that a collection has no room for are among them; collections of other tasks may have it.
    """
    held = HeldOut()
    for pool in pools:
        for side in HELD_OUT:
            for _, query in queries_of(pool, side):
                held.add(pool, query)
    for shelf in shelves:
        held.queries |= shelf.hidden
        sections = (section for text in shelf.texts for section in text.sections)
        held.concepts |= {section.concept_id for section in sections if key(section.query) in shelf.hidden}
    return held
