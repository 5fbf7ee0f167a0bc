"""Corpus files → rows. A row that is no document becomes a ``Rejected`` with its line and reason, never a stop."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from m3_vdb.ingest import streams
from m3_vdb.ingest.cells import ContentIds
from m3_vdb.ingest.markdown import split_markdown
from m3_vdb.ingest.rows import NOT_JSON, NOT_UTF8, TOO_LARGE, WRONG_TYPE, Fields, Note, Rejected, Row, RowError, place
from m3_vdb.types import Document

Reader = Callable[[BinaryIO, str, Fields, Note], Iterator[Row | Rejected]]
MARKDOWN: Final = (".md", ".markdown", ".mdx")
_DEFAULT: Final = Fields()


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
    for number, line, whole in streams.read_lines(file):
        data = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not whole:
            yield too_large(name, number, data)
        elif data.strip():
            yield made(lambda data=data: fields.document(parse_json(data)), name, number, data)  # type: ignore[misc]


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


def parse_json(line: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        RowError: it is none.
    """
    try:
        fields: Any = json.loads(decode(line))  # not from bytes: that would guess UTF-16 and let surrogates pass
    except RecursionError:
        raise RowError(NOT_JSON, "not JSON: nested too deeply") from None
    except ValueError as error:  # also numbers of thousands of digits
        if isinstance(error, RowError):
            raise
        about = getattr(error, "msg", error)  # without JSONDecodeError's own line number, which is always 1
        raise RowError(NOT_JSON, f"not JSON: {about}") from None
    if not isinstance(fields, dict):
        raise RowError(WRONG_TYPE, f"expected a JSON object, got {type(fields).__name__}")
    return fields


def decode(data: bytes) -> str:
    """Bytes as text.

    Raises:
        RowError: they are no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF8, f"not UTF-8 at byte {error.start}") from None


def text_document(file: BinaryIO, name: str, fields: Fields, *, id: str, markdown: bool = False) -> Row | Rejected:
    """A whole file as one document.

    Args:
        file: the open file.
        name: its path, for messages.
        fields: only says what an empty text is.
        id: the document's id.
        markdown: front matter is left out, and a heading is the title.
    """
    data = file.read(streams.MAX_ROW_BYTES + 1)
    if len(data) > streams.MAX_ROW_BYTES:
        return too_large(name, 1, data)

    def document() -> Document:
        text = decode(data.removeprefix(BOM_UTF8))
        title, text = split_markdown(text) if markdown else ("", text)
        return fields.document({fields.id[0]: id, fields.title: title, fields.text[0]: text})

    found = made(document, name, 1, None)
    return found if isinstance(found, Row) else Rejected(name, found.reason, found.kind, file=name, line=1, id=id)
