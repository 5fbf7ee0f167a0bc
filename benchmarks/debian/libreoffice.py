"""The pages of ``libreoffice-help-{lang}``.

The same page has the same path in every language, and every paragraph the same id, which makes paragraphs of two
languages translations of one another. The query is the page's h1 or one of the entries that its authors wrote for
the index. Text embedded from other pages is left out: it is those pages' text.
"""

import re
from collections.abc import Iterable, Iterator

from lxml import html  # type: ignore[import-untyped]

from .languages import language_tag
from .pages import Kind, Page
from .records import tidy

SUFFIX = ".html"
PACKAGE = "libreoffice-help-"
KIND = Kind("libreoffice", "lo", 0.60)

_PAGE = re.compile(r"usr/share/libreoffice/help/([^/]+)/text/(.+)\.html$")
_BLOCK = re.compile(r"(?:par|hd)_id")
_FOREIGN = {"embedded", "howtoget", "relatedtopics"}
_CODE = {"bascode", "pycode", "sqlcode", "code", "codeintable", "smathcode"}
_KEYWORD_SEPARATOR = re.compile(r"\s*[;,]\s*")


def package_name(lang: str) -> str:
    """Debian package with the help in ``lang``."""
    return PACKAGE + ("en-us" if lang == "en" else lang)


def _text(element: html.HtmlElement) -> str:
    # The pages carry both "Command" for macOS and "Ctrl" for the rest; a script shows one of them.
    for hidden in element.xpath('.//span[@class="MAC"]'):
        hidden.drop_tree()
    return tidy(element.text_content())


def parse_page(path: str, content: bytes) -> Page | None:
    """Read one help page, or return ``None`` if it is no page with a title."""
    areas = html.fromstring(content, parser=html.HTMLParser(encoding="utf-8")).xpath('//div[@id="DisplayArea"]')
    if not areas:
        return None
    area = areas[0]
    for foreign in [node for node in area.iter("div") if node.get("class") in _FOREIGN | _CODE]:
        foreign.drop_tree()
    keywords = [_KEYWORD_SEPARATOR.sub(" ", tidy(node.get("content", ""))) for node in area.xpath(".//meta")]
    title = ""
    blocks: dict[str, str] = {}
    for node in area.iter("h1", "h2", "h3", "h4", "h5", "h6", "p"):
        identifier = node.get("id", "")
        if node.tag == "h1" and not title:
            title = _text(node)
        elif _BLOCK.match(identifier) and node.get("class") not in _CODE and (text := _text(node)):
            blocks.setdefault(identifier, text)
    return Page(path, title, tuple(dict.fromkeys(filter(None, keywords))), blocks) if title else None


def parse(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Page]]:
    """Yield language and page for every page among ``files``, ordered by path."""
    for name, content in sorted(files):
        match = _PAGE.search(name)
        page = parse_page(match[2], content) if match else None
        if match and page is not None:
            yield language_tag(match[1]), page
