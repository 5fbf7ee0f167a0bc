"""Values of a parametrised test that only ``make soak`` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def soak(values: Iterable[Any]) -> list[Any]:
    """The same values, marked; a tuple is one value for each name."""
    apart = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*value, marks=pytest.mark.soak) for value in apart]
