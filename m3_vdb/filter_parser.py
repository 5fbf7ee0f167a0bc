"""Reads filters (``m3_vdb.filters``): plain JSON values → a checked ``Expression``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeGuard

import numpy as np

from m3_vdb.bm25 import bm25_tokens
from m3_vdb.errors import ConfigError
from m3_vdb.filters import MAX_DEPTH, And, AnyOf, DateRange, Exists, Expression, Not, Or, Range, Text, read_date
from m3_vdb.inputs import plain_value
from m3_vdb.types import Filter


def parse_filter(filter: Filter | None) -> Expression | None:
    """Read and check a filter.

    Args:
        filter: conditions as plain JSON values, or None.

    Returns:
        The filter as an expression; None if it has no condition.

    Raises:
        ConfigError: it is not a filter; the message names the field, the value and what was expected.
    """
    if filter is None:
        return None
    if not isinstance(filter, Mapping):
        raise ConfigError(f"filter: expected an object such as {{'lang': 'de'}}, got {filter!r}")
    return _filter(filter, depth=1) if filter else None


def _filter(filter: object, *, depth: int, where: str = "filter") -> Expression:
    """A filter with at least one condition."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"filter: {depth} nested filters; expected at most {MAX_DEPTH}")
    if not isinstance(filter, Mapping) or not filter:
        raise ConfigError(f"{where}: expected an object with at least one condition, got {filter!r}")
    parts: list[Expression] = []
    for name, value in filter.items():
        if not isinstance(name, str) or not name.startswith("$"):
            parts += _field(name, value)
        elif name in ("$and", "$or"):
            parts.append(_several(name, value, depth=depth))
        elif name == "$not":
            parts.append(Not(_filter(value, depth=depth + 1, where="filter '$not'")))
        elif name == TEXT:
            parts.append(_text(value))
        else:
            raise ConfigError(
                f"filter {name!r}: expected $and, $or, $not, $text or a field; fields whose name begins with $ cannot "
                f"be filtered"
            )
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _several(name: str, value: object, *, depth: int) -> And | Or:
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"filter {name!r}: expected a list of at least one filter, got {value!r}")
    parts = tuple(_filter(item, depth=depth + 1, where=f"filter {name!r}") for item in value)
    return And(parts) if name == "$and" else Or(parts)


def _text(value: object) -> Text:
    tokens = frozenset(bm25_tokens(value)) if isinstance(value, str) and _is_matchable(value) else frozenset()
    if not isinstance(value, str) or not tokens:
        raise ConfigError(f"filter '$text': expected text with at least one word, got {value!r}")
    return Text(value, tokens)


def check_field(key: object, *, what: str = "filter") -> str:
    """Check that a payload field can be filtered.

    Args:
        key: the field's name.
        what: where it was given, for the message.

    Raises:
        ConfigError: the name cannot be used in a condition.
    """
    if not isinstance(key, str) or not key or '"' in key or "\\" in key or not _is_matchable(key):
        # Qdrant's paths have no escape for these two.
        raise ConfigError(f"{what} field {key!r}: expected a non-empty name without double quotes and backslashes")
    if key.startswith("$"):
        raise ConfigError(f"{what} field {key!r}: fields whose name begins with $ cannot be filtered")
    return key


def _field(name: object, value: object) -> list[Expression]:
    """The conditions on one field, and on the fields of an object."""
    key = check_field(name)
    if not isinstance(value, Mapping):
        return [_any_of(key, value)]
    bounds = [name for name in _BOUNDS if name in value]
    parts: list[Expression] = [_range(key, {name: value[name] for name in bounds})] if bounds else []
    for operator, argument in value.items():
        if operator in _OPERATORS:
            parts.append(_OPERATORS[operator](key, argument))
        elif operator not in _BOUNDS:
            parts += _inner(key, operator, argument)
    if not parts:
        raise ConfigError(f"filter {key!r}: expected an operator ({_EXPECTED}), got {{}}")
    return parts


def _inner(key: str, name: object, value: object) -> list[Expression]:
    """The conditions on a field of an object."""
    if name in _WORDS:
        raise ConfigError(
            f"filter {key!r}: {name} is not a condition on a field: words are looked for in the text of documents, by "
            f"{{'$text': 'pump valve'}} beside the fields"
        )
    if name in _UNKNOWN or str(name).startswith("$"):
        meant = f" (here {_UNKNOWN[name]}; a field of that name is '{key}.{name}')" if name in _UNKNOWN else ""
        raise ConfigError(f"filter {key!r}: unknown operator {name!r}; expected {_EXPECTED}{meant}")
    inner = check_field(name, what=f"filter {key!r}:")
    if "." in inner or key.count(".") >= MAX_DEPTH - 1:
        raise ConfigError(
            f"filter {key!r}: a field {inner!r} within an object cannot be filtered; expected a name without a dot, "
            f"and at most {MAX_DEPTH} nested objects"
        )
    return _field(f"{key}.{inner}", value)


def _range(key: str, given: Mapping[str, object]) -> Range | DateRange:
    bounds: dict[str, Any] = {name[1:]: _bound(key, name, value) for name, value in given.items()}
    kinds = {type(bound) for bound in bounds.values()}
    if len(kinds) > 1:
        raise ConfigError(f"filter {key!r}: the bounds of one range are numbers or dates, not both: {dict(given)}")
    return Range(key, **bounds) if kinds == {float} else DateRange(key, **bounds)


def _bound(key: str, name: str, value: object) -> float | datetime:
    plain = float(value) if isinstance(value, np.floating) else plain_value(value)
    if isinstance(plain, (int, float)) and not isinstance(plain, bool) and _is_matchable(plain):
        return float(plain)
    moment = read_date(plain)
    if moment is None:
        raise ConfigError(
            f"filter {key!r}: {name} expected a finite number, got {value!r}; a date is text such as '2024-01-31' or "
            f"'2024-01-31T18:30:00'"
        )
    return moment


def _any_of(key: str, accepted: object) -> Expression:
    """Equal to a value, or to one of several; null means a missing field."""
    values = [plain_value(value) for value in (accepted if _is_list(accepted) else [accepted])]
    given = [value for value in values if value is not None]
    for value in given:
        if not _is_matchable(value):
            raise ConfigError(
                f"filter {key!r}: cannot match {value!r} ({type(value).__name__}); expected a str, bool, 64-bit int, "
                f"finite float, or a list of these"
            )
    equal = AnyOf(
        key=key,
        strings=tuple(v for v in given if isinstance(v, str)),
        integers=tuple(v for v in given if isinstance(v, int) and not isinstance(v, bool)),
        floats=tuple(v for v in given if isinstance(v, float)),
        booleans=tuple(v for v in given if isinstance(v, bool)),
    )
    if len(given) == len(values):
        return equal
    missing = Not(Exists(key))
    return Or((equal, missing)) if given else missing


def _is_list(value: object) -> TypeGuard[Iterable[object]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _is_matchable(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _listed(key: str, name: str, value: object) -> Expression:
    if not _is_list(value):
        raise ConfigError(f"filter {key!r}: {name} expected a list, got {value!r}")
    return _any_of(key, value)


def _single(key: str, name: str, value: object) -> Expression:
    if _is_list(value):
        raise ConfigError(
            f"filter {key!r}: {name} expected one value, got {value!r}; {LIST_OPERATORS[name]} takes a list"
        )
    return _any_of(key, value)


def _exists(key: str, value: object) -> Expression:
    if not isinstance(value, bool):
        raise ConfigError(f"filter {key!r}: $exists expected true or false, got {value!r}")
    return Exists(key) if value else Not(Exists(key))


_BOUNDS: Final = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS: Final[dict[Any, Callable[[str, object], Expression]]] = {
    "$in": lambda key, value: _listed(key, "$in", value),
    "$nin": lambda key, value: Not(_listed(key, "$nin", value)),
    "$eq": lambda key, value: _single(key, "$eq", value),
    "$ne": lambda key, value: Not(_single(key, "$ne", value)),
    "$exists": _exists,
}
_EXPECTED: Final = ", ".join((*_BOUNDS, *_OPERATORS))
SIGNS: Final = {
    "=": "$eq",
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
}
_UNKNOWN: Final[dict[Any, str]] = {**SIGNS, **{name[1:]: name for name in (*_BOUNDS, *_OPERATORS)}}
"""Spellings that are not operators → the operator that is meant."""
TEXT: Final = "$text"
_WORDS: Final = (TEXT, "$match")
LIST_OPERATORS: Final = {"$eq": "$in", "$ne": "$nin"}
