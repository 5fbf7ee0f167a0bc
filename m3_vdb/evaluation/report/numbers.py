"""How a number is written, in one place, so that the page and the Markdown show the same characters."""

from __future__ import annotations

import math
from typing import Final

from m3_vdb.evaluation.results import Comparison, Figure, Percentiles

MISSING: Final = "–"
"""What a table shows where nothing was measured."""
SMALLEST_P: Final = 0.001
RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: float) -> str:
    """A measure: ``0.706``."""
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else MISSING


def signed(value: float) -> str:
    """A difference of measures: ``+0.091``; what rounds to nothing has no sign."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """``[0.690, 0.722]``; nothing if it is not known."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low)}, {number(high)}]"


def difference(comparison: Comparison) -> str:
    """``+0.091 [+0.083, +0.099]``, without the interval if it is not known."""
    low, high = comparison.low, comparison.high
    if low is None or high is None or not interval(low, high):
        return signed(comparison.delta)
    return f"{signed(comparison.delta)} [{signed(low)}, {signed(high)}]"


def half_width(figure: Figure) -> str:
    """``±0.016``, half the confidence interval."""
    half = (figure.high - figure.low) / 2
    return f"±{half:.3f}" if math.isfinite(half) else ""


def p_value(value: float, *, name: str = "") -> str:
    """``0.031`` or ``< 0.001``; with a name ``p = 0.031`` or ``p < 0.001``."""
    if not math.isfinite(value):
        return MISSING
    sign, text = ("<", f"{SMALLEST_P}") if value < SMALLEST_P else ("=", f"{value:.3f}")
    return f"{name} {sign} {text}" if name else text if sign == "=" else f"{sign} {text}"


def count(value: int) -> str:
    """``12,345``."""
    return f"{value:,}"


def counted(value: int, one: str, many: str = "") -> str:
    """``1 query``, ``12 queries``."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def rate(amount: float, seconds: float) -> str:
    """Amount per second, with a decimal where it is small."""
    if not amount or not seconds > 0:
        return MISSING
    speed = amount / seconds
    return f"{speed:,.1f}" if speed < 100 else f"{speed:,.0f}"


def milliseconds(value: float) -> str:
    """``18.9``."""
    return f"{value:,.1f}" if math.isfinite(value) else MISSING


def percentiles(value: Percentiles | None) -> str:
    """``18.9 / 31.0 / 44.2``."""
    return MISSING if value is None else " / ".join(milliseconds(ms) for ms in (value.p50, value.p95, value.p99))


def size(value: float | None) -> str:
    """``63.1 MiB``."""
    if value is None:
        return MISSING
    power = min(int(math.log(value, 1024)), len(UNITS) - 1) if value >= 1 else 0
    return f"{value / 1024**power:,.{min(power, 1)}f} {UNITS[power]}"


def scientific(value: float) -> str:
    """``3.1 × 10⁻⁷``."""
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa} × 10{str(int(power)).translate(RAISED)}" if value else "0"


def share(value: float) -> str:
    """``97.3 %``."""
    return f"{value:.1%}".replace("%", " %") if math.isfinite(value) else MISSING


def plain(value: float) -> str:
    """A weight: as short as it can be."""
    return f"{value:g}" if math.isfinite(value) else MISSING
