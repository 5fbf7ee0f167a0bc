"""Boosts: what fields of a payload add to the fused score. This file is their definition for every store.

A boost reads one field and adds ``weight`` times a number:

    Boost("official", 0.1)             true: 1
    Boost("rating", 0.02)              a number: itself
    Boost("clicks", 0.2, half=1000)    a number v above 0: v / (v + half), which is 1/2 at 1000 and never 1
    Boost("modified", 0.2, half="30d") a date: (1/2)^(distance from now / half), which is 1 today and 1/2 at 30 days

Everything else adds 0: a missing field, null, false, text, a list of several values, a number beyond 1e30. A list of
one value is that value. The field is named as in filters (``m3_vdb.filters``, "Dots" and "Dates"). Boosts choose no
candidates; they order those that the vectors have found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import check_field
from m3_vdb.filters import field_values, read_date
from m3_vdb.inputs import as_real
from m3_vdb.types import Payload

MAX_WEIGHT: Final = 1000.0
MAX_NUMBER: Final = 1e30
"""Scores are 32-bit floats in the engines: beyond these two they could overflow."""
_FORM: Final = "expected FIELD:WEIGHT or FIELD:WEIGHT:HALF, such as official:0.1, clicks:0.2:1000 or modified:0.2:30d"
_NUMBER: Final = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_TEXT: Final = re.compile(rf"(?P<field>.+?):(?P<weight>{_NUMBER})(?::(?P<half>[^:]+))?", re.DOTALL)
_DURATION: Final = re.compile(r"(\d{1,6}(?:\.\d+)?)\s*([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True)
class Boost:
    """What one field of the payload adds to the score.

    Attributes:
        field: its name, as in filters.
        weight: what it adds at most, or per unit of a number without ``half``; negative to lower the score.
        half: where it adds half of ``weight``: a number; for dates a ``timedelta``, or text such as "30d" (h, d, w).

    Raises:
        ConfigError: one of them cannot be used.
    """

    field: str
    weight: float
    half: float | timedelta | str | None = None

    def __post_init__(self) -> None:
        check_field(self.field, what="boost")
        weight = as_real(self.weight)
        if not abs(weight) <= MAX_WEIGHT:
            raise ConfigError(f"boost {self.field!r}: weight={self.weight!r}, expected a number within ±{MAX_WEIGHT:g}")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "half", None if self.half is None else _read_half(self.field, self.half))

    @classmethod
    def parse(cls, text: str) -> Boost:
        """Read FIELD:WEIGHT or FIELD:WEIGHT:HALF.

        Raises:
            ConfigError: the text has another form.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"boost {text!r}: {_FORM}")
        return cls(found["field"], float(found["weight"]), found["half"])


BoostLike: TypeAlias = Boost | str
"""A boost, or its text (``Boost.parse``)."""
Boosts: TypeAlias = Iterable[BoostLike] | BoostLike
"""Accepted by every ``boosts=``."""


def read_boosts(given: Boosts) -> tuple[Boost, ...]:
    """Boosts in any accepted form.

    Raises:
        ConfigError: they have another form.
    """
    boosts = [given] if isinstance(given, str | Boost) else list(given)
    return tuple(_read_one(one) for one in boosts)


def boost_score(payload: Payload, boosts: Sequence[Boost], now: datetime) -> float:
    """What boosts add to the score of a document; the definition for every store.

    Args:
        payload: the document's.
        boosts: any number.
        now: the moment from which dates are distant, with a time zone.
    """
    return sum(
        one.weight * _strength(value, one.half, now) for one in boosts for value in field_values(payload, one.field)
    )


def _strength(value: object, half: object, now: datetime) -> float:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(half, timedelta):
        moment = read_date(value)
        return 0.0 if moment is None else 0.5 ** (abs(now - moment) / half)
    if isinstance(value, bool):
        return float(value and half is None)
    if not isinstance(value, int | float) or abs(value) > MAX_NUMBER:
        return 0.0
    if half is None:
        return float(value)
    assert isinstance(half, float)
    return value / (value + half) if value > 0 else 0.0


def _read_one(given: object) -> Boost:
    if isinstance(given, Boost):
        return given
    if isinstance(given, str):
        return Boost.parse(given)
    raise ConfigError(f"boost {given!r}: {_FORM}")


def _read_half(field: str, given: object) -> float | timedelta:
    half = given
    if isinstance(given, str) and (parts := _DURATION.fullmatch(given.strip())) is not None:
        half = float(parts[1]) * _UNITS[parts[2]]
    elif isinstance(given, str) and re.fullmatch(_NUMBER, given.strip()):
        half = float(given)
    if isinstance(half, timedelta):
        if half > timedelta(0):
            return half
    elif 0 < (number := as_real(half)) <= MAX_NUMBER:
        return number
    raise ConfigError(
        f"boost {field!r}: half={given!r}, expected a number above 0, or for dates a duration such as 12h, 30d or 8w"
    )
