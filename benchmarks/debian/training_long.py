"""Training rows with long texts: a heading, the whole text that it was taken from, and other long texts.

The texts are put together from training-side sections alone. A chapter of which some sections are held out appears
without them, and no text shows a held-out query as a line, so that no row shows what is held out even in passing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from m3_vdb.evaluation.bm25 import BM25

from .long_documents import body
from .pool import HeldOut, Shelf
from .records import digest, estimate_tokens, key
from .texts import MIN_TOKENS, Section
from .training import FIRST_RANK, LAST_RANK, Row, clip

MAX_TEXT_CHARS = 40_000
"""About 8,192 tokens of XLM-R, the longest text that the model takes, and some to spare."""

MAX_ROWS = 60
"""Rows per language and source: a row weighs as much as a hundred of the short ones."""

MAX_ROWS_PER_TEXT = 3
NEGATIVES = 4


@dataclass(frozen=True, slots=True)
class Trainable:
    """What training may see of a long text.

    Attributes:
        source: name of the source.
        sections: the training-side sections.
        lines: their lines, without held-out queries, each in the form under which strings are compared and as it is.
    """

    source: str
    sections: Sequence[Section]
    lines: Sequence[tuple[str, str]]

    def body(self, asked: str = "") -> str:
        """The text, without the lines that repeat the query."""
        hidden = key(asked)
        return "\n".join(line for form, line in self.lines if form != hidden)


def trainable(shelf: Shelf, held: HeldOut) -> dict[str, Trainable]:
    """Identifier to text, where enough of the text is left."""
    found: dict[str, Trainable] = {}
    for text in shelf.texts:
        sections = [section for section in text.sections if not held.touches_concept(section.concept_id)]
        lines = [(key(line), line) for line in body(sections, frozenset()).split("\n")]
        kept = [(form, line) for form, line in lines if form not in held.queries]
        if sum(estimate_tokens(line) for _, line in kept) >= MIN_TOKENS:
            found[text.identifier] = Trainable(text.source, sections, kept)
    return found


def questions(texts: Mapping[str, Trainable], held: HeldOut, lang: str) -> Iterator[tuple[str, Section]]:
    """Identifier and section asked for, in an order fixed by hash, a few per text; no query has two answers."""
    named: dict[str, list[tuple[str, Section]]] = {}
    for identifier, text in texts.items():
        for section in text.sections:
            named.setdefault(key(section.query), []).append((identifier, section))
    taken: dict[str, int] = {}
    unique = [found[0] for query, found in named.items() if query and len(found) == 1]
    for identifier, section in sorted(unique, key=lambda pair: digest("long row", lang, pair[1].concept_id)):
        if not held.owns(section.query) and taken.get(identifier, 0) < MAX_ROWS_PER_TEXT:
            taken[identifier] = taken.get(identifier, 0) + 1
            yield identifier, section


def shelf_rows(shelf: Shelf, held: HeldOut) -> Iterator[Row]:
    """The rows of one language."""
    texts = trainable(shelf, held)
    names = list(texts)
    bodies = {name: text.body() for name, text in texts.items()}
    index = BM25(list(bodies.values()))
    taken: dict[str, int] = {}
    for name, asked in questions(texts, held, shelf.lang):
        text, query = texts[name], asked.query
        if taken.get(text.source, 0) >= MAX_ROWS:
            continue
        ranked = [names[position] for position, _ in index.search(query, LAST_RANK)][FIRST_RANK - 1 :]
        wrong = [other for other in ranked if other != name]
        drawn = sorted(wrong, key=lambda other: digest("negative", shelf.lang, asked.concept_id, other))[:NEGATIVES]
        if len(drawn) < NEGATIVES:
            continue
        taken[text.source] = taken.get(text.source, 0) + 1
        wrong_texts = [clip(bodies[other], MAX_TEXT_CHARS) for other in drawn]
        yield make_row(asked, shelf.lang, text.source, clip(text.body(query), MAX_TEXT_CHARS), wrong_texts)


def make_row(asked: Section, lang: str, source: str, positive: str, negatives: Sequence[str]) -> Row:
    """The row of a section that is asked for."""
    return {
        "query": asked.query,
        "pos": [positive],
        "neg": list(negatives),
        "lang": lang,
        "doc_lang": lang,
        "source": source,
        "concept": asked.concept_id,
    }


def in_order(found: Iterable[Row]) -> list[Row]:
    """The rows in an order fixed by hash."""
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("concept", "lang"))))


def rows(shelves: Sequence[Shelf], held: HeldOut) -> list[Row]:
    """The rows of all languages."""
    return in_order(row for shelf in shelves for row in shelf_rows(shelf, held))
