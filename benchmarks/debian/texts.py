"""What a source yields, language by language: records, long texts and translations.

A long text is put together from sections: a chapter from those of a book, a volume from consecutive pages of the
help, and a manual page is one section by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from .pages import Kind, Page, Pages, is_heading, looks_english, make_record
from .records import Record, estimate_tokens, is_query, key, weight

MIN_TOKENS = 2_000
"""A long text is longer than what the shorter tasks' models were made for; estimated."""

VOLUME_TOKENS = 5_000
"""Where a volume of help pages ends: about the length of a book's chapter."""

MAX_ENGLISH = 0.45
"""Share of a long text that may be untranslated. Higher than for a page: names of options and packages stay."""

MIN_PARAGRAPH_WEIGHT = 40
"""A shorter paragraph is a label."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a long text.

    Attributes:
        concept_id: the same string in every language that has this section.
        heading: as it stands in the text; ``""`` if the query is no part of the text.
        query: the string under which a person would look for this section, or ``""``.
        text: what follows the heading.
    """

    concept_id: str
    heading: str
    query: str
    text: str


@dataclass(frozen=True, slots=True)
class LongText:
    """A long document in one language; ``identifier`` is unique among those of the language."""

    identifier: str
    source: str
    lang: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """A paragraph or a string in one language, and the English one that it translates."""

    concept_id: str
    text: str
    english: str


@dataclass(frozen=True, slots=True)
class Edition:
    """What one source has in one language."""

    source: str
    lang: str
    records: Sequence[Record] = ()
    long_texts: Sequence[LongText] = ()
    paragraphs: Sequence[Translation] = ()
    messages: Sequence[Translation] = ()


Shelving = Callable[[Sequence[Page]], Iterable[tuple[str, Sequence[Page]]]]
"""How pages become long texts: name and pages of each."""


def by_chapter(pages: Sequence[Page]) -> Iterator[tuple[str, Sequence[Page]]]:
    """One text per part."""
    for part, group in groupby(pages, lambda page: page.part):
        yield part, list(group)


def by_volume(pages: Sequence[Page]) -> Iterator[tuple[str, Sequence[Page]]]:
    """Consecutive pages of one part, up to :data:`VOLUME_TOKENS` tokens."""
    for part, group in by_chapter(pages):
        number, size, volume = 1, 0, list[Page]()
        for page in group:
            tokens = sum(map(estimate_tokens, page.blocks.values()))
            if volume and size + tokens > VOLUME_TOKENS:
                yield f"{part}/{number}", volume
                number, size, volume = number + 1, 0, []
            size += tokens
            volume.append(page)
        yield f"{part}/{number}", volume


def by_page(pages: Sequence[Page]) -> Iterator[tuple[str, Sequence[Page]]]:
    """Every page is a text of its own."""
    for page in pages:
        yield page.path, [page]


def english_share(pages: Iterable[Page], english: Pages) -> float:
    """Share of the text of ``pages``, by weight, that is still English."""
    total = untranslated = 0
    for page in pages:
        twin = english.get(page.path)
        known = set(map(key, twin.blocks.values())) if twin else set()
        for text in page.blocks.values():
            total += weight(text)
            untranslated += weight(text) * (key(text) in known if twin else looks_english(text))
    return untranslated / total if total else 0.0


def _section(page: Page, twin: Page | None, kind: Kind) -> Section:
    """A page as a section; a title that is English, or says too little, is no query."""
    translated = twin is None or twin is page or key(twin.title) != key(page.title)
    query = page.title if translated and is_query(page.title) and is_heading(page.title) else ""
    heading = "" if kind.title_apart else page.title
    return Section(kind.concept(page.path), heading, query, "\n".join(page.blocks.values()))


def long_texts(pages: Pages, english: Pages, lang: str, kind: Kind, shelve: Shelving) -> Iterator[LongText]:
    """Yield the texts of one language that are long enough and not too English.

    Args:
        pages: the language's pages in the order of reading.
        english: the English ones.
        lang: language tag.
        kind: whose pages these are.
        shelve: which pages make a text.
    """
    for name, group in shelve(list(pages.values())):
        size = sum(estimate_tokens(text) for page in group for text in page.blocks.values())
        if size >= MIN_TOKENS and (lang == "en" or english_share(group, english) <= MAX_ENGLISH):
            sections = tuple(_section(page, english.get(page.path), kind) for page in group)
            yield LongText(kind.concept(name), kind.source, lang, sections)


def paragraphs(pages: Pages, english: Pages, kind: Kind) -> Iterator[Translation]:
    """Yield the translated paragraphs of one language with their English originals."""
    for path, page in pages.items():
        originals = english[path].blocks if path in english else {}
        for name, text in page.blocks.items():
            original = originals.get(name, "")
            if min(weight(text), weight(original)) >= MIN_PARAGRAPH_WEIGHT and key(text) != key(original):
                yield Translation(kind.concept(path), text, original)


def records(pages: Pages, english: Pages, lang: str, kind: Kind) -> Iterator[Record]:
    """Yield the pages of one language that also exist in English as records."""
    for path, page in pages.items():
        record = make_record(page, english[path], lang, kind) if path in english else None
        if record is not None:
            yield record
