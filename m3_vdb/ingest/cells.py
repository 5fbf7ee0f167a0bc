"""Cells of CSV and TSV → the values that a collection's indexes find, and ids for rows that have none."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.rows import WRONG_TYPE, Rejected, Row, reject

_INTEGER: Final = re.compile(r"[+-]?[0-9]+(\.0+)?")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}
_EXPECTED: Final = {
    "integer": "a whole number of 64 bits",
    "float": "a number such as 9.5",
    "bool": "true, false, 1 or 0",
}


def typed(row: Row, types: Mapping[str, str]) -> Row | Rejected:
    """A row of cells with those values that typed indexes hold; an empty cell is a missing field.

    Args:
        row: its payload is text.
        types: field → type of its index.
    """
    payload: dict[str, Any] = {}
    for name, cell in row.document.payload.items():
        kind = types.get(name)
        value = cell if kind is None else _value(cell, kind)
        if value is not None:
            payload[name] = value
        elif kind is not None and cell.strip():
            expected = _EXPECTED[kind]
            return reject(row, WRONG_TYPE, f"column {name!r} is indexed as {kind}: expected {expected}, got {cell!r}")
    return replace(row, document=replace(row.document, payload=payload))


def _value(cell: str, kind: str) -> Any:  # noqa: ANN401 - a JSON value
    text = cell.strip()
    if kind == "integer":
        value = int(text.partition(".")[0]) if len(text) < 40 and _INTEGER.fullmatch(text) else None
        return value if value is not None and -(2**63) <= value < 2**63 else None
    if kind == "float":
        return number if _FLOAT.fullmatch(text) and abs(number := float(text)) < float("inf") else None
    return _BOOLS.get(text.lower()) if kind == "bool" else cell or None


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
        self._seen = self._seen or Ledger(None, ties={}, resume=False)
        document = row.document
        content = json.dumps([document.title, document.text, document.payload], sort_keys=True, default=str)
        name = blake2b(content.encode(), digest_size=16).hexdigest()
        self._place += 1
        if self._seen.claim([(self._place, name)])[0] is not None:
            self._copies[name] += 1
            name = f"{name}-{self._copies[name] + 1}"
        return replace(row, document=replace(document, id=name))
