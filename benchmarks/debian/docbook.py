"""Books that DocBook's style sheets made into HTML: Debian's handbook, its reference and the installation guide.

All three mark sections by ``<div class="section">`` or the like, and put every section's heading into a
``<div class="titlepage">``. The structure is the same in every language, so that the n-th section of a file is the
same section everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lxml import html  # type: ignore[import-untyped]

from .languages import language_tag
from .pages import Page, number_blocks
from .records import flow

SUFFIX = ".html"

_PLACES = (
    re.compile(r"usr/share/doc/debian-handbook/html/(?P<lang>[^/]+)/(?P<file>[^/]+)\.html$"),
    re.compile(r"usr/share/doc/installation-guide-amd64/(?P<lang>[^/]+)/(?P<file>[^/]+)\.html$"),
    re.compile(r"usr/share/debian-reference/(?P<file>[^/.]+)\.(?P<lang>[^/.]+)\.html$"),
)
_CHAPTERS = {"chapter", "appendix", "preface"}
_SECTIONS = {
    *_CHAPTERS,
    *("section", "simplesect"),
    *(f"sect{level}" for level in range(1, 6)),
}
_LEFT_OUT = {"titlepage", "toc", "navheader", "navfooter", "footnotes"}
_CODE = {"pre"}
_BLOCKS = {"p", "dt", "td", "th", "li", "dd"}
_SECTION_NUMBER = re.compile(r"(?:\d+|[A-Z])(?:\.\d+)*\.\s+")
_CHAPTER_NUMBER = re.compile(r".{0,16}?(?:\d+|[A-Z])\s*(?:\.\s|[章장]\.?\s|\s)\s*")
"""The word for "chapter" or "appendix", a number or a letter, and what separates it from the title."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a book: which file is above it, which follows, and heading and blocks of its sections."""

    above: str
    following: str
    sections: Sequence[tuple[str, list[str]]]


def strip_number(heading: str, *, chapter: bool) -> str:
    """``heading`` without "11.7.1." or "Chapter 11."."""
    number = (_CHAPTER_NUMBER if chapter else _SECTION_NUMBER).match(heading)
    return heading[number.end() :] if number else heading


def _is_section(element: html.HtmlElement) -> bool:
    return element.tag == "div" and element.get("class") in _SECTIONS


def _is_block(element: html.HtmlElement) -> bool:
    return element.tag in _BLOCKS or (element.tag == "div" and element.get("class") == "para")


def _blocks(element: html.HtmlElement) -> Iterator[str]:
    """The text of ``element`` without its subsections, one string per innermost block."""
    for child in element:
        if _is_section(child) or child.tag in _CODE or child.get("class") in _LEFT_OUT:
            continue
        if _is_block(child) and not any(_is_block(inner) for inner in child.iterdescendants("p", "div", "li", "td")):
            for code in child.xpath(".//pre"):
                code.drop_tree()
            yield flow(child.text_content())
        else:
            yield from _blocks(child)


def _link(tree: html.HtmlElement, relation: str) -> str:
    """Name of the file that a link in the page's head leads to, without language and suffix."""
    return str(tree.xpath(f'string(//link[@rel="{relation}"]/@href)')).removesuffix(".html").split("#")[0]


def parse_file(content: bytes) -> File:
    """Read one file of a book."""
    tree = html.fromstring(content, parser=html.HTMLParser(encoding="utf-8", remove_comments=True))
    sections = []
    for element in filter(_is_section, tree.iter("div")):
        heading = flow("".join(node.text_content() for node in element.xpath('./div[@class="titlepage"]')))
        chapter = element.get("class") in _CHAPTERS
        sections.append((strip_number(heading, chapter=chapter), list(filter(None, _blocks(element)))))
    return File(_link(tree, "up"), _link(tree, "next"), sections)


def in_order(files: Mapping[str, File]) -> list[str]:
    """The names of a book's files in the order in which they link to one another; the unlinked ones are last."""
    order: dict[str, None] = {}
    name = "index"
    while name in files and name not in order:
        order[name] = None
        name = files[name].following
    return [*order, *sorted(set(files) - set(order))]


def pages(files: Mapping[str, File]) -> Iterator[Page]:
    """The sections of one book in one language; a file belongs to the chapter that its "up" link names."""
    for name in in_order(files):
        above = files[name].above
        chapter = above if above in files and above != "index" else name
        for number, (heading, texts) in enumerate(files[name].sections):
            yield Page(f"{chapter}/{name}/{number}", heading, (), number_blocks(texts))


def parse(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Page]]:
    """Yield language and page for every section among ``files``."""
    books: dict[str, dict[str, File]] = {}
    for name, content in files:
        match = next(filter(None, (place.search(name) for place in _PLACES)), None)
        if match is not None:
            parsed = parse_file(content)
            suffix = f".{match['lang']}"
            links = (parsed.above.removesuffix(suffix), parsed.following.removesuffix(suffix))
            books.setdefault(language_tag(match["lang"]), {})[match["file"]] = File(*links, parsed.sections)
    for lang, book in sorted(books.items()):
        for page in pages(book):
            yield lang, page
