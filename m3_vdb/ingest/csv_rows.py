"""CSV and TSV files → rows. A quote that is never closed costs its own line, not the rows after it."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Final

from m3_vdb.errors import ConfigError
from m3_vdb.ingest import streams
from m3_vdb.ingest.readers import decode, made
from m3_vdb.ingest.rows import WRONG_COLUMNS, Fields, Rejected, Row, RowError, place
from m3_vdb.types import Document

BROKEN: Final = "broken quotes"
_SHOWN: Final = 1000


class _Comma(csv.excel):
    strict = True


class _Tab(csv.excel_tab):
    # Collections in TSV (MS MARCO's, say) hold quotes as plain characters.
    quoting = csv.QUOTE_NONE
    quotechar = None


def csv_rows(file: BinaryIO, name: str, fields: Fields) -> Iterator[Row | Rejected]:
    """The rows of an open CSV file (comma, double quotes, line breaks inside quotes allowed)."""
    return _rows(file, name, fields, _Comma)


def tsv_rows(file: BinaryIO, name: str, fields: Fields) -> Iterator[Row | Rejected]:
    """The rows of an open TSV file: one a line, tabs between columns, no quoting."""
    return _rows(file, name, fields, _Tab)


class _Lines:
    """Lines for ``csv.reader``, which can be handed back when they turn out not to belong to a row."""

    def __init__(self, file: BinaryIO) -> None:
        self._source = streams.read_lines(file)
        self._again: deque[tuple[int, bytes, bool]] = deque()
        self._size = 0
        self.taken: list[tuple[int, bytes, bool]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line, whole = self._again.popleft() if self._again else next(self._source)
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        self.taken.append((number, line, whole))
        self._size += len(line)
        if not whole or self._size > streams.MAX_ROW_BYTES:
            raise csv.Error(f"longer than {streams.MAX_ROW_BYTES:,} bytes, or a quote is never closed")
        return line.decode("utf-8", "surrogateescape")

    def settle(self) -> tuple[int, bytes]:
        """The row is complete: (its first line's number, its lines)."""
        number, data = self.taken[0][0], b"".join(line for _, line, _ in self.taken)
        self.taken, self._size = [], 0
        return number, data

    def back(self) -> tuple[int, bytes]:
        """The row is none: its first line is given up, the others are read again."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
        return self.settle()


def _rows(file: BinaryIO, name: str, fields: Fields, dialect: type[csv.Dialect]) -> Iterator[Row | Rejected]:
    # The limit is the process's; 128 KiB, the default, is less than a long article.
    csv.field_size_limit(max(csv.field_size_limit(), streams.MAX_ROW_BYTES))
    lines = _Lines(file)
    reader = csv.reader(lines, dialect)
    columns = fields.columns
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number, data = lines.back()
            shown = data[:_SHOWN].decode("utf-8", "backslashreplace").rstrip("\r\n")
            yield Rejected(place(name, number), f"not CSV: {error}", BROKEN, file=name, line=number, row=shown)
            continue
        number, data = lines.settle()
        if columns is None:
            columns = check_columns([cell.strip() for cell in cells], name, fields)
        elif cells:
            yield made(partial(_document, columns, cells, data, fields), name, number, data)


def check_columns(columns: list[str], name: str, fields: Fields) -> tuple[str, ...]:
    """A file's columns, if rows of them can be documents.

    Raises:
        ConfigError: they cannot; the message names what is missing and what is there.
    """
    shown = ", ".join(map(ascii, columns[:12])) or "nothing"
    for wanted in (fields.id, fields.text):
        if not set(wanted) & set(columns):
            raise ConfigError(
                f"{name} has no column {' or '.join(map(repr, wanted))}: its columns are {shown}; name yours with "
                f"--id-field and --text-field (or, of a file without a header, with --columns)"
            )
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(f"{name} has two columns {twice!a}: give every column a name of its own")
    return tuple(columns)


def _document(columns: tuple[str, ...], cells: list[str], data: bytes, fields: Fields) -> Document:
    decode(data)
    if len(cells) != len(columns):
        raise RowError(WRONG_COLUMNS, f"{len(cells)} columns where the header has {len(columns)}")
    return fields.document(dict(zip(columns, cells, strict=True)))
