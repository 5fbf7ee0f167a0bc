"""Passages of an article: paragraphs that say something, drawn by hash.

Texts of any script are cut between paragraphs, sentences, words and, at last, graphemes (of the ``regex`` library).
Spans are half-open (start, end) in code points.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Final, TypeAlias

import regex

from train.synthesis.articles import Article, digest
from train.synthesis.config import SynthesizeConfig

Span: TypeAlias = tuple[int, int]
Level: TypeAlias = tuple[Any, int]
"""A separator (compiled pattern), and the characters that a piece between two of them needs to stand alone."""

BLANK_LINE: Final = regex.compile(r"\n\s*\n\s*")
LINE: Final = regex.compile(r"\n\s*")
# A full stop of Latin and its kind ends a sentence only before white space ("3.5"); the others always do.
SENTENCE: Final = regex.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？．｡။།።۔؟।॥։]+["'」』”’»）》\]]*\s*""")
# Thai and Khmer may have zero-width spaces between words.
WORD: Final = regex.compile(r"[\s\u200b]+|[、，；：]\s*")
GRAPHEME: Final = regex.compile(r"\X")
TRIMMED: Final = regex.compile(r"[^\s\u200b\ufeff](?:.*[^\s\u200b\ufeff])?", regex.DOTALL)
MIN_LETTER_SHARE: Final = 0.7
"""Of a passage's characters without white space. Prose of any script has over 0.85, a table of figures under 0.5."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of an article about which a question is asked.

    Attributes:
        article: the whole.
        start: first character of the passage in ``article.text``.
        text: the passage, ``article.text[start : start + len(text)]``.
    """

    article: Article
    start: int
    text: str


def choose_passages(article: Article, config: SynthesizeConfig) -> list[Passage]:
    """At most ``questions_per_article`` passages, in the article's order; a higher number keeps those of a lower.

    The paragraphs are drawn by hash; one that is hardly made of letters is drawn over.
    """
    text = article.text
    spans = paragraphs(text, minimum=config.min_passage_characters, maximum=config.max_passage_characters)
    drawn = sorted(spans, key=lambda span: digest("passage", config.seed, article.id, span[0]))
    fit = (span for span in drawn if letter_share(text[slice(*span)]) >= MIN_LETTER_SHARE)
    chosen = sorted(islice(fit, config.questions_per_article))
    return [Passage(article, start, text[start:end]) for start, end in chosen]


def paragraphs(text: str, *, minimum: int, maximum: int) -> list[Span]:
    """Parts of a text of ``minimum`` to ``maximum`` characters.

    A paragraph ends at a blank line, or at a line end where it would be too long; short paragraphs, headings among
    them, are joined with the next; a long one is cut between sentences, then words, then graphemes.
    """
    levels = ((BLANK_LINE, minimum), (LINE, minimum), (SENTENCE, maximum), (WORD, maximum))
    graphemes = {0, *(match.end() for match in GRAPHEME.finditer(text))}
    found = []
    for start, end in segment(text, (0, len(text)), graphemes, levels=levels, limit=maximum):
        if (piece := TRIMMED.search(text, start, end)) is None:
            continue
        # Trimming may leave a mark without the white space that it stood on.
        if minimum <= len(piece[0]) <= maximum and set(piece.span()) <= graphemes:
            found.append(piece.span())
    return found


def segment(text: str, span: Span, graphemes: AbstractSet[int], *, levels: Sequence[Level], limit: int) -> list[Span]:
    """Cut a span at the strongest separators that bring every piece down to ``limit`` characters.

    Pieces too small to stand alone are joined with the next. A separator stays with the piece before it.

    Args:
        text: the text.
        span: part of it that is cut.
        graphemes: where a cut leaves all graphemes whole.
        levels: separators, strongest first; below the last, the cut is between graphemes.
        limit: most characters of a piece, white space at its end not counted (a longer grapheme stays whole).

    Returns:
        Spans in order that cover ``span`` without gaps.
    """

    def size(start: int, end: int) -> int:
        return len(text[start:end].rstrip())

    start, end = span
    if size(start, end) <= limit:
        return [span]
    separator, enough = levels[0] if levels else (GRAPHEME, limit)
    ends = (match.end() for match in separator.finditer(text, start, end))
    cuts = [start, *(at for at in ends if start < at < end and at in graphemes), end]
    joined: list[Span] = []
    for part in pairwise(cuts):
        for piece in segment(text, part, graphemes, levels=levels[1:], limit=limit) if levels else [part]:
            if joined and size(*joined[-1]) < enough and size(joined[-1][0], piece[1]) <= limit:
                joined[-1] = (joined[-1][0], piece[1])
            else:
                joined.append(piece)
    return joined


def letter_share(text: str) -> float:
    """Letters and their marks among all characters but white space; 0 for an empty text."""
    return len(regex.findall(r"[\p{L}\p{M}]", text)) / max(1, len(regex.findall(r"\S", text)))


def plain(text: str) -> str:
    """Lower-cased words in compatibility form, one space between: equal for texts that a reader would call the same."""
    return " ".join(regex.sub(r"[^\w\p{M}]+", " ", unicodedata.normalize("NFKC", text).casefold()).split())
