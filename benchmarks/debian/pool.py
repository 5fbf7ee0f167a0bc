"""The documents and long texts of one language, who answers what, and what is held out.

A pool does not know where its texts came from. Relevance is by construction: a document answers a query when the
query is its title or one of its keywords, so that an index entry shared by several pages has several answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from .records import HELD_OUT, Edition, LongText, Record, Section, Side, Translation, digest, key, side_of

MAX_RELEVANT = 10
"""A query with more answers than this ("functions") asks for nothing in particular and is not used."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything in one language.

    Attributes:
        lang: language tag.
        records: the documents, each text once, ordered by concept id.
        answers: normalised query to the positions of the documents that answer it.
        long_texts: ordered by identifier.
        hidden: normalised queries of all held-out sections, which no long text may show as a line.
        paragraphs: paragraphs with their English originals.
        messages: strings of a user interface with their English originals.
    """

    lang: str
    records: Sequence[Record]
    answers: Mapping[str, Sequence[int]]
    long_texts: Sequence[LongText]
    hidden: frozenset[str]
    paragraphs: Sequence[Translation]
    messages: Sequence[Translation]

    def relevant(self, query: str) -> list[Record]:
        """The documents that answer ``query``."""
        return [self.records[position] for position in self.answers.get(key(query), ())]

    def answered_first_by(self, record: Record, query: str) -> list[Record]:
        """The documents that answer ``query``; the one whose query it is leads."""
        return sorted(self.relevant(query), key=lambda other: other.concept_id != record.concept_id)


@dataclass(slots=True)
class HeldOut:
    """Everything that belongs to a judged query, over all languages; training rows must touch none of it."""

    queries: set[str] = field(default_factory=set)
    concepts: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def owns(self, query: str) -> bool:
        """Whether a query is held out, in whatever language."""
        return key(query) in self.queries

    def touches_concept(self, concept_id: str) -> bool:
        """Whether a concept is held out, be it only because it shares a query with one that is."""
        return side_of(concept_id) != "train" or concept_id in self.concepts

    def touches(self, record: Record) -> bool:
        """Whether a document may not be trained on, as a positive or as a negative."""
        return self.touches_concept(record.concept_id) or key(record.text) in self.texts


def make_pool(*editions: Edition) -> Pool:
    """Gather one language; of several records with the same text the first by concept id stays."""
    by_text: dict[str, Record] = {}
    every = chain.from_iterable(edition.records for edition in editions)
    for record in sorted(every, key=lambda record: record.concept_id):
        by_text.setdefault(key(record.text), record)
    records = tuple(by_text.values())
    answers: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        for candidate in dict.fromkeys(map(key, record.candidates)):
            answers.setdefault(candidate, []).append(position)
    long_texts = chain.from_iterable(edition.long_texts for edition in editions)
    ordered = sorted(long_texts, key=lambda text: text.identifier)
    hidden = (key(one.query) for one in sections_of(ordered) if one.query and side_of(one.concept_id) in HELD_OUT)
    return Pool(
        editions[0].lang,
        records,
        answers,
        ordered,
        frozenset(hidden),
        list(chain.from_iterable(edition.paragraphs for edition in editions)),
        list(chain.from_iterable(edition.messages for edition in editions)),
    )


def sections_of(texts: Iterable[LongText]) -> Iterable[Section]:
    """The sections of all ``texts``."""
    return (section for text in texts for section in text.sections)


def english_of(pools: Iterable[Pool]) -> Pool | None:
    """The pool of English documents, if there are any."""
    return next((pool for pool in pools if pool.lang == "en" and pool.records), None)


def queries_of(pool: Pool, side: Side) -> list[tuple[Record, str]]:
    """Each record's chosen query on one side of the split, in an order fixed by hash, no query twice.

    A dev query shares no answer with a test query, so that nothing chosen on the one was fitted to the other.
    """
    chosen: dict[str, tuple[Record, str]] = {}
    records = [record for record in pool.records if side_of(record.concept_id) == side and record.query]
    for record in sorted(records, key=lambda record: digest("order", record.concept_id, record.lang)):
        if len(pool.answers[key(record.query)]) <= MAX_RELEVANT:
            chosen.setdefault(key(record.query), (record, record.query))
    if side != "dev":
        return list(chosen.values())
    tested = {position for _, query in queries_of(pool, "test") for position in pool.answers[key(query)]}
    return [pair for query, pair in chosen.items() if tested.isdisjoint(pool.answers[query])]


def hold_out(pools: Iterable[Pool]) -> HeldOut:
    """What the tests and the dev sets own: every query that a held-out concept offers.

    Those that a collection has no room for are among them; collections of other tasks may have it.
    """
    held = HeldOut()
    for pool in pools:
        for _, query in (pair for side in HELD_OUT for pair in queries_of(pool, side)):
            held.queries.add(key(query))
            held.concepts |= {record.concept_id for record in pool.relevant(query)}
            held.texts |= {key(record.text) for record in pool.relevant(query)}
        held.queries |= pool.hidden
        held.concepts |= {one.concept_id for one in sections_of(pool.long_texts) if key(one.query) in pool.hidden}
    return held
