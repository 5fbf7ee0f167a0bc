"""What a corpus is made of: a row that became a document, or a row that could not, with its place and the reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError, ItemError, M3Error
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
ENCRYPTED: Final = "encrypted"
DUPLICATE: Final = "duplicate id"
NOT_ENCODABLE: Final = "not encodable"
MODEL_OUTPUT: Final = "model output"
NOT_STORABLE: Final = "not storable"
REFUSED: Final = "refused by the store"
LETTER_FIELDS: Final = ("file", "line", "id", "kind", "reason", "row")
"""What a dead letter says, in this order."""
Note: TypeAlias = Callable[[str, str], None]
"""Takes what the user should know once: what it is about, and a sentence."""
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
        name = str(item.id)  # what is wrong may be that it is not a string
        return Rejected(name, reason, kind, id=name)
    where = place(item.file, item.line)
    return Rejected(where, reason, kind, file=item.file, line=item.line, id=item.document.id, row=item.row)


def message_without_index(error: ItemError) -> str:
    """An error's message without the place in its batch: file and line say it, and a resumed run has other batches."""
    message = re.sub(rf"^document {error.index}( \('.*?'\)| \(\".*?\"\))?: ", "", str(error), flags=re.DOTALL)
    return message.replace(f"item {error.index}", "this text", 1)


class RowError(M3Error, ValueError):
    """A row is not a document; never leaves this package.

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
    """Which fields of a row make the document; the others become its payload.

    null, a missing field and "" are the same for text and title.

    Attributes:
        id: the first of these that a row has. Rows of a table (CSV, TSV, Parquet) that has no column of the default
            names get ids made of their content: the same row has the same id in every run, wherever it stands.
        text: joined with line breaks; a row needs a text or a title.
        title: may be missing.
        columns: names of the columns of a CSV or TSV file without a header; None reads the header.
        keep: fields that become payload; None for all.
        drop: fields that are left out of the payload.
        auto_id: make an id of the content also for other rows without one.
        delimiter: one character between the cells of CSV; None finds it in the first line.
    """

    id: tuple[str, ...] = ("id", "_id")
    text: tuple[str, ...] = ("text",)
    title: str = "title"
    columns: tuple[str, ...] | None = None
    # Not in the text by which a checkpoint knows the run: what they change shows in the rows' digest.
    keep: tuple[str, ...] | None = field(default=None, repr=False)
    drop: tuple[str, ...] = field(default=(), repr=False)
    auto_id: bool = field(default=False, repr=False)
    delimiter: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("id", "text", "columns", "keep", "drop"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, read_names(name, getattr(self, name)))
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise ConfigError(f"delimiter {self.delimiter!r}: expected one character, such as ; or a tab")
        both = sorted(set(self.keep or ()) & set(self.drop))
        if both:
            raise ConfigError(f"the field {both[0]!r} is both kept and dropped: choose one")

    def document(self, fields: Mapping[str, Any]) -> Document:
        """The document of a row; its id is "" where it is to be made of the content.

        Raises:
            RowError: there is none in it.
        """
        rest = dict(fields)
        name = next((name for name in self.id if name in rest), None)
        if name is None and not self.auto_id:
            raise RowError(
                NO_ID, f"no id: expected a field {' or '.join(map(repr, self.id))}; --auto-id makes one of the content"
            )
        identifier = "" if name is None else _identifier(name, rest.pop(name))
        title = rest.pop(self.title, None)
        if not isinstance(title, str | None):
            raise RowError(WRONG_TYPE, f"{self.title!r} must be a string, got {_name(title)}", id=identifier or None)
        text = self._text(rest, identifier or None, title or "")
        if not (has_content(text) or has_content(title or "")):
            raise RowError(EMPTY, f"nothing to encode: {self._text_names} is empty", id=identifier or None)
        return Document(identifier, text, title or "", {name: rest[name] for name in rest if self.is_payload(name)})

    def is_payload(self, name: str) -> bool:
        """Whether a field that is not id, text or title goes into the payload."""
        return name not in self.drop and (self.keep is None or name in self.keep)

    @property
    def for_document(self) -> frozenset[str]:
        """Fields that are not payload."""
        return frozenset((*self.id, *self.text, self.title))

    def _text(self, rest: dict[str, Any], identifier: str | None, title: str) -> str:
        parts = [part for name in self.text if (part := rest.pop(name, None)) is not None]
        if not parts and not has_content(title):
            raise RowError(NO_TEXT, f"no text: {self._text_names} must be a string", id=identifier)
        wrong = next((part for part in parts if not isinstance(part, str)), None)
        if wrong is not None:
            raise RowError(WRONG_TYPE, f"{self._text_names} must be a string, got {_name(wrong)}", id=identifier)
        return "\n".join(part for part in parts if part)

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
