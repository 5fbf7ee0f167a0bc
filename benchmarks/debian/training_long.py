"""Training rows with long texts: a heading, the whole text that it was taken from, and other long texts.

The texts are put together from training-side sections alone. A chapter of which some sections are held out appears
without them, so that no row shows a held-out section, not even in passing.
"""

from collections.abc import Iterator, Mapping, Sequence

from .bm25 import BM25
from .long_documents import Shelf, body
from .pool import HeldOut
from .records import digest, estimate_tokens, key
from .texts import MIN_TOKENS, LongText, Section
from .training import FIRST_RANK, LAST_RANK, Row, clip

MAX_TEXT_CHARS = 40_000
"""About 8,192 tokens of XLM-R, the longest text that the model takes, and some to spare."""

MAX_ROWS = 60
"""Rows per language and source: a row weighs as much as a hundred of the short ones."""

MAX_ROWS_PER_TEXT = 3
NEGATIVES = 4


def trainable(shelf: Shelf, held: HeldOut) -> dict[str, tuple[LongText, list[Section]]]:
    """Identifier to the text and its training-side sections, where enough of the text is left."""
    found: dict[str, tuple[LongText, list[Section]]] = {}
    for text in shelf.texts:
        sections = [section for section in text.sections if not held.touches_concept(section.concept_id)]
        if estimate_tokens(body(sections, shelf.hidden)) >= MIN_TOKENS:
            found[text.identifier] = text, sections
    return found


def questions(
    texts: Mapping[str, tuple[LongText, Sequence[Section]]], held: HeldOut, lang: str
) -> Iterator[tuple[str, str]]:
    """Identifier and query in an order fixed by hash, a few per text and no query that two texts answer."""
    named: dict[str, list[tuple[str, str]]] = {}
    for identifier, (_, sections) in texts.items():
        for query in dict.fromkeys(section.query for section in sections if section.query):
            named.setdefault(key(query), []).append((identifier, query))
    taken: dict[str, int] = {}
    unique = [pairs[0] for pairs in named.values() if len(pairs) == 1]
    for identifier, query in sorted(unique, key=lambda pair: digest("long row", lang, *pair)):
        if not held.owns(query) and taken.get(identifier, 0) < MAX_ROWS_PER_TEXT:
            taken[identifier] = taken.get(identifier, 0) + 1
            yield identifier, query


def shelf_rows(shelf: Shelf, held: HeldOut) -> Iterator[Row]:
    """The rows of one language."""
    texts = trainable(shelf, held)
    names = list(texts)
    bodies = {name: body(sections, shelf.hidden) for name, (_, sections) in texts.items()}
    index = BM25(list(bodies.values()))
    taken: dict[str, int] = {}
    for name, query in questions(texts, held, shelf.lang):
        text, sections = texts[name]
        if taken.get(text.source, 0) >= MAX_ROWS:
            continue
        ranked = [names[position] for position, _ in index.search(query, LAST_RANK)][FIRST_RANK - 1 :]
        wrong = [other for other in ranked if other != name]
        drawn = sorted(wrong, key=lambda other: digest("negative", shelf.lang, name, query, other))[:NEGATIVES]
        if len(drawn) < NEGATIVES:
            continue
        taken[text.source] = taken.get(text.source, 0) + 1
        yield {
            "query": query,
            "pos": [clip(body(sections, shelf.hidden | {key(query)}), MAX_TEXT_CHARS)],
            "neg": [clip(bodies[other], MAX_TEXT_CHARS) for other in drawn],
            "lang": shelf.lang,
            "doc_lang": shelf.lang,
            "source": text.source,
            "concept": text.identifier,
        }


def rows(shelves: Sequence[Shelf], held: HeldOut) -> list[Row]:
    """The rows of all languages in an order fixed by hash."""
    found = [row for shelf in shelves for row in shelf_rows(shelf, held)]
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("concept", "lang", "query"))))
