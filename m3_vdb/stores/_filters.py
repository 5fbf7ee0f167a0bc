"""Payload filters in a form that every store can build its own conditions from, and their meaning in plain Python.

A field name is a literal top-level name of the user's payload. A string equals a string, a bool a bool, an int an int,
and a float any number of the same value (as written with up to 15 digits; Qdrant may round the last bit of longer
ones). A payload field that is a list matches if one of its elements does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from m3_vdb.errors import ConfigError
from m3_vdb.types import Filter, Payload


@dataclass(frozen=True, slots=True)
class Condition:
    """One field that must equal any of some values, sorted by type because the engines have one matcher for each.

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

    @property
    def path(self) -> str:
        """Where Qdrant finds the field: the user's payload is nested under ``payload``; quoted, a dot is no step."""
        return f'payload."{self.key}"'

    def accepts(self, value: object) -> bool:
        """Whether a payload value meets this condition."""
        if isinstance(value, list):
            return any(self._accepts_one(element) for element in value)
        return self._accepts_one(value)

    def _accepts_one(self, value: object) -> bool:
        if isinstance(value, bool):
            return value in self.booleans
        if isinstance(value, int) and value in self.integers:
            return True
        if isinstance(value, (int, float)):
            return value in self.floats
        return isinstance(value, str) and value in self.strings


def parse_filter(conditions: Filter | None) -> tuple[Condition, ...]:
    """Read a filter.

    Raises:
        ConfigError: a field name or a value that cannot be matched.
    """
    return tuple(_parse(key, accepted) for key, accepted in (conditions or {}).items())


def matches(payload: Payload, conditions: Sequence[Condition]) -> bool:
    """Whether a payload meets all conditions."""
    return all(condition.key in payload and condition.accepts(payload[condition.key]) for condition in conditions)


def _parse(key: object, accepted: object) -> Condition:
    if not isinstance(key, str) or not key or '"' in key or "\\" in key:
        # Qdrant's paths have no escape for these two.
        raise ConfigError(f"filter field {key!r}: expected a non-empty name without double quotes and backslashes")
    values = accepted if isinstance(accepted, (list, tuple, set, frozenset)) else [accepted]
    for value in values:
        _check_value(key, value)
    return Condition(
        key=key,
        strings=tuple(v for v in values if isinstance(v, str)),
        integers=tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool)),
        floats=tuple(v for v in values if isinstance(v, float)),
        booleans=tuple(v for v in values if isinstance(v, bool)),
    )


def _check_value(key: str, value: object) -> None:
    usable = (
        isinstance(value, (bool, str))
        or (isinstance(value, int) and -(2**63) <= value < 2**63)
        or (isinstance(value, float) and math.isfinite(value))
    )
    if not usable:
        raise ConfigError(
            f"filter {key!r}: cannot match {value!r} ({type(value).__name__}); expected a str, bool, 64-bit int, "
            f"finite float, or a list of these"
        )
