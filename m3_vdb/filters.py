"""Filters: conditions on a document's payload, written as plain JSON values. This file is their definition.

A filter names top-level fields of the payload, literally (a dot in a name is a dot). All its entries must hold:

    {"lang": "de"}                          equal
    {"lang": ["de", "fr"]}                  any of; the same as {"lang": {"$in": ["de", "fr"]}}
    {"lang": {"$ne": "de"}}                 not equal; {"$nin": [...]}: none of
    {"year": {"$gte": 2000, "$lt": 2010}}   a range, of $gt $gte $lt $lte
    {"title_en": {"$exists": true}}         there, and neither null nor an empty list; false: the opposite
    {"$and": [...]} {"$or": [...]}          of filters
    {"$not": {...}}                         the opposite of a filter

What holds when:

- **Lists.** A payload field that is a list is met if one of its elements is; lists and objects inside it meet nothing.
  The bounds of one range must be met by one and the same element: [1990, 2020] is not within 2000 and 2010.
- **Missing fields**, null, objects and empty lists equal nothing and lie in no range. So they *do* meet ``$ne``,
  ``$nin`` and ``$not``, which are the exact opposite of ``$in`` and of the filter within.
- **Types.** A string equals a string, a bool a bool and an int an int, digit for digit. A float equals any number of
  the same value, so ``2003.0`` also finds 2003 and ``2003`` does not find 2003.0. A bool is no number.
- **Numbers** in ranges and next to floats are compared as 64-bit floats: integers beyond 2^53 are rounded there.
  Floats are certain to 15 digits; an engine may round the last bit of longer ones.
- ``{"lang": []}`` is met by nothing, ``{"lang": {"$nin": []}}`` by everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError
from m3_vdb.types import Filter, Payload

MAX_DEPTH: Final = 16
"""Filters within filters; servers refuse requests that are nested too deeply."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A field that equals any of some values, sorted by type because the engines have one matcher for each.

    Attributes:
        key: field name in the user's payload.
        strings: accepted strings.
        integers: accepted integers, within 64 bits.
        floats: accepted numbers, finite.
        booleans: accepted truth values.
    """

    key: str
    strings: tuple[str, ...] = ()
    integers: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()
    booleans: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """A field with a number between bounds; a bound that is None is open.

    Attributes:
        key: field name in the user's payload.
        gt: above.
        gte: at least.
        lt: below.
        lte: at most.
    """

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """A field that is there, and neither null nor an empty list."""

    key: str


@dataclass(frozen=True, slots=True)
class And:
    """All of at least one."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of at least one."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite, missing fields included."""

    part: Expression


Expression: TypeAlias = AnyOf | Range | Exists | And | Or | Not
"""A filter that has been read and checked."""


def matches(payload: Payload, expression: Expression | None) -> bool:
    """Whether a payload meets a filter; None is met by all. This is the definition that every store keeps."""
    if expression is None:
        return True
    if isinstance(expression, And):
        return all(matches(payload, part) for part in expression.parts)
    if isinstance(expression, Or):
        return any(matches(payload, part) for part in expression.parts)
    if isinstance(expression, Not):
        return not matches(payload, expression.part)
    return _meets(payload.get(expression.key), expression)


def _meets(value: object, condition: AnyOf | Range | Exists) -> bool:
    """Whether the value of a field, None if it is missing, meets a condition on it."""
    if isinstance(condition, Exists):
        return value is not None and value != []
    elements = value if isinstance(value, list) else [value]
    if isinstance(condition, Range):
        return any(_within(condition, element) for element in elements)
    return any(_equals(condition, element) for element in elements)


def fields(expression: Expression | None) -> frozenset[str]:
    """The payload fields that a filter looks at."""
    if expression is None:
        return frozenset()
    if isinstance(expression, (And, Or)):
        return frozenset().union(*(fields(part) for part in expression.parts))
    return fields(expression.part) if isinstance(expression, Not) else frozenset({expression.key})


def _equals(condition: AnyOf, element: object) -> bool:
    if isinstance(element, bool):
        return element in condition.booleans
    if isinstance(element, int) and element in condition.integers:
        return True
    if isinstance(element, (int, float)):
        return float(element) in condition.floats
    return isinstance(element, str) and element in condition.strings


def _within(bounds: Range, element: object) -> bool:
    if not isinstance(element, (int, float)) or isinstance(element, bool):
        return False
    number = float(element)
    return (
        (bounds.gt is None or number > bounds.gt)
        and (bounds.gte is None or number >= bounds.gte)
        and (bounds.lt is None or number < bounds.lt)
        and (bounds.lte is None or number <= bounds.lte)
    )


def parse_filter(filter: Filter | None) -> Expression | None:
    """Read a filter; None if it has no condition.

    Raises:
        ConfigError: it is none; the message names the field, what was found and what was expected.
    """
    if filter is None:
        return None
    if not isinstance(filter, Mapping):
        raise ConfigError(f"filter: expected an object such as {{'lang': 'de'}}, got {filter!r}")
    return _filter(filter, depth=1) if filter else None


def _filter(filter: object, *, depth: int, where: str = "filter") -> Expression:
    """A filter with at least one condition."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"filter: {depth} filters within each other; expected at most {MAX_DEPTH}")
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
        else:
            raise ConfigError(
                f"filter {name!r}: expected $and, $or, $not or a field; fields whose name begins with $ cannot be "
                f"filtered"
            )
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _several(name: str, value: object, *, depth: int) -> And | Or:
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"filter {name!r}: expected a list of at least one filter, got {value!r}")
    parts = tuple(_filter(item, depth=depth + 1, where=f"filter {name!r}") for item in value)
    return And(parts) if name == "$and" else Or(parts)


def check_field(key: object, *, what: str = "filter") -> str:
    """Check the name of a payload field that is to be filtered.

    Raises:
        ConfigError: no engine could name it in a condition; ``what`` says where it was given.
    """
    if not isinstance(key, str) or not key or '"' in key or "\\" in key or not _is_matchable(key):
        # Qdrant's paths have no escape for these two.
        raise ConfigError(f"{what} field {key!r}: expected a non-empty name without double quotes and backslashes")
    if key.startswith("$"):
        raise ConfigError(f"{what} field {key!r}: fields whose name begins with $ cannot be filtered")
    return key


def _field(name: object, value: object) -> list[Expression]:
    """The conditions on one field."""
    key = check_field(name)
    if not isinstance(value, Mapping):
        return [_any_of(key, value)]
    bounds = {bound[1:]: _bound(key, bound, value[bound]) for bound in _BOUNDS if bound in value}
    parts: list[Expression] = [Range(key, **bounds)] if bounds else []
    for operator, argument in value.items():
        if operator in _OPERATORS:
            parts.append(_OPERATORS[operator](key, argument))
        elif operator not in _BOUNDS:
            raise ConfigError(f"filter {key!r}: unknown operator {operator!r}; expected {_EXPECTED}")
    if not parts:
        raise ConfigError(f"filter {key!r}: expected an operator ({_EXPECTED}), got {{}}")
    return parts


def _bound(key: str, name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_matchable(value):
        return float(value)
    raise ConfigError(f"filter {key!r}: {name} expected a finite number, got {value!r}")


def _any_of(key: str, accepted: object) -> AnyOf:
    values = accepted if isinstance(accepted, (list, tuple, set, frozenset)) else [accepted]
    for value in values:
        if not _is_matchable(value):
            hint = "; a missing field is {'$exists': False}" if value is None else ""
            raise ConfigError(
                f"filter {key!r}: cannot match {value!r} ({type(value).__name__}); expected a str, bool, 64-bit int, "
                f"finite float, or a list of these{hint}"
            )
    return AnyOf(
        key=key,
        strings=tuple(v for v in values if isinstance(v, str)),
        integers=tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool)),
        floats=tuple(v for v in values if isinstance(v, float)),
        booleans=tuple(v for v in values if isinstance(v, bool)),
    )


def _is_matchable(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _listed(key: str, name: str, value: object) -> AnyOf:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ConfigError(f"filter {key!r}: {name} expected a list, got {value!r}")
    return _any_of(key, value)


def _single(key: str, value: object) -> AnyOf:
    if isinstance(value, (list, tuple, set, frozenset)):
        raise ConfigError(f"filter {key!r}: $ne expected one value, got {value!r}; $nin takes a list")
    return _any_of(key, value)


def _exists(key: str, value: object) -> Expression:
    if not isinstance(value, bool):
        raise ConfigError(f"filter {key!r}: $exists expected true or false, got {value!r}")
    return Exists(key) if value else Not(Exists(key))


_BOUNDS: Final = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS: Final[dict[Any, Callable[[str, object], Expression]]] = {
    "$in": lambda key, value: _listed(key, "$in", value),
    "$nin": lambda key, value: Not(_listed(key, "$nin", value)),
    "$ne": lambda key, value: Not(_single(key, value)),
    "$exists": _exists,
}
_EXPECTED: Final = ", ".join((*_BOUNDS, *_OPERATORS))
