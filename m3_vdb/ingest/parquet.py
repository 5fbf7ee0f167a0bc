"""Parquet files → rows, a few hundred at a time. A damaged row group costs itself."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import MissingExtraError
from m3_vdb.ingest.csv_rows import table_fields
from m3_vdb.ingest.readers import decode, made
from m3_vdb.ingest.rows import NOT_UTF8, UNREADABLE, WRONG_TYPE, Fields, Note, Rejected, Row, RowError, place
from m3_vdb.ingest.streams import HEAD, DamagedError, foreign
from m3_vdb.types import Document

_ROWS: Final = 256


def require_parquet() -> None:
    """Check that Parquet files can be read.

    Raises:
        MissingExtraError: they cannot.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("a Parquet file", extra="parquet")


def parquet_rows(path: Path, fields: Fields, told: Callable[[int], None], note: Note) -> Iterator[Row | Rejected]:
    """The rows of a Parquet file; ``line`` is the row's number from 1.

    Dates and times become ISO 8601, decimals and UUIDs text, NaN (which pandas writes for a missing value) null.
    Columns of binary data are left out; ids and texts that were written as binary are read as UTF-8.

    Args:
        path: the file.
        fields: which columns make the document.
        told: called with bytes as rows are read.
        note: told of columns that are left out.

    Raises:
        DamagedError: the file as a whole cannot be read.
        ConfigError: it lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    require_parquet()
    import pyarrow  # type: ignore[import-untyped] # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    name = str(path)
    with path.open("rb") as raw:
        kind = foreign(head := raw.read(HEAD))
    if kind is not None and not head.startswith(b"PAR1"):
        raise DamagedError(f"is {kind}")
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedError(f"is not Parquet, or damaged: {_words(error)}") from error
    with file:
        fields = table_fields(list(file.schema_arrow.names), name, fields, note)
        columns = _wanted(file.schema_arrow, name, fields, note)
        size, first, total = path.stat().st_size, 1, max(1, file.metadata.num_rows)
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for read, item in enumerate(_group(file, group, name, first, fields, columns)):
                if read % _ROWS == 0:
                    told(size * min(_ROWS, rows - read) // total)
                yield item
            first += rows


def _wanted(schema: Any, name: str, fields: Fields, note: Note) -> list[str] | None:  # noqa: ANN401 - see _group
    """Columns that are read; None for all."""
    wanted = [one for one in schema if one.name in fields.for_document or fields.is_payload(one.name)]
    names = [one.name for one in wanted if one.name in fields.for_document or _is_storable(one.type)]
    for one in wanted:
        if one.name not in names:
            about = f"the column {one.name!r} holds {one.type}, which a payload cannot: it is left out"
            note(about, f"{name}: {about} (--drop-field {one.name} says so)")
    return None if len(names) == len(schema) else names


def _is_storable(kind: Any) -> bool:  # noqa: ANN401 - see _group
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


def _group(
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
        for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
            for i in range(batch.num_rows):
                yield made(partial(_document, batch, i, fields), name, number, None)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = f"row group {group} cannot be read on from here: {_words(error)}"
        yield Rejected(place(name, number), reason, UNREADABLE, file=name, line=number)


def _document(batch: Any, i: int, fields: Fields) -> Document:  # noqa: ANN401 - see _group
    try:
        row = batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF8, f"a column of text is not UTF-8 at byte {error.start}") from None
    except (ValueError, OverflowError) as error:  # times that Python's own types cannot hold
        raise RowError(WRONG_TYPE, f"a value cannot be read: {_words(error)}") from None
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


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
