"""Corpus files → rows. A row that is not a document becomes a ``Rejected`` with line and reason; reading continues."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

from m3_vdb import streams
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.rich_text import MAX_PDF_BYTES, PACKAGES, read_html, read_pdf
from m3_vdb.ingest.rows import NOT_JSON, NOT_UTF8, TOO_LARGE, WRONG_TYPE, Fields, Note, Rejected, Row, RowError, place
from m3_vdb.jsonl import read_json_object
from m3_vdb.types import Document

Reader = Callable[[BinaryIO, str, Fields, Note], Iterator[Row | Rejected]]
MARKDOWN: Final = (".md", ".markdown", ".mdx")
_DEFAULT: Final = Fields()
_AT_FIRST: Final = 1 << 16
"""Bytes of a text that are read first."""
_FRONT_MATTER: Final = re.compile(
    r"\s*(?P<mark>---|\+\+\+)[ \t]*\r?\n(?P<fields>.*?)^(?P=mark)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
"""YAML between lines of ---, or TOML between lines of +++."""
_FIELD: Final = re.compile(r"[\w.-]+[ \t]*[:=](?:[ \t]|$)|#|[ \t]|- |\[|$")
"""How a line of front matter begins; else the --- are lines of the text."""
_TITLE: Final = re.compile(r"^title[ \t]*[:=][ \t]*(?P<title>.*?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_HEADING: Final = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(?P<hash>.+?)(?:[ \t]+#*)?[ \t]*\r?$"
    r"|^(?P<line>[^\s#>|`*+-].*?)[ \t]*\r?\n {0,3}(?:=+|-+)[ \t]*\r?$",
    re.MULTILINE,
)
_FENCE: Final = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)


def read_jsonl(path: Path, fields: Fields = _DEFAULT) -> Iterator[Document | Rejected]:
    """Read one JSON object a line: ``id`` (or BEIR's ``_id``), ``text``, optional ``title``, any further payload.

    Args:
        path: a UTF-8 file, packed or not; lines that are not UTF-8 are rejected like other bad lines.
        fields: which fields make the document.

    Raises:
        OSError: the file cannot be read.
    """
    ids = ContentIds()
    with streams.open_stream(path) as file:
        for row in jsonl_rows(file, str(path), fields):
            yield ids.give(row).document if isinstance(row, Row) else row


def jsonl_rows(file: BinaryIO, name: str, fields: Fields, note: Note | None = None) -> Iterator[Row | Rejected]:
    """The rows of an open JSONL file; blank lines are none."""
    for number, line, whole in streams.numbered_lines(file):
        if not whole:
            yield too_large(name, number, line)
        elif line.strip():
            yield made(partial(_json_document, line, fields), name, number, line)


def made(document: Callable[[], Document], file: str, line: int, raw: bytes | None) -> Row | Rejected:
    """A row, or its rejection, from a function that makes the document."""
    text = None if raw is None else raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        return Row(document(), file, line, text)
    except RowError as error:
        return Rejected(place(file, line), str(error), error.kind, file=file, line=line, id=error.id, row=text)


def too_large(file: str, line: int, head: bytes) -> Rejected:
    """The rejection of a row that was not read to its end."""
    reason = f"longer than {streams.MAX_ROW_BYTES:,} bytes: split the text into passages"
    text = head[:1000].decode("utf-8", "backslashreplace")
    return Rejected(place(file, line), reason, TOO_LARGE, file=file, line=line, row=text)


def _json_document(line: bytes, fields: Fields) -> Document:
    text = decode(line)
    try:
        row = read_json_object(text)
    except ValueError as error:
        raise RowError(NOT_JSON, str(error)) from None
    except TypeError as error:
        raise RowError(WRONG_TYPE, str(error)) from None
    return fields.document(row)


def decode(data: bytes) -> str:
    """Bytes as text.

    Raises:
        RowError: they are no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            NOT_UTF8, f"not UTF-8 at byte {error.start}: convert it (iconv -t utf-8), or leave it out"
        ) from None


def text_document(file: BinaryIO, name: str, fields: Fields, *, id: str, kind: str = "text") -> Row | Rejected:
    """A whole file as one document.

    Args:
        file: the open file.
        name: its path, for messages.
        fields: only says what an empty text is.
        id: the document's id.
        kind: "text"; "markdown", whose front matter is left out, and a heading is the title; "html" or "pdf".
    """
    most = MAX_PDF_BYTES if kind == "pdf" else streams.MAX_ROW_BYTES
    data = file.read(_AT_FIRST)  # so that a short file does not cost a buffer for the longest one
    if len(data) == _AT_FIRST:
        data += file.read(most + 1 - _AT_FIRST)
    if len(data) > most:
        return replace(too_large(name, 1, data), id=id)

    def document() -> Document:
        if kind in PACKAGES:
            title, text = read_html(data) if kind == "html" else read_pdf(data)
        else:
            text = decode(data)
            title, text = split_markdown(text) if kind == "markdown" else ("", text)
        return fields.document({fields.id[0]: id, fields.title: title, fields.text[0]: text})

    found = made(document, name, 1, None)
    return found if isinstance(found, Row) else Rejected(name, found.reason, found.kind, file=name, line=1, id=id)


def split_markdown(text: str) -> tuple[str, str]:
    """(title, text) of a Markdown file.

    The title is that of the front matter, else the first heading. Front matter is left out of the text, and so is a
    heading that is the title and begins the text: title and text are encoded together.
    """
    title, body = "", text
    front = _FRONT_MATTER.match(text)
    if front and all(map(_FIELD.match, front["fields"].splitlines())):
        body = text[front.end() :].lstrip("\r\n")
        named = _TITLE.search(front["fields"])
        title = _scalar(named["title"]) if named else ""
    heading = _HEADING.search(_FENCE.sub(lambda code: re.sub(r"[^\r\n]", "`", code[0]), body))
    if heading is None:
        return title, body
    begins = not body[: heading.start()].strip()
    found = (heading["hash"] or heading["line"]).strip()
    if begins and title in ("", found):
        body = body[heading.end() :].lstrip("\r\n")
    return title or found, body


def _scalar(text: str) -> str:
    """A YAML or TOML string; "" for what is longer than a line."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace("''", "'") if text[0] == "'" else re.sub(r"\\(.)", r"\1", text[1:-1])
    return "" if text.startswith(("|", ">")) else re.sub(r"\s+#.*", "", text)


class ContentIds:
    """Ids made of the content, for rows that have none: the same row has the same id wherever it stands.

    Of equal rows the first has the plain id, and the others have -2, -3, … behind it. What is known is on disk.
    """

    def __init__(self) -> None:
        self._seen: Ledger | None = None
        self._copies: Counter[str] = Counter()
        self._place = 0

    def give(self, row: Row) -> Row:
        """The row, with an id."""
        if row.document.id:
            return row
        self._seen = self._seen or Ledger(None, run_key={}, resume=False)
        document = row.document
        content = json.dumps([document.title, document.text, document.payload], sort_keys=True, default=str)
        name = blake2b(content.encode(), digest_size=16).hexdigest()
        self._place += 1
        if self._seen.claim([(self._place, name)])[0] is not None:
            self._copies[name] += 1
            name = f"{name}-{self._copies[name] + 1}"
        return replace(row, document=replace(document, id=name))
