"""The help of GNOME (package ``gnome-user-docs``), written in Mallard, as pages.

A page has a title and a line that says what it is about (``<desc>``); the same file has the same name in every
language's folder. Some folders hold little but English, which the comparison with English finds out by itself.
"""

import re
from collections.abc import Iterable, Iterator

from lxml import etree  # type: ignore[import-untyped]

from .languages import language_tag
from .pages import Kind, Page, number_blocks
from .records import flow

PACKAGE = "gnome-user-docs"
SUFFIX = ".page"
KIND = Kind("gnome", "gnome", 0.70)

_FILE = re.compile(r"usr/share/help/([^/]+)/(.+)\.page$")
_MALLARD = "{http://projectmallard.org/1.0/}"
_BLOCKS = {_MALLARD + name for name in ("p", "title")}
_LEFT_OUT = {_MALLARD + name for name in ("info", "links", "code", "screen", "media")}
"""Links repeat the titles of other pages; code and pictures are no prose."""

_SEQUENCES = {_MALLARD + name for name in ("guiseq", "keyseq")}
"""Menu paths and key combinations, between whose parts the style sheet puts a sign."""


def _text(element: etree._Element) -> str:
    parts = [element.text or ""]
    seam = " " if element.tag in _SEQUENCES else ""
    for child in element:
        # A comment's text is not the page's.
        if isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            parts.append(_text(child))
        parts.append((child.tail or "") + seam)
    return "".join(parts)


def _blocks(element: etree._Element) -> Iterator[str]:
    for child in element:
        if child.tag in _BLOCKS:
            yield flow(_text(child))
        elif isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            yield from _blocks(child)


def parse_page(path: str, content: bytes) -> Page | None:
    """Read one page, or return ``None`` if it has no title."""
    root = etree.fromstring(content, parser=etree.XMLParser(resolve_entities=False, no_network=True))
    title = root.find(_MALLARD + "title")
    if title is None:
        return None
    description = root.find(f"{_MALLARD}info/{_MALLARD}desc")
    keywords = filter(None, [flow(_text(description)) if description is not None else ""])
    root.remove(title)
    return Page(path, flow(_text(title)), tuple(keywords), number_blocks(filter(None, _blocks(root))))


def parse(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Page]]:
    """Yield language and page for every page among ``files``, ordered by path."""
    for name, content in sorted(files):
        match = _FILE.search(name)
        page = parse_page(match[2], content) if match else None
        if match and page is not None:
            yield language_tag(match[1]), page
