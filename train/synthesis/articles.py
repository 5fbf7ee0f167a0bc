"""Long articles, a sample of them, and the passages that are asked about.

A line is ``{"text", "id"?, "title"?, "lang"?}``, as ``m3-vdb ingest`` takes it; other fields are ignored. The files
are read again whenever the articles are needed, so memory holds a number for each and no text. Passages are paragraphs,
cut between sentences, words and, at last, graphemes (of the ``regex`` library); spans are half-open, in code points.
"""

from __future__ import annotations

import heapq
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, TypeAlias

import regex

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.files import check_strings, identifier
from m3_vdb.jsonl import parse_object, read_lines
from train.synthesis.config import SynthesizeConfig

Span: TypeAlias = tuple[int, int]

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
class Article:
    """One article.

    Attributes:
        id: unique among all articles.
        text: the body, from which passages are drawn.
        title: may be empty.
        lang: language code, empty if unknown.
    """

    id: str
    text: str
    title: str = ""
    lang: str = ""

    @property
    def document(self) -> str:
        """What a search engine indexes: the title above the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Sample:
    """The articles that were chosen.

    Attributes:
        chosen: their ranks in the draw.
        read: articles read, whether suitable or not.
        rejected: reason → lines that cannot be used; articles that were merely not drawn are not among them.
    """

    chosen: frozenset[int]
    read: int
    rejected: Mapping[str, int]

    def articles(self, config: SynthesizeConfig) -> Iterator[Article]:
        """The chosen articles, in the order of the files."""
        return (article for rank, article in _read(config, Counter()) if rank in self.chosen)


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


def digest(*parts: object) -> int:
    """64 bits that depend on all parts and on nothing else; the same on every machine."""
    data = json.dumps([str(part) for part in parts]).encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def draw_sample(config: SynthesizeConfig) -> Sample:
    """Choose articles of suitable length; which ones does not depend on the order of files and lines.

    Raises:
        DocumentError: a line is not an article or repeats an id, and ``on_bad_row`` is "stop".
        ConfigError: a file cannot be read, or no article is left.
    """
    read, rejected, suitable = 0, Counter[str](), list[int]()
    for rank, article in _read(config, rejected):
        read += 1
        if len(article.text) < config.min_characters:
            rejected["article below min_characters"] += 1
        elif len(article.text) > config.max_characters:
            rejected["article above max_characters"] += 1
        else:
            suitable.append(rank)
    if not suitable:
        raise ConfigError(
            f"no article of {config.min_characters} to {config.max_characters} characters among {read}: "
            f"check min_characters and max_characters"
        )
    drawn = heapq.nsmallest(config.max_articles, suitable) if config.max_articles else suitable
    return Sample(frozenset(drawn), read, rejected)


def parse_article(line: bytes, path: Path, index: int) -> Article:
    """Read one line.

    Raises:
        DocumentError: it is not an article; file and line are in the message.
    """
    fields = parse_object(line, path, index)
    where = f"{path}, line {index + 1}"
    text, title, lang = fields.get("text"), fields.get("title") or "", fields.get("lang") or ""
    if not isinstance(text, str) or not text.strip() or not isinstance(title, str) or not isinstance(lang, str):
        raise DocumentError(
            f'{where}: expected {{"text": str}} that is not blank, with optional strings "id", "title" and "lang"',
            index=index,
        )
    given = fields.get("id", fields.get("_id"))  # "_id" is BEIR's name for it
    name = f"{digest(title, text, lang):016x}" if given is None else identifier(given)
    if not name:
        raise DocumentError(f"{where}: 'id' must be a non-empty string or a whole number, got {given!r}", index=index)
    check_strings([name, title, lang, text], where, index)
    return Article(name, text, title, lang)


def _read(config: SynthesizeConfig, rejected: Counter[str]) -> Iterator[tuple[int, Article]]:
    """(rank in the draw, article) of every good line."""
    seen: set[int] = set()
    for path in config.articles:
        for index, line in read_lines(path):
            try:
                article = parse_article(line, path, index)
                rank = digest("article", config.seed, article.id)
                if rank in seen:
                    reason = f"id {article.id!r} was used before: ids are unique over all files"
                    raise DocumentError(f"{path}, line {index + 1}: {reason}", index=index)
            except DocumentError as error:
                if config.on_bad_row == "stop":
                    raise DocumentError(f"{error} (on_bad_row=skip leaves such lines out)", index=index) from None
                rejected["bad row"] += 1
                continue
            seen.add(rank)
            yield rank, article


def choose_passages(article: Article, config: SynthesizeConfig) -> list[Passage]:
    """At most ``questions_per_article`` passages, in the article's order; a higher number keeps those of a lower one.

    Paragraphs are drawn by hash; one that is mostly figures is passed over.
    """
    text = article.text
    spans = paragraphs(text, minimum=config.min_passage_characters, maximum=config.max_passage_characters)
    drawn = sorted(spans, key=lambda span: digest("passage", config.seed, article.id, span[0]))
    fit = (span for span in drawn if letter_share(text[slice(*span)]) >= MIN_LETTER_SHARE)
    chosen = sorted(islice(fit, config.questions_per_article))
    return [Passage(article, start, text[start:end]) for start, end in chosen]


def paragraphs(text: str, *, minimum: int, maximum: int) -> list[Span]:
    """Parts of a text of ``minimum`` to ``maximum`` characters, in order.

    A paragraph ends at a blank line, or at a line end where it would be too long; short paragraphs, headings among
    them, are joined with the next; a long one is cut between sentences, then words, then graphemes.
    """
    graphemes = {0, *(match.end() for match in GRAPHEME.finditer(text))}
    # Separators, strongest first, and the characters that a piece between two of them needs to stand alone.
    levels = ((BLANK_LINE, minimum), (LINE, minimum), (SENTENCE, maximum), (WORD, maximum), (GRAPHEME, maximum))

    def size(start: int, end: int) -> int:
        return len(text[start:end].rstrip())

    def pieces(start: int, end: int, level: int) -> list[Span]:
        """Spans without gaps; a separator stays with the piece before it, a grapheme that is too long stays whole."""
        if size(start, end) <= maximum or level == len(levels):
            return [(start, end)]
        separator, enough = levels[level]
        ends = (match.end() for match in separator.finditer(text, start, end))
        cuts = [start, *(at for at in ends if start < at < end and at in graphemes), end]
        joined: list[Span] = []
        for piece in (piece for part in pairwise(cuts) for piece in pieces(*part, level + 1)):
            if joined and size(*joined[-1]) < enough and size(joined[-1][0], piece[1]) <= maximum:
                joined[-1] = (joined[-1][0], piece[1])
            else:
                joined.append(piece)
        return joined

    found = (TRIMMED.search(text, *piece) for piece in pieces(0, len(text), 0))
    # Trimming may leave a mark without the white space that it stood on.
    return [one.span() for one in found if one and minimum <= len(one[0]) <= maximum and {*one.span()} <= graphemes]


def letter_share(text: str) -> float:
    """Letters and their marks among all characters but white space; 0 for an empty text."""
    return len(regex.findall(r"[\p{L}\p{M}]", text)) / max(1, len(regex.findall(r"\S", text)))


def plain(text: str) -> str:
    """Lower-cased words in compatibility form, one space between: equal for texts that a reader would call the same."""
    return " ".join(regex.sub(r"[^\w\p{M}]+", " ", unicodedata.normalize("NFKC", text).casefold()).split())
