"""Filters: conditions on a document's payload, as plain JSON values. This file is their definition for every store.

All entries of a filter must hold:

    {"lang": "de"}                          equal; the same as {"lang": {"$eq": "de"}}
    {"lang": ["de", "fr"]}                  any of; the same as {"lang": {"$in": ["de", "fr"]}}
    {"lang": {"$ne": "de"}}                 not equal; {"$nin": [...]}: none of
    {"year": {"$gte": 2000, "$lt": 2010}}   a range, of $gt $gte $lt $lte
    {"date": {"$gte": "2024-01-31"}}        a range of dates, see below
    {"title_en": {"$exists": true}}         present, and neither null nor an empty list; false: the opposite
    {"title_en": null}                      the same as {"title_en": {"$exists": false}}
    {"meta.source": "web"}                  a field of an object; the same as {"meta": {"source": "web"}}
    {"$text": "pump valve"}                 the document's text has all of these words, see below
    {"$and": [...]} {"$or": [...]}          of filters
    {"$not": {...}}                         the opposite of a filter

Rules:

- **Dots.** ``meta.source`` is the field of that name, and also the field ``source`` of the object ``meta``. If a
  document has both, one of them has to match. Only objects are entered, not lists of objects. A field inside an object
  cannot be filtered if its name has a dot.
- **Lists.** A list matches if one of its elements does; lists and objects inside it never match. One element must meet
  all bounds of a range: [1990, 2020] does not match 2000 to 2010.
- **Missing fields**, null, objects and empty lists equal nothing and match no range. So they *do* match ``$ne``,
  ``$nin`` and ``$not``, which are the exact opposites of ``$eq``, ``$in`` and the inner filter.
- **Types.** Strings equal strings, bools equal bools, and ints equal ints. A float equals any number of the same value:
  ``2003.0`` finds 2003, but ``2003`` does not find 2003.0. A bool is not a number. If the collection declares a type
  for a field (``CollectionOptions.indexes``), values of other types are refused.
- **Numbers** in ranges, and compared with floats, are 64-bit floats: integers beyond 2^53 are rounded. Floats are exact
  to 15 digits; an engine may round the last bit of longer ones.
- **Dates** are text: ``2024-01-31``, or with a time ``2024-01-31T18:30`` (or a space for the T, and optional seconds).
  In a range of dates, a date is its first moment, and the time zone is UTC unless given. Other text, and numbers, match
  no range of dates. Equality compares dates as text. A range uses an index of type "datetime" where there is one.
- **Words.** ``$text`` looks at the text of a document (of a passage, where it was split), not at its title or payload.
  What a word is, each engine says itself (docs/stores.md); here it is a token of ``m3_vdb.bm25``. Case never matters.
- ``{"lang": []}`` matches nothing, ``{"lang": {"$nin": []}}`` everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias

from m3_vdb.bm25 import bm25_tokens
from m3_vdb.types import Payload

MAX_DEPTH: Final = 16
"""Maximum nesting of filters and of objects; servers refuse requests that are nested too deeply."""
_DATE: Final = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)([T ](\d\d):(\d\d)(:(\d\d)(\.\d+)?([Zz]|([+-])(\d\d):?(\d\d)?)?)?)?", re.ASCII
)
"""The dates that every engine can read."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A field equals any of these values; grouped by type, because engines have one matcher per type.

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
    """A field has a number between these bounds; None sets no bound.

    Attributes:
        key: field name in the user's payload.
        gt: greater than.
        gte: at least.
        lt: less than.
        lte: at most.
    """

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class DateRange:
    """A field has a date between these bounds, in UTC; attributes as in ``Range``."""

    key: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """A field is present, and neither null nor an empty list."""

    key: str


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a document has all of these words.

    Attributes:
        words: as given.
        tokens: by the rules of ``m3_vdb.bm25``.
    """

    words: str
    tokens: frozenset[str]


@dataclass(frozen=True, slots=True)
class And:
    """All parts match; at least one part."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches; at least one part."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match; so it matches missing fields."""

    part: Expression


Condition: TypeAlias = AnyOf | Range | DateRange | Exists
"""A condition on one field."""
Expression: TypeAlias = Condition | Text | And | Or | Not
"""A filter that has been read and checked."""


def matches(payload: Payload, expression: Expression | None, *, text: str = "") -> bool:
    """Whether a document matches a filter (None matches everything); the definition for every store, but for words.

    Args:
        payload: the document's.
        expression: the filter.
        text: the document's, for ``$text``.
    """
    if expression is None:
        return True
    if isinstance(expression, And):
        return all(matches(payload, part, text=text) for part in expression.parts)
    if isinstance(expression, Or):
        return any(matches(payload, part, text=text) for part in expression.parts)
    if isinstance(expression, Not):
        return not matches(payload, expression.part, text=text)
    if isinstance(expression, Text):
        return expression.tokens <= set(bm25_tokens(text))
    return any(_meets(value, expression) for value in field_values(payload, expression.key))


def field_values(payload: Payload, key: str) -> list[object]:
    """The values of a field, at most two (see "Dots"); [] if it is missing."""
    found: list[object] = []
    for path in field_steps(key):
        value: object = payload
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(value)
    return found


def field_steps(key: str) -> list[tuple[str, ...]]:
    """The paths that a field's name can mean: the name itself, and each dot as a step into an object."""
    steps = tuple(key.split("."))
    return [(key,), steps] if 1 < len(steps) <= MAX_DEPTH and all(steps) else [(key,)]


def _meets(value: object, condition: Condition) -> bool:
    """Whether the value of a field matches a condition."""
    if isinstance(condition, Exists):
        return value != []
    elements = value if isinstance(value, list) else [value]
    if isinstance(condition, Range):
        return any(_within(condition, element) for element in elements)
    if isinstance(condition, DateRange):
        return any(_between(condition, element) for element in elements)
    return any(_equals(condition, element) for element in elements)


def read_date(value: object) -> datetime | None:
    """A date in UTC; None if the value is not a date."""
    parts = _DATE.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return None
    year, month, day, _, hour, minute, _, second, fraction, _, sign, hours, minutes = parts.groups(default="0")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    try:
        zone = timezone(offset)
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=zone)
        return local.replace(microsecond=int(fraction[1:7].ljust(6, "0"))).astimezone(timezone.utc)
    except (ValueError, OverflowError):  # not a valid day or time
        return None


def _between(bounds: DateRange, element: object) -> bool:
    moment = read_date(element)
    return moment is not None and _in_order(bounds, moment)


def fields(expression: Expression | None) -> frozenset[str]:
    """The payload fields in a filter."""
    if expression is None:
        return frozenset()
    if isinstance(expression, (And, Or)):
        return frozenset().union(*(fields(part) for part in expression.parts))
    if isinstance(expression, Not):
        return fields(expression.part)
    return frozenset() if isinstance(expression, Text) else frozenset({expression.key})


def has_text(expression: Expression | None) -> bool:
    """Whether a filter asks for words of the text."""
    if isinstance(expression, (And, Or)):
        return any(map(has_text, expression.parts))
    return has_text(expression.part) if isinstance(expression, Not) else isinstance(expression, Text)


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
