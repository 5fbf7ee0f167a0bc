"""Filters as conditions of Milvus, with the meaning that ``m3_vdb.filters`` defines.

Milvus could compare fields of the JSON payload itself, but what equals what there depends on the engine (milvus-lite
takes true for 1), and a list is never met by an element. So a row carries two fields for filters alone:

- ``terms``: one short hash for each field and value, and one for each field that exists. Equality is to hold one of
  some terms; it needs no quoting of names and values, and an index of a server answers it.
- ``numbers``: the smallest and the largest number of each field. A range holds for sure if one of the two lies in it,
  and fails for sure if both lie on one side of it. Only a list with numbers on both sides stays open; such rows are
  judged here, by their payload.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from m3_vdb.filters import And, AnyOf, Exists, Expression, Not, Or, Range, matches
from m3_vdb.stores._milvus_requests import Requests, among
from m3_vdb.stores._milvus_rows import KEY, NUMBERS, PAYLOAD, TERMS
from m3_vdb.types import Payload

_EXACT = 2**53
"""Integers up to here are floats of the same value; beyond, several are one float."""


def terms(payload: Payload) -> list[str]:
    """What equality and existence look for, sorted and without repeats."""
    found: set[str] = set()
    for name, value in payload.items():
        if value is None or value == []:
            continue
        found.add(_term(name, "exists"))
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, (bool, int, float, str)):
                found.add(_term(name, type(element).__name__, element))
            if _is_number(element):
                found.add(_term(name, "number"))
                if abs(element) > _EXACT:
                    found.add(_term(name, "float", float(element)))
    return sorted(found)


def numbers(payload: Payload) -> dict[str, list[float]]:
    """Hash of a field's name → [smallest, largest] of its numbers."""
    found: dict[str, list[float]] = {}
    for name, value in payload.items():
        values = [float(v) for v in (value if isinstance(value, list) else [value]) if _is_number(v)]
        if values:
            found[_term(name, "number")] = [min(values), max(values)]
    return found


def condition(expression: Expression | None, requests: Requests) -> str:
    """A filter as a condition; asks for the rows that the engine cannot judge, if there may be some."""
    if expression is None:
        return ""
    judged, unsure = _condition(expression), [_spans(part) for part in _two_sided(expression)]
    if not unsure:
        return judged
    rows = requests.matching(" or ".join(unsure), [PAYLOAD])
    if not rows:
        return judged
    accepted = [key for key, row in rows.items() if matches(row[PAYLOAD], expression)]
    sure = f"({judged}) and not ({among(list(rows))})"
    return f"({sure}) or {among(accepted)}" if accepted else sure


def _condition(expression: Expression) -> str:
    if isinstance(expression, Not):
        return f"not ({_condition(expression.part)})"
    if isinstance(expression, (And, Or)):
        word = " and " if isinstance(expression, And) else " or "
        return word.join(f"({_condition(part)})" for part in expression.parts)
    if isinstance(expression, Exists):
        return _holds([_term(expression.key, "exists")])
    if isinstance(expression, Range):
        # The first term keeps every comparison to rows that have the number: none of them is ever "unknown".
        ends = " or ".join(f"({' and '.join(_bounds(expression, end))})" for end in (0, 1))
        return f"{_holds([_term(expression.key, 'number')])} and ({ends})"
    return _holds(_accepted(expression))


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


def _holds(accepted: Sequence[str]) -> str:
    if not accepted:
        return f'{KEY} == ""'  # nothing; Milvus has no word for it, and an empty list is an error on some servers
    return f"array_contains_any({TERMS}, {json.dumps(accepted)})"


def _bounds(bounds: Range, end: int) -> list[str]:
    """What the smallest (0) or largest (1) number of a field must meet."""
    number = f'{NUMBERS}["{_term(bounds.key, "number")}"][{end}]'
    pairs = ((">", bounds.gt), (">=", bounds.gte), ("<", bounds.lt), ("<=", bounds.lte))
    return [f"{number} {sign} {bound!r}" for sign, bound in pairs if bound is not None]


def _spans(bounds: Range) -> str:
    """The rows with numbers below and above a range, which may or may not have one within."""
    low = Range(bounds.key, gt=bounds.gt, gte=bounds.gte)
    high = Range(bounds.key, lt=bounds.lt, lte=bounds.lte)
    below, above = " and ".join(_bounds(low, 0)), " and ".join(_bounds(high, 1))
    return f"({_holds([_term(bounds.key, 'number')])} and not ({below}) and not ({above}))"


def _two_sided(expression: Expression) -> list[Range]:
    if isinstance(expression, (And, Or)):
        return [found for part in expression.parts for found in _two_sided(part)]
    if isinstance(expression, Not):
        return _two_sided(expression.part)
    if not isinstance(expression, Range):
        return []
    is_low = expression.gt is not None or expression.gte is not None
    is_high = expression.lt is not None or expression.lte is not None
    return [expression] if is_low and is_high else []


def _term(name: str, kind: str, value: object = None) -> str:
    """Sixteen characters for a field and a value: 80 bits, of which two values would have to agree in all."""
    text = json.dumps([name, kind, value + 0.0 if isinstance(value, float) else value])  # -0.0 is 0.0
    return base64.b32encode(hashlib.blake2b(text.encode(), digest_size=10).digest()).decode("ascii")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
