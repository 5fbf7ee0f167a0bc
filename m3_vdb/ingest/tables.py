"""Tables → rows: CSV, TSV and Parquet.

CSV: a quote that is never closed costs its own line, not the rows after it; the delimiter is the one under which the
first line names the columns that are wanted.
Parquet: a few hundred rows at a time; a damaged row group costs itself.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import math
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

from m3_vdb import streams
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.ingest.readers import decode, made
from m3_vdb.ingest.rows import (
    NOT_UTF8,
    UNREADABLE,
    WRONG_COLUMNS,
    WRONG_TYPE,
    Fields,
    Note,
    Rejected,
    Row,
    RowError,
    place,
)
from m3_vdb.types import Document

BROKEN: Final = "broken quotes"
_SHOWN_BYTES: Final = 1000
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
    declared = _SEP.fullmatch(first)
    if declared:
        next(lines)
        lines.settle()
    delimiter = fields.delimiter or (declared["delimiter"] if declared else _find_delimiter(first, fields))
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
        self._source = streams.numbered_lines(file)
        self._again: deque[tuple[int, bytes, bool]] = deque()
        self._size = 0
        self.taken: list[tuple[int, bytes, bool]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line, whole = self._again.popleft() if self._again else next(self._source)
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
            shown = data[:_SHOWN_BYTES].decode("utf-8", "backslashreplace").rstrip("\r\n")
            yield Rejected(place(name, number), f"not CSV: {error}", BROKEN, file=name, line=number, row=shown)
            continue
        number, data = lines.settle()
        if columns is None:
            columns = tuple(cell.strip() for cell in cells)
            fields = table_fields(list(columns), name, fields, note)
        elif cells:
            yield made(partial(_csv_document, columns, cells, data, fields), name, number, data)


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


def _csv_document(columns: tuple[str, ...], cells: list[str], data: bytes, fields: Fields) -> Document:
    decode(data)
    if len(cells) != len(columns):
        raise RowError(WRONG_COLUMNS, f"{len(cells)} columns where the header has {len(columns)}")
    return fields.document(dict(zip(columns, cells, strict=True)))


_PARQUET_ROWS: Final = 256


def require_parquet() -> None:
    """Check that Parquet files can be read.

    Raises:
        MissingExtraError: they cannot.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("a Parquet file", extra="parquet")


def parquet_rows(
    path: Path, fields: Fields, on_bytes_read: Callable[[int], None], note: Note
) -> Iterator[Row | Rejected]:
    """The rows of a Parquet file; ``line`` is the row's number from 1.

    Dates and times become ISO 8601, decimals and UUIDs text, NaN (which pandas writes for a missing value) null.
    Columns of binary data are left out; ids and texts that were written as binary are read as UTF-8.

    Args:
        path: the file.
        fields: which columns make the document.
        on_bytes_read: called with bytes as rows are read.
        note: called with what the user should know, such as skipped columns.

    Raises:
        streams.DamagedError: the file as a whole cannot be read.
        ConfigError: it lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    require_parquet()
    import pyarrow  # type: ignore[import-untyped] # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    name = str(path)
    with path.open("rb") as raw:
        kind = streams.foreign(head := raw.read(streams.HEAD))
    if kind is not None and not head.startswith(b"PAR1"):
        raise streams.DamagedError(f"is {kind}")
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise streams.DamagedError(f"is not Parquet, or damaged: {_one_line(error)}") from error
    with file:
        fields = table_fields(list(file.schema_arrow.names), name, fields, note)
        columns = _wanted(file.schema_arrow, name, fields, note)
        size, first, total = path.stat().st_size, 1, max(1, file.metadata.num_rows)
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for read, item in enumerate(_row_group(file, group, name, first, fields, columns)):
                if read % _PARQUET_ROWS == 0:
                    on_bytes_read(size * min(_PARQUET_ROWS, rows - read) // total)
                yield item
            first += rows


def _wanted(schema: Any, name: str, fields: Fields, note: Note) -> list[str] | None:  # noqa: ANN401 - see _row_group
    """Columns that are read; None for all."""
    wanted = [one for one in schema if one.name in fields.for_document or fields.is_payload(one.name)]
    names = [one.name for one in wanted if one.name in fields.for_document or _is_storable(one.type)]
    for one in wanted:
        if one.name not in names:
            about = f"the column {one.name!r} holds {one.type}, which a payload cannot: it is left out"
            note(about, f"{name}: {about} (--drop-field {one.name} says so)")
    return None if len(names) == len(schema) else names


def _is_storable(kind: Any) -> bool:  # noqa: ANN401 - see _row_group
    """Whether values of a type are JSON, or become JSON."""
    import pyarrow  # noqa: PLC0415 - optional
    from pyarrow import types  # noqa: PLC0415

    if isinstance(kind, pyarrow.BaseExtensionType):
        return kind.extension_name == "arrow.uuid" or _is_storable(kind.storage_type)
    if types.is_dictionary(kind):
        return _is_storable(kind.value_type)
    if types.is_nested(kind):
        return all(_is_storable(kind.field(i).type) for i in range(kind.num_fields))
    return not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _row_group(
    file: Any,  # noqa: ANN401 - pyarrow is optional and untyped
    group: int,
    name: str,
    first: int,
    fields: Fields,
    columns: list[str] | None,
) -> Iterator[Row | Rejected]:
    import pyarrow  # noqa: PLC0415 - optional

    number = first
    try:
        for batch in file.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns):
            for i in range(batch.num_rows):
                yield made(partial(_parquet_document, batch, i, fields), name, number, None)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = f"row group {group} cannot be read on from here: {_one_line(error)}"
        yield Rejected(place(name, number), reason, UNREADABLE, file=name, line=number)


def _parquet_document(batch: Any, i: int, fields: Fields) -> Document:  # noqa: ANN401 - see _row_group
    try:
        row = batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF8, f"a column of text is not UTF-8 at byte {error.start}") from None
    except (ValueError, OverflowError) as error:  # times that Python's own types cannot hold
        raise RowError(WRONG_TYPE, f"a value cannot be read: {_one_line(error)}") from None
    for column in fields.for_document & row.keys():
        if isinstance(row[column], bytes):  # text that was written without saying that it is text
            row[column] = decode(row[column])
    return fields.document({column: _plain(value) for column, value in row.items()})


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """A cell as a JSON value."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta, uuid.UUID)):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    raise RowError(WRONG_TYPE, f"a column holds {type(value).__name__}, which is not JSON: --drop-field leaves it out")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
