"""The pages of ``libreoffice-help-{lang}`` as records.

The same page has the same path in every language, and every paragraph the same id, so that a paragraph nobody has
translated is found by comparing it with the English one. The query is the page's h1 or one of the entries that its
authors wrote for the index. Text embedded from other pages is left out: it is those pages' text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lxml import html  # type: ignore[import-untyped]

from .records import Record, key, tidy, weight

SOURCE = "libreoffice"
PACKAGE = "libreoffice-help-"

MIN_TRANSLATED = 0.60
"""Share of the English text (in characters) whose translation must differ from it."""

MIN_TEXT_WEIGHT = 80
"""Pages with less text of their own are tables of links."""

_PAGE = re.compile(r"usr/share/libreoffice/help/[^/]+/text/(.+)\.html$")
_BLOCK = re.compile(r"(?:par|hd)_id")
_FOREIGN = {"embedded", "howtoget", "relatedtopics"}
_CODE = {"bascode", "pycode", "sqlcode", "code", "codeintable", "smathcode"}
_KEYWORD_SEPARATOR = re.compile(r"\s*[;,]\s*")


@dataclass(frozen=True, slots=True)
class Page:
    """One help page: ``blocks`` maps paragraph id to text, in the order of the page, the h1 excluded."""

    title: str
    keywords: tuple[str, ...]
    blocks: Mapping[str, str]


def package_name(lang: str) -> str:
    """Debian package with the help in ``lang``."""
    return PACKAGE + ("en-us" if lang == "en" else lang)


def page_path(name: str) -> str:
    """``swriter/guide/anchor_object`` for the file of that page in a package, ``""`` for any other file."""
    match = _PAGE.search(name)
    return match[1] if match else ""


def _text(element: html.HtmlElement) -> str:
    # The pages carry both "Command" for macOS and "Ctrl" for the rest; a script shows one of them.
    for hidden in element.xpath('.//span[@class="MAC"]'):
        hidden.drop_tree()
    return tidy(element.text_content())


def parse_page(content: bytes) -> Page | None:
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
    return Page(title, tuple(dict.fromkeys(filter(None, keywords))), blocks) if title else None


def make_record(path: str, lang: str, page: Page, english: Page) -> Record | None:
    """A page as a record, or ``None`` if too little of it is translated or too little text is left."""
    blocks = dict(page.blocks)
    title, keywords = page.title, page.keywords
    if lang != "en":
        shared = {name: len(text) for name, text in english.blocks.items() if name in blocks}
        blocks = {name: text for name, text in blocks.items() if key(text) != key(english.blocks.get(name, ""))}
        translated = sum(size for name, size in shared.items() if name in blocks)
        if not shared or translated < MIN_TRANSLATED * sum(shared.values()):
            return None
        untranslated = {key(text) for text in (english.title, *english.keywords)}
        title = "" if key(title) in untranslated else title
        keywords = tuple(text for text in keywords if key(text) not in untranslated)
    # A block that merely repeats the title or an index entry would hand the query over to the document.
    given_away = {key(text) for text in (page.title, *page.keywords)}
    text = "\n".join(text for text in blocks.values() if key(text) not in given_away)
    if weight(text) < MIN_TEXT_WEIGHT:
        return None
    return Record(f"lo/{path}", SOURCE, lang, title, keywords, text)


def parse_pages(files: Iterable[tuple[str, bytes]]) -> dict[str, Page]:
    """All pages of one package, by path."""
    pages = {path: parse_page(content) for name, content in files if (path := page_path(name))}
    return {path: page for path, page in sorted(pages.items()) if page is not None}


def records(lang: str, pages: Mapping[str, Page], english: Mapping[str, Page]) -> Iterator[Record]:
    """Yield the pages of one language that also exist in English."""
    for path, page in pages.items():
        record = make_record(path, lang, page, english[path]) if path in english else None
        if record is not None:
            yield record
