"""Translated paragraphs of the help as questions: the English original, and what is almost the same.

A row is ``{"query", "pos": [one text], "neg": [...], "lang", "doc_lang", "source"}``: a paragraph in another language,
its original, and the English paragraphs that BM25 finds most like that. Among random paragraphs any trained model finds
the original (:mod:`.pairs`); among these it has to know what the words mean.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

from m3_vdb.evaluation.bm25 import BM25, tokenize

from .pairs import paragraph_pairs
from .pool import HeldOut
from .records import digest
from .texts import Paragraph
from .training import Row

MAX_ROWS = 1_000
"""Per language."""

SHORTEST = 40
"""Characters of an original: many shorter ones mean the same."""

NEGATIVES = 6
MOST_ALIKE = 0.8
"""Share of different tokens in common with the original from which on a paragraph passes for the same text."""


def rows(paragraphs: Mapping[str, Sequence[Paragraph]], held: HeldOut) -> list[Row]:
    """All rows in an order fixed by hash; a paragraph with too few others that are like it has none."""
    pairs = [
        (row, original)
        for lang in sorted(paragraphs)
        for row in paragraph_pairs(lang, paragraphs[lang], held)
        for original in cast("list[str]", row["pos"])
        if row["doc_lang"] == "en" and len(original) >= SHORTEST
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
        if taken.get(row["lang"], 0) < MAX_ROWS and len(wrong := negatives(original)) == NEGATIVES:
            taken[row["lang"]] = taken.get(row["lang"], 0) + 1
            found.append(row | {"neg": wrong})
    return sorted(found, key=lambda row: digest("row", *(str(row[k]) for k in ("query", "lang", "pos"))))


def _alike(one: str, other: str) -> float:
    """Tokens that both have as a share of those that either has."""
    first, second = set(tokenize(one)), set(tokenize(other))
    return len(first & second) / max(len(first | second), 1)
