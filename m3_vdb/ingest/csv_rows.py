"""CSV and TSV files → rows. A quote that is never closed costs its own line, not the rows after it.

The delimiter of CSV is the one under which the first line names the columns that are wanted.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO, Final

from m3_vdb.errors import ConfigError
from m3_vdb.ingest import streams
from m3_vdb.ingest.readers import decode, made
from m3_vdb.ingest.rows import WRONG_COLUMNS, Fields, Note, Rejected, Row, RowError, place
from m3_vdb.types import Document

BROKEN: Final = "broken quotes"
_SHOWN: Final = 1000
_DELIMITERS: Final = (",", ";", "\t", "|")
_SEP: Final = re.compile(r'"?sep=(?P<delimiter>.)"?\s*', re.IGNORECASE)
"""Excel's own line about the delimiter, before the header."""


class _Comma(csv.excel):
    strict = True


class _Tab(csv.excel_tab):
    # Collections in TSV (MS MARCO's, say) hold quotes as plain characters.
    quoting = csv.QUOTE_NONE
    quotechar = None


def csv_rows(file: BinaryIO, name: str, fields: Fields, note: Note) -> Iterator[Row | Rejected]:
    """The rows of an open CSV file (any delimiter, double quotes, line breaks inside quotes allowed)."""
    lines = _Lines(file)
    first = lines.peek()
    told = _SEP.fullmatch(first)
    if told:
        next(lines)
        lines.settle()
    delimiter = fields.delimiter or (told["delimiter"] if told else _find_delimiter(first, fields))
    return _rows(lines, name, fields, note, csv.reader(lines, _Comma, delimiter=delimiter))


def tsv_rows(file: BinaryIO, name: str, fields: Fields, note: Note) -> Iterator[Row | Rejected]:
    """The rows of an open TSV file: one per line, tabs between columns, no quoting."""
    lines = _Lines(file)
    return _rows(lines, name, fields, note, csv.reader(lines, _Tab))


def _find_delimiter(first: str, fields: Fields) -> str:
    """The delimiter that gives a first line the columns that are wanted, else the one that gives most."""

    def fit(delimiter: str) -> tuple[bool, bool, int]:
        try:
            cells = [cell.strip() for cell in next(csv.reader([first], _Comma, delimiter=delimiter), [])]
        except csv.Error:
            return False, False, 0
        if fields.columns is not None:
            return len(cells) == len(fields.columns), False, 0
        return not set(fields.text).isdisjoint(cells), not set(fields.id).isdisjoint(cells), len(cells)

    return max(_DELIMITERS, key=fit)


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

    def peek(self) -> str:
        """The first line, which is read again."""
        try:
            line = next(self, "")
        except csv.Error:  # too long; raised again when it is read
            line = ""
        self._again.extend(self.taken)
        self.taken, self._size = [], 0
        return line

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


def _rows(
    lines: _Lines, name: str, fields: Fields, note: Note, reader: Iterator[list[str]]
) -> Iterator[Row | Rejected]:
    # The limit is the process's; 128 KiB, the default, is less than a long article.
    csv.field_size_limit(max(csv.field_size_limit(), streams.MAX_ROW_BYTES))
    columns = fields.columns
    if columns is not None:
        fields = table_fields(list(columns), name, fields, note)
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
            columns = tuple(cell.strip() for cell in cells)
            fields = table_fields(list(columns), name, fields, note)
        elif cells:
            yield made(partial(_document, columns, cells, data, fields), name, number, data)


def table_fields(columns: list[str], name: str, fields: Fields, note: Note) -> Fields:
    """How rows of a table become documents, if its columns allow it.

    Raises:
        ConfigError: they do not; the message names what is missing and what is there.
    """
    shown = ", ".join(map(ascii, columns[:12])) or "nothing"
    has_id = not set(fields.id).isdisjoint(columns)
    # A column of the same name in capitals is an id, and nobody said so.
    may_do_without = fields.id == Fields().id and {"id", "_id"}.isdisjoint(column.lower() for column in columns)
    wanted = [fields.text] if has_id or may_do_without or fields.auto_id else [fields.id, fields.text]
    for names in (*wanted, *((name,) for name in fields.keep or ())):
        if set(names).isdisjoint(columns):
            raise ConfigError(
                f"{name} has no column {' or '.join(map(repr, names))}: its columns are {shown}; name yours with "
                f"--id-field and --text-field (or, of a file without a header, with --columns)"
            )
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(f"{name} has two columns {twice!a}: give every column a name of its own")
    if not has_id:
        missing = " or ".join(map(repr, fields.id))
        note("ids", f"{name} has no column {missing}: ids are made of the rows' content (--id-field names a column)")
    return replace(fields, auto_id=fields.auto_id or not has_id)


def _document(columns: tuple[str, ...], cells: list[str], data: bytes, fields: Fields) -> Document:
    decode(data)
    if len(cells) != len(columns):
        raise RowError(WRONG_COLUMNS, f"{len(cells)} columns where the header has {len(columns)}")
    return fields.document(dict(zip(columns, cells, strict=True)))
