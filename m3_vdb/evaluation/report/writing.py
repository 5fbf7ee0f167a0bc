"""How numbers and tables are written, in one place, so that the page and the Markdown show the same characters."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from m3_vdb.evaluation.results import Percentiles

MISSING: Final = "–"
"""What is shown where nothing was measured."""
SMALLEST_P: Final = 0.001
RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(slots=True)
class Cell:
    """A value as it is written.

    Attributes:
        text: the value.
        small: what is written beside it in small type.
        hover: what is said when pointed at.
        rank: the number by which the best is found, as precise as it is shown; NaN where nothing is best.
        best: the best of its row or column.
        heat: 0 to 1, its place among all of the table; None without shading.
    """

    text: str
    small: str = ""
    hover: str = ""
    rank: float = math.nan
    best: bool = False
    heat: float | None = None


Column: TypeAlias = tuple[str, Callable[[Any], "Cell | str"]]
"""Heading, and how a value is written."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: None where nothing was measured, text where it is shown as it is. Summaries stand apart."""

    name: str
    values: Sequence[Any]
    summary: bool = False
    hover: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers: ``corner`` heads their names, ``title`` is shown where the table is collapsed.

    The best of each row is bold, or with ``best_of_column`` that of each column; ``shaded`` shades ranked cells.
    """

    corner: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""
    best_of_column: bool = False
    shaded: bool = False


def number(value: float) -> str:
    """A measure: ``0.706``."""
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else MISSING


def signed(value: float) -> str:
    """A difference of measures: ``+0.091``; what rounds to nothing has no sign."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:+.3f}".replace("-", "−") if round(value, 3) else "0.000"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """``[0.690, 0.722]``, or with signs ``[+0.083, +0.099]``; nothing if it is not known."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    write = signed if sign else number
    return f"[{write(low)}, {write(high)}]"


def p_value(value: float, *, name: str = "") -> str:
    """``0.031`` or ``< 0.001``; with a name ``p = 0.031`` or ``p < 0.001``."""
    if not math.isfinite(value):
        return MISSING
    sign, text = ("<", f"{SMALLEST_P}") if value < SMALLEST_P else ("=", f"{value:.3f}")
    return f"{name} {sign} {text}" if name else text if sign == "=" else f"{sign} {text}"


def count(value: int) -> str:
    """``12,345``."""
    return f"{value:,}"


def tenths(value: float) -> str:
    """Seconds or milliseconds: ``18.9``."""
    return f"{value:,.1f}" if math.isfinite(value) else MISSING


def rate(value: float) -> str:
    """A number per second: ``58.1``, ``5,400``."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def percentiles(value: Percentiles) -> str:
    """``18.9 / 31.0 / 44.2``."""
    return " / ".join(map(tenths, (value.p50, value.p95, value.p99)))


def size(value: float) -> str:
    """Bytes: ``63.1 MiB``."""
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


def written(table: Table) -> tuple[list[str], list[tuple[Row, list[Cell]]]]:
    """Headings and lines as text, without the columns in which nothing was measured.

    The best is the largest, and everything a reader cannot tell from it.
    """

    def cell(show: Callable[[Any], Cell | str], value: object) -> Cell:
        shown = (value or MISSING) if value is None or isinstance(value, str) else show(value)
        return Cell(shown) if isinstance(shown, str) else shown

    def ranked(cells: Iterable[Cell]) -> tuple[list[Cell], float, float]:
        known = [one for one in cells if not math.isnan(one.rank)]
        ranks = [one.rank for one in known] or [0.0]
        return known, min(ranks), max(ranks)

    lines = [[cell(column[1], v) for column, v in zip(table.columns, row.values, strict=True)] for row in table.rows]
    for line in zip(*lines, strict=True) if table.best_of_column else lines:
        known, _, top = ranked(line)
        for one in known:
            one.best = len(known) > 1 and one.rank == top
    if table.shaded:
        body = [line for row, line in zip(table.rows, lines, strict=True) if not row.summary]
        known, low, high = ranked(one for line in body for one in line)
        for one in known:
            one.heat = (one.rank - low) / (high - low) if high > low else None
    kept = [x for x in range(len(table.columns)) if any(line[x].text != MISSING for line in lines)]
    headings = [table.corner, *(table.columns[x][0] for x in kept)]
    return headings, [(row, [line[x] for x in kept]) for row, line in zip(table.rows, lines, strict=True)]


def aligned(lines: Sequence[Sequence[str]], *, least: int = 0) -> list[list[str]]:
    """Cells padded to columns on a screen: the first to the left, the others, which hold numbers, to the right.

    Args:
        lines: of equal length.
        least: width of a column at least.
    """
    widths = [max(least, *map(_width, column)) for column in zip(*lines, strict=True)]
    padded = [[" " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return [
        [line[0] + pads[0], *(pad + cell for pad, cell in zip(pads[1:], line[1:], strict=True))]
        for line, pads in zip(lines, padded, strict=True)
    ]


def _width(text: str) -> int:
    """Columns on a screen: East Asian letters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
