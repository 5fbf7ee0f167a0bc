"""Books that DocBook's style sheets made into HTML: Debian's handbook, its reference and the installation guide.

All three mark sections by ``<div class="section">`` or the like, and put every section's heading into a
``<div class="titlepage">``. The structure is the same in every language, so that the n-th section of a file is the
same section everywhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lxml import html  # type: ignore[import-untyped]

from .pages import Files, Page, PageSource, by_chapter, number_blocks
from .records import BOOK, flow, language_tag

_CHAPTERS = {"chapter", "appendix", "preface"}
_SECTIONS = {*_CHAPTERS, "section", "simplesect", "sect1", "sect2", "sect3", "sect4", "sect5"}
_LEFT_OUT = {"titlepage", "toc", "navheader", "navfooter", "footnotes"}
_BLOCKS = {"p", "dt", "td", "th", "li", "dd"}
_SECTION_NUMBER = re.compile(r"(?:\d+|[A-Z])(?:\.\d+)*\.\s+")
_CHAPTER_NUMBER = re.compile(r".{0,16}?(?:\d+|[A-Z])\s*(?:\.\s|[章장]\.?\s|\s)\s*")
"""The word for "chapter" or "appendix", a number or a letter, and what separates it from the title."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a book: which file is above it, which follows, and heading and blocks of its sections."""

    above: str
    following: str
    sections: Sequence[tuple[str, list[str]]]


def parse(files: Files) -> Iterator[tuple[str, Page]]:
    """Yield language and page for every section among ``files``, in the order in which a book's files are linked."""
    books: dict[str, dict[str, _File]] = {}
    for match, content in files:
        parsed = _parse_file(content, suffix=f".{match['lang']}")
        books.setdefault(language_tag(match["lang"]), {})[match["path"]] = parsed
    for lang, book in sorted(books.items()):
        for name in _in_order(book):
            above = book[name].above
            chapter = above if above in book and above != "index" else name
            for number, (heading, texts) in enumerate(book[name].sections):
                yield lang, Page(f"{chapter}/{name}/{number}", heading, (), number_blocks(texts))


def strip_number(heading: str, *, chapter: bool) -> str:
    """``heading`` without "11.7.1." or "Chapter 11."."""
    number = (_CHAPTER_NUMBER if chapter else _SECTION_NUMBER).match(heading)
    return heading[number.end() :] if number else heading


def _parse_file(content: bytes, suffix: str) -> _File:
    tree = html.fromstring(content, parser=html.HTMLParser(encoding="utf-8", remove_comments=True))
    # Where the page's head leads to, without language and suffix.
    above, following = (
        str(tree.xpath(f'string(//link[@rel="{relation}"]/@href)'))
        .removesuffix(".html")
        .split("#")[0]
        .removesuffix(suffix)
        for relation in ("up", "next")
    )
    sections = []
    for element in filter(_is_section, tree.iter("div")):
        heading = flow("".join(node.text_content() for node in element.xpath('./div[@class="titlepage"]')))
        chapter = element.get("class") in _CHAPTERS
        sections.append((strip_number(heading, chapter=chapter), list(filter(None, _blocks(element)))))
    return _File(above, following, sections)


def _is_section(element: html.HtmlElement) -> bool:
    return element.tag == "div" and element.get("class") in _SECTIONS


def _is_block(element: html.HtmlElement) -> bool:
    return element.tag in _BLOCKS or (element.tag == "div" and element.get("class") == "para")


def _blocks(element: html.HtmlElement) -> Iterator[str]:
    """The text of ``element`` without its subsections, one string per innermost block."""
    for child in element:
        if _is_section(child) or child.tag == "pre" or child.get("class") in _LEFT_OUT:
            continue
        if _is_block(child) and not any(map(_is_block, child.iterdescendants("p", "div", "li", "td"))):
            for code in child.xpath(".//pre"):
                code.drop_tree()
            yield flow(child.text_content())
        else:
            yield from _blocks(child)


def _in_order(book: Mapping[str, _File]) -> list[str]:
    """The names of a book's files in the order in which they link to one another; the unlinked ones are last."""
    order: dict[str, None] = {}
    name = "index"
    while name in book and name not in order:
        order[name] = None
        name = book[name].following
    return [*order, *sorted(set(book) - set(order))]


_REFERENCE_LANGUAGES = ("de", "en", "es", "fr", "id", "it", "ja", "pt", "zh-cn")
_book = partial(PageSource, parse=parse, grouping=by_chapter, is_book=True)
HANDBOOK = _book(
    "handbook",
    BOOK,
    lambda _: ["debian-handbook"],
    re.compile(r"usr/share/doc/debian-handbook/html/(?P<lang>[^/]+)/(?P<path>[^/]+)\.html$"),
)
GUIDE = _book(
    "installation-guide",
    "guide",
    lambda _: ["installation-guide-amd64"],
    re.compile(r"usr/share/doc/installation-guide-amd64/(?P<lang>[^/]+)/(?P<path>[^/]+)\.html$"),
    has_records=False,
)
REFERENCE = _book(
    "debian-reference",
    "reference",
    lambda languages: [f"debian-reference-{lang}" for lang in _REFERENCE_LANGUAGES if lang in {"en", *languages}],
    re.compile(r"usr/share/debian-reference/(?P<path>[^/.]+)\.(?P<lang>[^/.]+)\.html$"),
    has_records=False,
)
