"""Pages of help, books and manuals, and the records, long texts and translations that are made of them.

A page has the same path in every language, which joins the languages to one another; the first part of the path is
the module or the chapter that it belongs to. What nobody has translated is found by comparing a page with the
English one: a block that says the same is English.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from .records import (
    Edition,
    LongText,
    Record,
    Section,
    Translation,
    estimate_tokens,
    is_query,
    key,
    language_tag,
    weight,
)

MIN_TEXT_WEIGHT = 80
"""Pages with less text of their own are tables of links."""
MIN_WORDS, MIN_DENSE_CHARS = 3, 8
"""What a heading must have to serve as a query; the second if it is Chinese, Japanese or Korean."""
MIN_TOKENS = 2_000
"""A long text is longer than what the shorter tasks' models were made for; estimated."""
VOLUME_TOKENS = 5_000
"""Where a volume of help pages ends: about the length of a book's chapter."""
MAX_ENGLISH = 0.45
"""Share of a long text that may be untranslated. Higher than for a page: names of options and packages stay."""
MIN_PARAGRAPH_WEIGHT = 40
"""A shorter paragraph is a label."""
ENGLISH_RATE = 0.15
"""English prose has a quarter to a third of these words, the languages here next to none. It is a guess, used
where there is no English page to compare with."""
_FUNCTION_WORDS = re.compile(r"\b(?:the|of|and|is|that|for|this|with|are|not|or|if|from|which|can|be)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


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
Grouping = Callable[[Sequence[Page]], Iterable[tuple[str, Sequence[Page]]]]
"""How pages become long texts: name and pages of each."""


Files = Iterable[tuple[re.Match[str], bytes]]
"""Matches of a source's pattern with the paths in a package, ordered by path, and the files' content."""


@dataclass(frozen=True, slots=True)
class PageSource:
    """A source of pages, and its rules.

    Attributes:
        name: of the source.
        prefix: first part of its concept ids.
        packages: names of the Debian packages with some languages; those that do not exist are skipped.
        pattern: of the paths of files that are wanted, with a group ``lang``.
        parse: turns these files into language and page.
        min_translated: share of a page's text that must differ from the English page.
        grouping: how pages become long texts, if they do.
        is_book: whether titles are headings, many of which say too little to be looked for.
        title_apart: whether a page's title is not part of a long text.
        has_records: whether each page is also a record.
        has_paragraphs: whether the paragraphs of two languages have the same names.
    """

    name: str
    prefix: str
    packages: Callable[[Sequence[str]], Sequence[str]]
    pattern: re.Pattern[str]
    parse: Callable[[Files], Iterable[tuple[str, Page]]]
    min_translated: float = 0.60
    grouping: Grouping | None = None
    is_book: bool = False
    title_apart: bool = False
    has_records: bool = True
    has_paragraphs: bool = False

    def concept(self, path: str) -> str:
        """Concept id of the page at ``path``."""
        return f"{self.prefix}/{path}"


def parse_each(parse_page: Callable[[str, bytes], Page | None], files: Files) -> Iterator[tuple[str, Page]]:
    """Yield language and page of every file that is a page; the pattern's group ``path`` is the page's."""
    for match, content in files:
        page = parse_page(match["path"], content)
        if page is not None:
            yield language_tag(match["lang"] or "en"), page


def number_blocks(texts: Iterable[str]) -> dict[str, str]:
    """Names for the blocks of a page that has none of its own: their numbers."""
    return {str(number): text for number, text in enumerate(texts)}


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
    return ((page.path, [page]) for page in pages)


def edition(pages: Pages, english: Pages, lang: str, source: PageSource) -> Edition:
    """What the pages of one language give, next to the English ones."""
    twins = {path: english[path] for path in pages if path in english}
    records = (
        (make_record(pages[path], twin, lang, source) for path, twin in twins.items()) if source.has_records else ()
    )
    translated = source.has_paragraphs and lang != "en"
    return Edition(
        lang,
        [record for record in records if record is not None],
        list(long_texts(pages, english, lang, source)),
        [one for path, twin in twins.items() for one in paragraphs(pages[path], twin, source)] if translated else [],
    )


def make_record(page: Page, english: Page, lang: str, source: PageSource) -> Record | None:
    """A page as a record, or ``None`` if too little of it is translated or too little text is left."""
    texts, title, keywords = list(page.blocks.values()), page.title, page.keywords
    if lang != "en":
        total, known = sum(map(weight, texts)), set(map(key, english.blocks.values()))
        texts = [text for text in texts if key(text) not in known]
        if not total or sum(map(weight, texts)) / total < source.min_translated:
            return None
        untranslated = {key(text) for text in (english.title, *english.keywords)}
        title = "" if key(title) in untranslated else title
        keywords = tuple(text for text in keywords if key(text) not in untranslated)
    # A block that merely repeats the title or an index entry would hand the query over to the document.
    given_away = {key(text) for text in (page.title, *page.keywords)}
    text = "\n".join(text for text in texts if key(text) not in given_away)
    if weight(text) < MIN_TEXT_WEIGHT:
        return None
    title = "" if source.is_book and not is_heading(title) else title
    return Record(source.concept(page.path), source.name, lang, title, keywords, text)


def long_texts(pages: Pages, english: Pages, lang: str, source: PageSource) -> Iterator[LongText]:
    """Yield the texts of one language that are long enough and not too English."""
    for name, group in source.grouping(list(pages.values())) if source.grouping else ():
        size = sum(estimate_tokens(text) for page in group for text in page.blocks.values())
        if size >= MIN_TOKENS and (lang == "en" or english_share(group, english) <= MAX_ENGLISH):
            sections = tuple(_section(page, english.get(page.path), source) for page in group)
            yield LongText(source.concept(name), source.name, lang, sections)


def _section(page: Page, twin: Page | None, source: PageSource) -> Section:
    """A page as a section; a title that is English, or says too little, is not a query."""
    translated = twin is None or twin is page or key(twin.title) != key(page.title)
    query = page.title if translated and is_query(page.title) and is_heading(page.title) else ""
    heading = "" if source.title_apart else page.title
    return Section(source.concept(page.path), heading, query, "\n".join(page.blocks.values()))


def paragraphs(page: Page, english: Page, source: PageSource) -> Iterator[Translation]:
    """Yield the translated paragraphs of a page with their English originals."""
    for name, text in page.blocks.items():
        original = english.blocks.get(name, "")
        if min(weight(text), weight(original)) >= MIN_PARAGRAPH_WEIGHT and key(text) != key(original):
            yield Translation(source.concept(page.path), text, original)


def is_heading(title: str) -> bool:
    """Whether a heading says enough to be looked for: "Installing" stands over too many sections."""
    if weight(title) > len(title):
        return len(title) >= MIN_DENSE_CHARS
    return len(title.split()) >= MIN_WORDS


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


def looks_english(text: str) -> bool:
    """Whether a paragraph is English, by the words that no English sentence does without."""
    return len(_FUNCTION_WORDS.findall(text)) > ENGLISH_RATE * len(_WORD.findall(text))
