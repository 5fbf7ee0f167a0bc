"""Parquet files → rows, a few hundred at a time. A damaged row group costs itself."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import MissingExtraError
from m3_vdb.ingest.csv_rows import check_columns
from m3_vdb.ingest.readers import made
from m3_vdb.ingest.rows import NOT_UTF8, UNREADABLE, WRONG_TYPE, Fields, Rejected, Row, RowError, place
from m3_vdb.ingest.streams import DamagedError
from m3_vdb.types import Document

_ROWS: Final = 256


def require_parquet() -> None:
    """Check that Parquet files can be read.

    Raises:
        MissingExtraError: they cannot.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("a Parquet file", extra="parquet")


def parquet_rows(path: Path, fields: Fields, told: Callable[[int], None]) -> Iterator[Row | Rejected]:
    """The rows of a Parquet file; ``line`` is the row's number from 1.

    Dates and times become ISO 8601, decimals text, NaN (which pandas writes for a missing value) null.

    Args:
        path: the file.
        fields: which columns make the document.
        told: called with bytes as row groups are done.

    Raises:
        DamagedError: the file as a whole cannot be read.
        ConfigError: it lacks a column.
    """
    import pyarrow  # type: ignore[import-untyped] # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    name = str(path)
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedError(_words(error)) from error
    with file:
        check_columns(list(file.schema_arrow.names), name, fields)
        groups = file.metadata.num_row_groups
        size, first = path.stat().st_size, 1
        for group in range(groups):
            rows = file.metadata.row_group(group).num_rows
            yield from _group(file, group, name, first, fields)
            first += rows
            told(size * (group + 1) // groups - size * group // groups)


def _group(file: Any, group: int, name: str, first: int, fields: Fields) -> Iterator[Row | Rejected]:  # noqa: ANN401 - pyarrow is optional and untyped
    import pyarrow  # noqa: PLC0415 - optional

    number = first
    try:
        for batch in file.iter_batches(_ROWS, row_groups=[group]):
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
    return fields.document({column: _plain(value) for column, value in row.items()})


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """A cell as a JSON value."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    raise RowError(WRONG_TYPE, f"a column holds {type(value).__name__}, which is not JSON: drop or convert it")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
