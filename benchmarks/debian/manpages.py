"""Manual pages as long documents: packages ``manpages``, ``manpages-dev`` and the translations ``manpages-{lang}``.

A page's first section names it and says in one line what it is for. That line is the query; the section is not part
of the text.
"""

import gzip
import re
from collections.abc import Iterable, Iterator

from . import troff
from .languages import language_tag
from .pages import Kind, Page, number_blocks

SUFFIX = ".gz"
ENGLISH = ("manpages", "manpages-dev")
TRANSLATED = ("de", "es", "fr", "ja", "pl", "ru", "uk", "zh")
"""What follows ``manpages-`` in the name of a package."""

KIND = Kind("manpages", "man", 0.60, title_apart=True)

_FILE = re.compile(r"usr/share/man/(?:([^/]+)/)?man\d\w*/([^/]+)\.gz$")
_DASH = re.compile(r"\s(?:-+|\u2013|\u2014|\u2212)\s+")


def parse_page(path: str, source: str) -> Page | None:
    """Read one page, or return ``None`` if it has no line that says what it is for."""
    sections = [section for section in troff.parse(source) if section.heading]
    if not sections or not sections[0].paragraphs:
        return None
    parts = _DASH.split(" ".join(sections[0].paragraphs), maxsplit=1)
    if len(parts) < 2:
        return None
    texts = [text for section in sections[1:] for text in (section.heading, *section.paragraphs)]
    return Page(path, parts[1], (), number_blocks(texts))


def _decode(content: bytes) -> str:
    try:
        return gzip.decompress(content).decode("utf-8")
    except UnicodeDecodeError:  # a few old pages; a wrong letter in a name does no harm
        return gzip.decompress(content).decode("latin-1")


def parse(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Page]]:
    """Yield language and page for every manual page among ``files``, ordered by path."""
    for name, content in sorted(files):
        match = _FILE.search(name)
        page = parse_page(match[2], _decode(content)) if match else None
        # The traditional script is converted from the simplified one: the same text twice.
        if match and page is not None and match[1] != "zh_TW":
            yield language_tag(match[1] or "en"), page
