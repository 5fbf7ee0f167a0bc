"""Translations as questions: the English original, and what is almost the same.

A row is ``{"query", "pos": [one text], "neg": [...], "lang", "doc_lang", "source"}``: a paragraph of the help or a
string of the user interface in another language, its original, and the English ones that BM25 finds most like that.
Among random paragraphs any trained model finds the original (:mod:`.pairs`); among these it has to know what the words
mean.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

from m3_vdb.evaluation.bm25 import BM25, tokenize

from . import catalogs, libreoffice
from .pairs import paragraph_pairs
from .pool import HeldOut
from .records import digest
from .texts import Translation
from .training import Row

MAX_PARAGRAPHS = 1_000
MAX_MESSAGES = 3_000
"""Per language."""

SHORTEST = 40
"""Characters of a paragraph's original: many shorter ones mean the same."""

NEGATIVES = 6
MOST_ALIKE = 0.8
"""Share of different tokens in common with the original from which on a paragraph passes for the same text."""

Translations = Mapping[str, Sequence[Translation]]


def paragraph_rows(paragraphs: Translations, held: HeldOut) -> list[Row]:
    """Rows of the help's paragraphs in an order fixed by hash; one with too few others that are like it has none."""
    return _rows(paragraphs, held, libreoffice.KIND.source, shortest=SHORTEST, most=MAX_PARAGRAPHS)


def message_rows(messages: Translations, held: HeldOut) -> list[Row]:
    """Rows of the user interface's strings, in the same way."""
    return _rows(messages, held, catalogs.SOURCE, shortest=1, most=MAX_MESSAGES)


def _rows(translations: Translations, held: HeldOut, source: str, *, shortest: int, most: int) -> list[Row]:
    pairs = [
        (row, original)
        for lang in sorted(translations)
        for row in paragraph_pairs(lang, translations[lang], held, source)
        for original in cast("list[str]", row["pos"])
        if row["doc_lang"] == "en" and len(original) >= shortest
    ]
    originals = sorted({original for _, original in pairs})
    index = BM25(originals)

    @cache
    def negatives(original: str) -> list[str]:
        found = (originals[at] for at, _ in index.search(original, 4 * NEGATIVES))
        return [text for text in found if _alike(text, original) < MOST_ALIKE][:NEGATIVES]

    taken: dict[object, int] = {}
    found: list[Row] = []
    for row, original in pairs:
        if taken.get(row["lang"], 0) < most and len(wrong := negatives(original)) == NEGATIVES:
            taken[row["lang"]] = taken.get(row["lang"], 0) + 1
            found.append(row | {"neg": wrong})
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("query", "lang", "pos"))))


def _alike(one: str, other: str) -> float:
    """Tokens that both have as a share of those that either has."""
    first, second = set(tokenize(one)), set(tokenize(other))
    return len(first & second) / max(len(first | second), 1)
