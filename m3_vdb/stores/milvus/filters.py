"""Filters as conditions of Milvus, with the meaning that ``m3_vdb.filters`` defines.

Milvus could compare fields of the JSON payload itself, but what equals what there depends on the engine (milvus-lite
takes true for 1), and a list is never met by an element. So a row carries two fields for filters alone:

- ``terms``: one short hash for each field and value, and one for each field that exists. Equality is to hold one of
  some terms; it needs no quoting of names and values, and an index of a server answers it. milvus-lite has no such
  index and takes every row apart to look into a list, so there they are one text, in which it finds words fast
  (``terms_text``; a list in files of version 0.1).
- ``numbers``: the smallest and the largest number of each field, and date. A range holds for sure if one of the two
  lies in it, and fails for sure if both lie on one side of it. Only a list with numbers on both sides stays open; such
  rows are judged here, by their payload.

Fields of objects are among them, under their names with dots, unless a payload has very many. Whether they are is a
term too: rows that lack it, such as those of version 0.1, are judged here where a filter looks at such a field or at
dates.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Final, TypeGuard

from m3_vdb.filters import (
    MAX_DEPTH,
    And,
    AnyOf,
    Condition,
    DateRange,
    Exists,
    Expression,
    Not,
    Or,
    Range,
    Text,
    field_steps,
    matches,
    read_date,
)
from m3_vdb.stores.milvus.requests import Requests, among
from m3_vdb.stores.milvus.rows import KEY, MAX_ELEMENTS, NUMBERS, PAYLOAD, TERMS
from m3_vdb.types import Payload

_EXACT = 2**53
"""Integers up to here are floats of the same value; beyond, several are one float."""
_FIELDS = 400
"""With more, those of objects are skipped: a JSON field of a server holds the numbers of about 1,000."""
_NOTHING = f'{KEY} == ""'
"""Milvus has no word for it, and an empty list is an error on some servers."""
Holds = Callable[[Sequence[str]], str]
"""The condition of a row that holds one of some terms."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def terms(payload: Payload) -> list[str]:
    """What equality and existence look for, sorted and without repeats."""
    fields, is_whole = _fields(payload)
    found = {_WHOLE} if is_whole else set()
    for name, value in fields:
        if value is None or value == []:
            continue
        found.add(_term(name, "exists"))
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, (bool, int, float, str)):
                found.add(_term(name, type(element).__name__, element))
            if read_date(element) is not None:
                found.add(_term(name, "date"))
            if _is_number(element):
                found.add(_term(name, "number"))
                if abs(element) > _EXACT:
                    found.add(_term(name, "float", float(element)))
    return sorted(found)


def terms_text(terms: Sequence[str]) -> str:
    """Terms as one text, each between two spaces."""
    return f" {' '.join(terms)} "


def numbers(payload: Payload) -> dict[str, list[float]]:
    """Hash of a field's name → [smallest, largest] of its numbers, and the same of its dates."""
    found: dict[str, list[float]] = {}
    for name, value in _fields(payload)[0]:
        elements = value if isinstance(value, list) else [value]
        moments = [moment for element in elements if (moment := read_date(element)) is not None]
        values = {"number": [float(v) for v in elements if _is_number(v)], "date": [_seconds(m) for m in moments]}
        # Of a name with a dot there may be two: a field of that name, and one of an object.
        for kind, some in values.items():
            both = some + found.get(_term(name, kind), [])
            if both:
                found[_term(name, kind)] = [min(both), max(both)]
    return found


def _fields(payload: Payload) -> tuple[list[tuple[str, Any]], bool]:
    """(name, value) of the fields that filters look at, and whether those of objects are among them."""
    whole = list(_walk(payload, ""))
    size = sum(2 + 3 * len(value) if isinstance(value, list) else 5 for _, value in whole)
    is_whole = len(whole) <= _FIELDS and size <= MAX_ELEMENTS
    return (whole if is_whole else list(payload.items())), is_whole


def _walk(payload: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """All fields, those of objects under their names with dots as far as a filter can name them."""
    for name, value in payload.items():
        yield prefix + name, value
        if isinstance(value, Mapping) and name and "." not in name and prefix.count(".") < MAX_DEPTH - 1:
            named = {key: one for key, one in value.items() if key and "." not in key}
            yield from _walk(named, f"{prefix}{name}.")


def to_condition(expression: Expression | None, requests: Requests) -> str:
    """A filter as a condition; fetches the rows that the engine cannot decide, if there may be some."""
    if expression is None:
        return ""
    holds = _holds_in_text if requests.terms_as_text else _holds_in_list
    judged, unsure = _condition(expression, holds), [_unsure(part, holds) for part in _undecided(expression)]
    if not unsure:
        return judged
    rows = requests.matching(" or ".join(unsure), [PAYLOAD])
    if not rows:
        return judged
    accepted = [key for key, row in rows.items() if matches(row[PAYLOAD], expression)]
    sure = f"({judged}) and not ({among(list(rows))})"
    return f"({sure}) or {among(accepted)}" if accepted else sure


def _condition(expression: Expression, holds: Holds) -> str:
    if isinstance(expression, Not):
        return f"not ({_condition(expression.part, holds)})"
    if isinstance(expression, (And, Or)):
        word = " and " if isinstance(expression, And) else " or "
        return word.join(f"({_condition(part, holds)})" for part in expression.parts)
    assert not isinstance(expression, Text)  # refused: the collection has no index of words
    if isinstance(expression, Exists):
        return holds([_term(expression.key, "exists")])
    if isinstance(expression, (Range, DateRange)):
        # The first term keeps every comparison to rows that have the number: none of them is ever "unknown".
        ends = " or ".join(f"({' and '.join(_bounds(expression, end))})" for end in (0, 1))
        return f"{_has_number(expression, holds)} and ({ends})"
    return holds(_accepted(expression))


def _accepted(condition: AnyOf) -> list[str]:
    """Terms of all values that a condition accepts: a float also finds integers of its value."""
    key = condition.key
    found = [_term(key, type(value).__name__, value) for value in (*condition.strings, *condition.booleans)]
    found += [_term(key, "int", value) for value in condition.integers]
    for value in condition.floats:
        found.append(_term(key, "float", value))
        if value.is_integer() and abs(value) <= _EXACT:
            found.append(_term(key, "int", int(value)))
    return found


def _holds_in_list(accepted: Sequence[str]) -> str:
    return f"array_contains_any({TERMS}, {json.dumps(accepted)})" if accepted else _NOTHING


def _holds_in_text(accepted: Sequence[str]) -> str:
    return " or ".join(f'{TERMS} like "% {term} %"' for term in accepted) or _NOTHING


def _has_number(bounds: Range | DateRange, holds: Holds) -> str:
    return holds([_term(bounds.key, _kind(bounds))])


def _kind(bounds: Range | DateRange) -> str:
    return "number" if isinstance(bounds, Range) else "date"


def _bounds(bounds: Range | DateRange, end: int) -> list[str]:
    """What the smallest (0) or largest (1) number of a field must meet."""
    number = f'{NUMBERS}["{_term(bounds.key, _kind(bounds))}"][{end}]'
    found = []
    for sign, bound in ((">", bounds.gt), (">=", bounds.gte), ("<", bounds.lt), ("<=", bounds.lte)):
        if bound is not None:
            found.append(f"{number} {sign} {_seconds(bound) if isinstance(bound, datetime) else bound!r}")
    return found


def _unsure(condition: Condition, holds: Holds) -> str:
    """The rows for which terms and numbers do not decide a condition."""
    found = []
    if "." in condition.key or isinstance(condition, DateRange):
        objects = {steps[0] for steps in field_steps(condition.key)}
        found.append(f"({holds([_term(name, 'exists') for name in sorted(objects)])}) and not ({holds([_WHOLE])})")
    if _is_two_sided(condition):
        found.append(_spans(condition, holds))
    return " or ".join(f"({one})" for one in found)


def _spans(bounds: Range | DateRange, holds: Holds) -> str:
    """The rows with numbers below and above a range, which may or may not have one within."""
    low = replace(bounds, lt=None, lte=None)
    high = replace(bounds, gt=None, gte=None)
    below, above = " and ".join(_bounds(low, 0)), " and ".join(_bounds(high, 1))
    return f"{_has_number(bounds, holds)} and not ({below}) and not ({above})"


def _undecided(expression: Expression) -> list[Condition]:
    if isinstance(expression, (And, Or)):
        return [found for part in expression.parts for found in _undecided(part)]
    if isinstance(expression, Not):
        return _undecided(expression.part)
    assert not isinstance(expression, Text)
    is_new = "." in expression.key or isinstance(expression, DateRange)
    return [expression] if is_new or _is_two_sided(expression) else []


def _is_two_sided(condition: Condition) -> TypeGuard[Range | DateRange]:
    if not isinstance(condition, (Range, DateRange)):
        return False
    is_low = condition.gt is not None or condition.gte is not None
    return is_low and (condition.lt is not None or condition.lte is not None)


def _seconds(moment: datetime) -> float:
    """Exact to the microsecond for a hundred years to come; ``timestamp`` knows no negative ones on some systems."""
    return (moment - _EPOCH).total_seconds()


def _term(name: str, kind: str, value: object = None) -> str:
    """Sixteen characters for a field and a value: 80 bits, so collisions do not happen in practice."""
    return (_hashed if isinstance(value, str) and len(value) > _LONG else _remembered)(name, kind, value)


def _hashed(name: str, kind: str, value: object) -> str:
    text = json.dumps([name, kind, value + 0.0 if isinstance(value, float) else value])  # -0.0 is 0.0
    return base64.b32encode(hashlib.blake2b(text.encode(), digest_size=10).digest()).decode("ascii")


_LONG: Final = 64
"""Characters of a value whose hash is not remembered."""
_remembered: Final = lru_cache(2**14)(_hashed)
_WHOLE: Final = _term("", "whole")
"""What a row holds whose fields of objects, and dates, are among its terms and numbers."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
