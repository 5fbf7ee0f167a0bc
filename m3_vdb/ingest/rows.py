"""What a corpus is made of: a row that became a document, or a row that could not, with its place and the reason."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from m3_vdb.errors import ItemError, M3Error
from m3_vdb.inputs import read_names
from m3_vdb.types import Document

NOT_UTF8: Final = "not UTF-8"
NOT_JSON: Final = "not JSON"
WRONG_TYPE: Final = "wrong type"
WRONG_COLUMNS: Final = "wrong columns"
NO_ID: Final = "no id"
NO_TEXT: Final = "no text"
EMPTY: Final = "nothing in it"
TOO_LARGE: Final = "too large"
UNREADABLE: Final = "unreadable"
DUPLICATE: Final = "duplicate id"
NOT_ENCODABLE: Final = "not encodable"
MODEL_OUTPUT: Final = "model output"
NOT_STORABLE: Final = "not storable"
REFUSED: Final = "refused by the store"
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not stored.

    Attributes:
        where: file and line, or the document's id.
        reason: what is wrong and what was expected.
        kind: the reason in two words, the same for all rows with this fault; summaries count by it.
        file: the file it stands in, if it came from one.
        line: its line there, from 1 (of Parquet, its row).
        id: the document's id, if it has one.
        row: the row itself, where it is text.
    """

    where: str
    reason: str
    kind: str = "bad row"
    file: str | None = None
    line: int | None = None
    id: str | None = None
    row: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A document with its place in a corpus.

    Attributes:
        document: the document.
        file: the file that it stands in.
        line: its line there, from 1 (of Parquet, its row).
        row: the row as it stands in the file, where that is text.
    """

    document: Document
    file: str
    line: int
    row: str | None = None


def place(file: str, line: int) -> str:
    """A row's place in words."""
    return f"{file}, line {line}"


def reject(item: Document | Row, kind: str, reason: str) -> Rejected:
    """The rejection of a row that was a document until a later step refused it."""
    if isinstance(item, Document):
        return Rejected(item.id, reason, kind, id=item.id)
    where = place(item.file, item.line)
    return Rejected(where, reason, kind, file=item.file, line=item.line, id=item.document.id, row=item.row)


def words(error: ItemError) -> str:
    """An error's message without the place in its batch, which would be another one in a resumed run."""
    return str(error).removeprefix(f"document {error.index}: ").replace(f"item {error.index}", "this text", 1)


class RowError(M3Error, ValueError):
    """A row is no document; never leaves this package.

    Args:
        kind: one of the kinds above.
        reason: what was wrong and what was expected.
        id: the row's id, where it could be read.
    """

    def __init__(self, kind: str, reason: str, *, id: str | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.id = id


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row make the document; all others become its payload.

    Attributes:
        id: the first of these that a row has.
        text: joined with line breaks; a row needs at least one of them.
        title: may be missing.
        columns: names of the columns of a CSV or TSV file without a header; None reads the header.
    """

    id: tuple[str, ...] = ("id", "_id")
    text: tuple[str, ...] = ("text",)
    title: str = "title"
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("id", "text", "columns"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, read_names(name, getattr(self, name)))

    def document(self, fields: Mapping[str, Any]) -> Document:
        """The document of a row.

        Raises:
            RowError: there is none in it.
        """
        rest = dict(fields)
        name = next((name for name in self.id if name in rest), None)
        if name is None:
            raise RowError(NO_ID, f"no id: expected a field {' or '.join(map(repr, self.id))}")
        identifier = _identifier(name, rest.pop(name))
        title = rest.pop(self.title, None)
        if not isinstance(title, str | None):
            raise RowError(WRONG_TYPE, f"{self.title!r} must be a string, got {_name(title)}", id=identifier)
        text = self._text(rest, identifier)
        if not (has_content(text) or has_content(title or "")):
            raise RowError(EMPTY, f"nothing to encode: {self._text_names} is empty", id=identifier)
        return Document(identifier, text, title or "", rest)

    def _text(self, rest: dict[str, Any], identifier: str) -> str:
        parts = [part for name in self.text if (part := rest.pop(name, None)) is not None]
        if not parts:
            raise RowError(NO_TEXT, f"no text: {self._text_names} must be a string", id=identifier)
        wrong = next((part for part in parts if not isinstance(part, str)), None)
        if wrong is not None:
            raise RowError(WRONG_TYPE, f"{self._text_names} must be a string, got {_name(wrong)}", id=identifier)
        return "\n".join(part for part in parts if part) if len(parts) > 1 else str(parts[0])

    @property
    def _text_names(self) -> str:
        return " and ".join(map(repr, self.text))


def has_content(text: str) -> bool:
    """Whether a text holds more than white space and invisible control characters."""
    return any(not c.isspace() and unicodedata.category(c) not in _INVISIBLE for c in text)


def _identifier(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        kind = NO_ID if value is None or value == "" else WRONG_TYPE
        raise RowError(kind, f"{name!r} must be a non-empty string or a whole number, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _name(value: object) -> str:
    return type(value).__name__


def without_row(rejected: Rejected) -> Rejected:
    """The rejection without the text of its row, which may be long."""
    return replace(rejected, row=None) if rejected.row else rejected
