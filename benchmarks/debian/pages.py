"""Pages: what the parsers of help, books and manuals make of a file, before it is compared with English.

A page has the same path in every language, which joins the languages to one another; the first part of the path is
the module or the chapter that it belongs to. What nobody has translated is found by comparing a page with the
English one: a block that says the same is English.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .records import Record, key, weight

MIN_TEXT_WEIGHT = 80
"""Pages with less text of their own are tables of links."""

MIN_WORDS, MIN_DENSE_CHARS = 3, 8
"""What a heading must have to serve as a query; the second if it is Chinese, Japanese or Korean."""

_FUNCTION_WORDS = re.compile(r"\b(?:the|of|and|is|that|for|this|with|are|not|or|if|from|which|can|be)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")
ENGLISH_RATE = 0.15
"""English prose has a quarter to a third of these words, the languages here next to none. It is a guess, used
where there is no English page to compare with."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page, or one section of a book, in one language.

    Attributes:
        path: the same in every language, unique within a source.
        title: heading without its number.
        keywords: index entries or the one-line description.
        blocks: name to text of every paragraph, in the order of the page, the title excluded.
    """

    path: str
    title: str
    keywords: tuple[str, ...]
    blocks: Mapping[str, str]

    @property
    def part(self) -> str:
        """The module or chapter that the page belongs to."""
        return self.path.partition("/")[0]


Pages = Mapping[str, Page]
"""Path to page, in the order of reading."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What tells the pages of one source from those of another.

    Attributes:
        source: name of the source.
        prefix: first part of its concept ids.
        min_translated: share of a page's text that must differ from the English page.
        is_book: whether titles are headings, many of which say too little to be looked for.
        title_apart: whether a page's title is no part of a long text.
    """

    source: str
    prefix: str
    min_translated: float
    is_book: bool = False
    title_apart: bool = False

    def concept(self, path: str) -> str:
        """Concept id of the page at ``path``."""
        return f"{self.prefix}/{path}"


def is_heading(title: str) -> bool:
    """Whether a heading says enough to be looked for: "Installing" stands over too many sections."""
    if weight(title) > len(title):
        return len(title) >= MIN_DENSE_CHARS
    return len(title.split()) >= MIN_WORDS


def number_blocks(texts: Iterable[str]) -> dict[str, str]:
    """Names for the blocks of a page that has none of its own: their numbers."""
    return {str(number): text for number, text in enumerate(texts)}


def translated_share(texts: Collection[str], english: Iterable[str]) -> float:
    """Share of ``texts``, by weight, that is not among the ``english`` ones."""
    known = set(map(key, english))
    total = sum(map(weight, texts))
    return sum(weight(text) for text in texts if key(text) not in known) / total if total else 0.0


def looks_english(text: str) -> bool:
    """Whether a paragraph is English, by the words that no English sentence does without."""
    return len(_FUNCTION_WORDS.findall(text)) > ENGLISH_RATE * len(_WORD.findall(text))


def make_record(page: Page, english: Page, lang: str, kind: Kind) -> Record | None:
    """A page as a record, or ``None`` if too little of it is translated or too little text is left."""
    texts, title, keywords = list(page.blocks.values()), page.title, page.keywords
    if lang != "en":
        if translated_share(texts, english.blocks.values()) < kind.min_translated:
            return None
        known = set(map(key, english.blocks.values()))
        texts = [text for text in texts if key(text) not in known]
        untranslated = {key(text) for text in (english.title, *english.keywords)}
        title = "" if key(title) in untranslated else title
        keywords = tuple(text for text in keywords if key(text) not in untranslated)
    # A block that merely repeats the title or an index entry would hand the query over to the document.
    given_away = {key(text) for text in (page.title, *page.keywords)}
    text = "\n".join(text for text in texts if key(text) not in given_away)
    if weight(text) < MIN_TEXT_WEIGHT:
        return None
    title = "" if kind.is_book and not is_heading(title) else title
    return Record(kind.concept(page.path), kind.source, lang, title, keywords, text)
