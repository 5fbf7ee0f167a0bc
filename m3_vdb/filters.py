"""Filters: conditions on a document's payload, written as plain JSON values. This file is their definition.

All entries of a filter must hold:

    {"lang": "de"}                          equal; the same as {"lang": {"$eq": "de"}}
    {"lang": ["de", "fr"]}                  any of; the same as {"lang": {"$in": ["de", "fr"]}}
    {"lang": {"$ne": "de"}}                 not equal; {"$nin": [...]}: none of
    {"year": {"$gte": 2000, "$lt": 2010}}   a range, of $gt $gte $lt $lte
    {"date": {"$gte": "2024-01-31"}}        a range of dates, see below
    {"title_en": {"$exists": true}}         there, and neither null nor an empty list; false: the opposite
    {"title_en": null}                      the same as {"title_en": {"$exists": false}}
    {"meta.source": "web"}                  a field of an object; the same as {"meta": {"source": "web"}}
    {"$and": [...]} {"$or": [...]}          of filters
    {"$not": {...}}                         the opposite of a filter

What holds when:

- **Dots.** ``meta.source`` is the field of that very name, and also the field ``source`` of the object ``meta``. Where
  a document has both, what either holds counts, as the elements of a list do. Only objects are stepped into, not lists
  of them, and a field within an object is out of reach if its own name has a dot.
- **Lists.** A payload field that is a list is met if one of its elements is; lists and objects inside it meet nothing.
  The bounds of one range must be met by one and the same element: [1990, 2020] is not within 2000 and 2010.
- **Missing fields**, null, objects and empty lists equal nothing and lie in no range. So they *do* meet ``$ne``,
  ``$nin`` and ``$not``, which are the exact opposite of ``$in`` and of the filter within.
- **Types.** A string equals a string, a bool a bool and an int an int, digit for digit. A float equals any number of
  the same value, so ``2003.0`` also finds 2003 and ``2003`` does not find 2003.0. A bool is not a number. Where a
  collection declares what a field holds (``CollectionOptions.indexes``), a value of another type is refused.
- **Numbers** in ranges and next to floats are compared as 64-bit floats: integers beyond 2^53 are rounded there.
  Floats are certain to 15 digits; an engine may round the last bit of longer ones.
- **Dates** are text: ``2024-01-31``, or with a time ``2024-01-31T18:30`` (a space does for the T, and seconds may
  follow). In a range of dates such text is a moment, of a date alone its first; without a zone it is UTC. All other
  text, and numbers, lie in no range of dates. Equality compares text as it stands.
- ``{"lang": []}`` is met by nothing, ``{"lang": {"$nin": []}}`` by everything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np

from m3_vdb.errors import ConfigError
from m3_vdb.inputs import plain_value
from m3_vdb.types import Filter, Payload

MAX_DEPTH: Final = 16
"""Filters within filters, and objects within objects; servers refuse requests that are nested too deeply."""
_DATE: Final = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)([T ](\d\d):(\d\d)(:(\d\d)(\.\d+)?([Zz]|([+-])(\d\d):?(\d\d)?)?)?)?", re.ASCII
)
"""What every engine reads as a date."""


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
class DateRange:
    """A field with a date between bounds, all of them UTC; the attributes are those of ``Range``."""

    key: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


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


Condition: TypeAlias = AnyOf | Range | DateRange | Exists
"""What looks at one field."""
Expression: TypeAlias = Condition | And | Or | Not
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
    return any(_meets(value, expression) for value in field_values(payload, expression.key))


def field_values(payload: Payload, key: str) -> list[object]:
    """What a payload holds under the name of a field, which has one or two readings; empty if it is missing."""
    found: list[object] = []
    for path in field_steps(key):
        value: object = payload
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(value)
    return found


def field_steps(key: str) -> list[tuple[str, ...]]:
    """The readings of a field's name: as it stands, and with every dot as a step into an object."""
    steps = tuple(key.split("."))
    return [(key,), steps] if 1 < len(steps) <= MAX_DEPTH and all(steps) else [(key,)]


def _meets(value: object, condition: Condition) -> bool:
    """Whether the value of a field that is there meets a condition on it."""
    if isinstance(condition, Exists):
        return value != []
    elements = value if isinstance(value, list) else [value]
    if isinstance(condition, Range):
        return any(_within(condition, element) for element in elements)
    if isinstance(condition, DateRange):
        return any(_between(condition, element) for element in elements)
    return any(_equals(condition, element) for element in elements)


def read_date(value: object) -> datetime | None:
    """The moment that a text names, in UTC; None if it is not a date."""
    parts = _DATE.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return None
    year, month, day, _, hour, minute, _, second, fraction, _, sign, hours, minutes = parts.groups(default="0")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    try:
        zone = timezone(offset)
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=zone)
        return local.replace(microsecond=int(fraction[1:7].ljust(6, "0"))).astimezone(timezone.utc)
    except (ValueError, OverflowError):  # there is no such day or hour
        return None


def _between(bounds: DateRange, element: object) -> bool:
    moment = read_date(element)
    return moment is not None and _in_order(bounds, moment)


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
    return _in_order(bounds, float(element))


def _in_order(bounds: Any, value: Any) -> bool:  # noqa: ANN401 - numbers, or moments
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
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
    if name in _UNKNOWN or str(name).startswith("$"):
        meant = f" (here {_UNKNOWN[name]}; a field of that name is '{key}.{name}')" if name in _UNKNOWN else ""
        raise ConfigError(f"filter {key!r}: unknown operator {name!r}; expected {_EXPECTED}{meant}")
    inner = check_field(name, what=f"filter {key!r}:")
    if "." in inner or key.count(".") >= MAX_DEPTH - 1:
        raise ConfigError(
            f"filter {key!r}: a field {inner!r} within an object cannot be filtered; expected a name without a dot, "
            f"and at most {MAX_DEPTH} objects within each other"
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
    """Equal to a value or to one of several; null is a field that is missing."""
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
        raise ConfigError(f"filter {key!r}: {name} expected one value, got {value!r}; {_SEVERAL[name]} takes a list")
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
_SIGNS: Final = {
    "=": "$eq",
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
}
_UNKNOWN: Final[dict[Any, str]] = {**_SIGNS, **{name[1:]: name for name in (*_BOUNDS, *_OPERATORS)}}
"""What looks like an operator and is not → the one that is meant."""
_CONDITION: Final = re.compile(r"(?P<field>[^=<>!]+)(?P<sign>==|!=|[<>]=?|=)(?P<value>.*)", re.DOTALL)
"""A field whose name has one of these characters can be filtered by JSON."""
_SEVERAL: Final = {"$eq": "$in", "$ne": "$nin"}
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "none": None}


def parse_conditions(texts: Sequence[str]) -> Filter | None:
    """Conditions of the command line, which must all hold, as one filter.

    Args:
        texts: FIELD=VALUE (of a repeated field any), FIELD!=VALUE, FIELD>NUMBER, >=, <, <= (or a date), or a filter as
            JSON. Blanks around field and value mean nothing, and ``==`` is ``=``. A value that is a JSON number, list,
            object, true, false or null is one (in any case: True, None); anything else is text, and "2004" in quotes
            too.

    Raises:
        ConfigError: a condition has none of these forms.
    """
    conditions: dict[str, dict[str, Any]] = {}
    filters: list[Filter] = []
    for text in texts:
        if text.lstrip().startswith("{"):
            filters.append(_json(text, text))
            continue
        parts = _CONDITION.fullmatch(text.strip())
        if parts is None or not parts["field"].strip():
            raise ConfigError(f"--filter {text!r}: expected FIELD=VALUE, FIELD!=VALUE, FIELD>=NUMBER or a JSON object")
        field, sign, value = parts["field"].strip(), parts["sign"], _value(text, parts["value"].strip())
        operator = _SEVERAL.get(_SIGNS[sign], _SIGNS[sign])
        if isinstance(value, dict) and operator == "$in":
            filters.append({field: value})
            continue
        on_field = conditions.setdefault(field, {})
        if operator in _SEVERAL.values():
            on_field.setdefault(operator, []).extend(value if isinstance(value, list) else [value])
        elif operator in on_field:
            raise ConfigError(f"--filter {text!r}: {field} has a bound {sign} already")
        else:
            on_field[operator] = value
    filters += [conditions] if conditions else []
    return filters[0] if len(filters) == 1 else {"$and": filters} if filters else None


def _value(condition: str, text: str) -> Any:  # noqa: ANN401 - a JSON value
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text[:1] in ("[", "{", '"'):
        return _json(condition, text)
    if text[:1] in ("=", "<", ">", "!"):
        raise ConfigError(
            f"--filter {condition!r}: expected one of {' '.join(_SIGNS)} and a value; put a value that begins with "
            f"{text[0]} in double quotes"
        )
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _json(condition: str, text: str) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if text is condition else '; a list is written ["de", "en"], and text that begins like JSON in quotes'
        raise ConfigError(f"--filter {condition!r}: not JSON: {error}{hint}") from None
