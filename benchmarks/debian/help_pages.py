"""The help of LibreOffice and of GNOME as pages, and the strings of LibreOffice's user interface as translations.

LibreOffice (``libreoffice-help-{lang}``): the same page has the same path in every language, and every paragraph the
same id, which makes paragraphs of two languages translations of one another. The query is the page's h1 or one of the
entries that its authors wrote for the index. Text embedded from other pages is left out: it is those pages' text.

GNOME (``gnome-user-docs``, written in Mallard): a page has a title and a line that says what it is about. Some folders
hold little but English, which the comparison with English finds out by itself.

The strings (``libreoffice-l10n-{lang}``, gettext catalogues) are what the parallel paragraphs of the help lack: the
terms themselves, short, in every language. Long tooltips are left out, since they are sentences of the help.
"""

import io
import re
from collections.abc import Iterator
from functools import partial

from babel.messages.mofile import read_mo
from lxml import etree, html  # type: ignore[import-untyped]

from .pages import Files, Page, PageSource, by_volume, number_blocks, parse_each
from .records import Translation, flow, is_query, key, language_tag, tidy

STRINGS = "catalogs"
"""Name of the source of the strings."""
STRINGS_PATTERN = re.compile(r"/resource/(?P<lang>[^/]+)/LC_MESSAGES/\w+\.mo$")

_OWN_BLOCK = re.compile(r"(?:par|hd)_id")
_FOREIGN = {"embedded", "howtoget", "relatedtopics"}
_CODE = {"bascode", "pycode", "sqlcode", "code", "codeintable", "smathcode"}
_KEYWORD_SEPARATOR = re.compile(r"\s*[;,]\s*")

_MALLARD = "{http://projectmallard.org/1.0/}"
_BLOCKS = [_MALLARD + name for name in ("p", "title")]
_NOT_PROSE = [_MALLARD + name for name in ("links", "code", "screen", "media")]
"""Links repeat the titles of other pages."""
_SEQUENCES = [_MALLARD + name for name in ("guiseq", "keyseq")]
"""Menu paths and key combinations, between whose parts the style sheet puts a sign."""

_LONG_TOOLTIP = "extended_tip"
_PLACEHOLDER = re.compile(r"[%$#{}<>\\]")
_FOREIGN_MNEMONIC = re.compile(r"\s*\([~_]\w\)")
_MNEMONIC = re.compile(r"[~_](?=\w)")
_END = re.compile(r"[\s:：.…。]+$")


def libreoffice_page(path: str, content: bytes) -> Page | None:
    """Read one page of LibreOffice's help, or return ``None`` if it has no title."""
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
        # The pages carry both "Command" for macOS and "Ctrl" for the rest; a script shows one of them.
        for hidden in node.xpath('.//span[@class="MAC"]'):
            hidden.drop_tree()
        identifier, text = node.get("id", ""), tidy(node.text_content())
        if node.tag == "h1" and not title:
            title = text
        elif _OWN_BLOCK.match(identifier) and node.get("class") not in _CODE and text:
            blocks.setdefault(identifier, text)
    return Page(path, title, tuple(dict.fromkeys(filter(None, keywords))), blocks) if title else None


def gnome_page(path: str, content: bytes) -> Page | None:
    """Read one page of GNOME's help, or return ``None`` if it has no title."""
    root = etree.fromstring(content, parser=etree.XMLParser(resolve_entities=False, no_network=True))
    for part in [part for sequence in root.iter(*_SEQUENCES) for part in sequence]:
        part.tail = f"{part.tail or ''} "
    etree.strip_elements(root, *_NOT_PROSE, etree.Comment, etree.PI, etree.Entity, with_tail=False)
    title, description = root.find(f"{_MALLARD}title"), root.find(f"{_MALLARD}info/{_MALLARD}desc")
    if title is None:
        return None
    about = flow("".join(description.itertext())) if description is not None else ""
    etree.strip_elements(root, f"{_MALLARD}info", with_tail=False)
    root.remove(title)
    blocks = (node for node in root.iter(*_BLOCKS) if not any(node.iterancestors(*_BLOCKS)))
    texts = (flow("".join(node.itertext())) for node in blocks)
    return Page(path, flow("".join(title.itertext())), (about,) if about else (), number_blocks(filter(None, texts)))


def libreoffice_strings(files: Files) -> Iterator[tuple[str, Translation]]:
    """Yield language and string of every translated string without placeholders."""
    for match, content in files:
        for message in read_mo(io.BytesIO(content)):
            context: str | bytes = message.context or ""
            if isinstance(context, bytes):  # read_mo decodes it since Babel 2.19
                context = context.decode()
            if not message.id or _LONG_TOOLTIP in context or not isinstance(message.id, str):
                continue  # the header, the help's, or one that has a plural
            text, english = as_shown(str(message.string)), as_shown(message.id)
            usable = is_query(text) and is_query(english) and not has_placeholder(text + english)
            if usable and key(text) != key(english):
                yield language_tag(match["lang"]), Translation(f"{STRINGS}/{key(english)}", text, english)


def has_placeholder(message: str) -> bool:
    """Whether a program puts something into ``message``, or it has markup."""
    return _PLACEHOLDER.search(message) is not None


def as_shown(message: str) -> str:
    """``message`` without the mark of a shortcut ("Form control~s", "表(_T)"), its colon or its dots."""
    return _END.sub("", _MNEMONIC.sub("", _FOREIGN_MNEMONIC.sub("", tidy(message))))


LIBREOFFICE = PageSource(
    "libreoffice",
    "lo",
    lambda languages: [f"libreoffice-help-{'en-us' if lang == 'en' else lang}" for lang in sorted({"en", *languages})],
    re.compile(r"usr/share/libreoffice/help/(?P<lang>[^/]+)/text/(?P<path>.+)\.html$"),
    partial(parse_each, libreoffice_page),
    grouping=by_volume,
    has_paragraphs=True,
)
GNOME = PageSource(
    "gnome",
    "gnome",
    lambda _: ["gnome-user-docs"],
    re.compile(r"usr/share/help/(?P<lang>[^/]+)/(?P<path>.+)\.page$"),
    partial(parse_each, gnome_page),
    min_translated=0.70,
)
