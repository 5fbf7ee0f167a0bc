"""HTML pages and PDF documents → (title, text), by selectolax and pypdf (the extra ``readers``).

Of a page, the main part is read: ``main``, or its only ``article``, or the body without what surrounds the text.
Paragraphs, list items and rows of tables become lines; ``pre`` keeps its lines. Of a PDF, the text of its pages.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from importlib.util import find_spec
from typing import Any, Final

from m3_vdb.ingest.rows import ENCRYPTED, NO_TEXT, UNREADABLE, RowError, has_content

PACKAGES: Final = {"html": "selectolax", "pdf": "pypdf"}
"""Format → what reads it."""
MAX_PDF_BYTES: Final = 256 * 1024 * 1024
"""Most of a large PDF is pictures."""
_NEVER: Final = (
    "script, style, noscript, template, svg, iframe, nav, footer, button, input, select, textarea, dialog, [hidden], "
    '[aria-hidden="true"], [role="navigation"]'
)
"""What is never text of a page."""
_AROUND: Final = 'header, aside, [role="banner"], [role="complementary"], [role="contentinfo"], [role="search"]'
"""What surrounds the text, where a page does not say which part is its main part."""
_BLOCKS: Final = (
    "address, article, aside, blockquote, body, br, caption, dd, details, div, dl, dt, fieldset, figcaption, figure, "
    "form, h1, h2, h3, h4, h5, h6, header, hr, li, main, ol, p, pre, section, summary, table, tr, ul"
)
_BREAK: Final = "\x1e"
_KEPT_SPACE: Final = "\x1f"
"""A line break that stays, and a space of ``pre``; HTML has neither character."""
_SPACES: Final = re.compile("[ \t\r\n\f\v\u00a0]+")
_CHARSET: Final = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_CHARSET_WITHIN: Final = 4096
_NO_TITLE: Final = re.compile(r"(untitled|microsoft word - .*|.*\.(docx?|tex|dvi|indd|pdf|odt|pptx?))", re.IGNORECASE)
"""What programs write as the title of a PDF that has none."""


def is_installed(format: str) -> bool:
    """Whether the package that reads a format is installed."""
    return find_spec(PACKAGES[format]) is not None


def read_html(data: bytes) -> tuple[str, str]:
    """(title, text) of a page; "" for what it lacks.

    The title is the first ``h1`` of the main part, which the text then lacks (they are encoded together), else the
    page's ``title``.
    """
    from selectolax.lexbor import LexborHTMLParser  # noqa: PLC0415 - an extra

    page: Any = LexborHTMLParser(_decode(data))
    named = page.css_first("title")
    title = "" if named is None else _line(named.text())
    if page.body is None:
        return title, ""
    for node in page.css(_NEVER):
        node.decompose()
    articles = page.css("article")
    main = page.css_first('main, [role="main"]') or (articles[0] if len(articles) == 1 else None)
    if main is None or not has_content(main.text()):
        main = page.body
        heading = main.css_first("h1")
        for node in main.css(_AROUND):
            node.decompose() if heading is None or node.css_first("h1") is None else node.unwrap()
    heading = main.css_first("h1")
    if heading is not None and has_content(heading.text()):
        title = _line(heading.text())
        heading.decompose()
    for node in main.css("pre"):
        node.replace_with(_kept(node.text()))
    for node in main.css(_BLOCKS):
        node.insert_before(_BREAK)
        node.insert_after(_BREAK)
    for node in main.css("td, th"):
        node.insert_after(" ")
    lines = (_SPACES.sub(" ", line).strip(" ") for line in main.text().split(_BREAK))
    return title, "\n".join(line for line in lines if line).replace(_KEPT_SPACE, " ")


def _kept(text: str) -> str:
    """Text of ``pre``, whose spaces and line breaks stay."""
    lines = (line.rstrip().replace(" ", _KEPT_SPACE) for line in text.splitlines())
    return f"{_BREAK}{_BREAK.join(lines)}{_BREAK}"


def _line(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _decode(data: bytes) -> str:
    """A page as text: UTF-8, else what it says itself, else windows-1252, as browsers do."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        said = _CHARSET.search(data[:_CHARSET_WITHIN])
    name = said[1].decode("ascii", "replace") if said else ""
    try:
        codecs.lookup(name)
    except LookupError:
        name = "windows-1252"
    return data.decode(name, "replace")


def read_pdf(data: bytes) -> tuple[str, str]:
    """(title, text) of a PDF document, pages separated by an empty line.

    Raises:
        RowError: it is encrypted, has no text, or cannot be read.
    """
    import pypdf  # noqa: PLC0415 - an extra

    logger = logging.getLogger("pypdf")
    if not logger.handlers:  # else what it mends in a damaged file is printed for every file
        logger.addHandler(logging.NullHandler())
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise RowError(ENCRYPTED, "the PDF needs a password: save it without one")
        pages = [page.extract_text().strip() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "").strip()
    except RowError:
        raise
    except pypdf.errors.DependencyError:
        raise RowError(ENCRYPTED, "the PDF is encrypted by AES: pip install cryptography reads it") from None
    except Exception as error:  # of a damaged file anything may be raised
        raise RowError(UNREADABLE, f"the PDF is damaged ({type(error).__name__}: {_line(str(error))})") from None
    text = "\n\n".join(page for page in pages if page).encode("utf-8", "replace").decode()
    if not has_content(text):
        raise RowError(NO_TEXT, f"the PDF has no text on its {len(pages):,} pages, which may be scanned: run OCR first")
    return ("" if _NO_TITLE.fullmatch(title) else title), text
