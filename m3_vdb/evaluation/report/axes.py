"""Parts that all charts share: axes without a frame, a scale of few light lines, names beside the rows.

Names are written with ``Axes.text``, not as ticks: no ``$`` in one is read as mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from m3_vdb.evaluation.report import numbers
from m3_vdb.evaluation.report.palette import FAINT, INK, MUTED

FONT: Final = 11
SMALL: Final = 10
LETTER: Final = 6.1
"""Width of a letter, generously: which font the browser has is not known here."""
LONGEST_LABEL: Final = 26


def bare_axes(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes without a frame, with margins in CSS pixels."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.set_axis_off()
    return axes


def moved(axes: Axes, places: Transform, *, right: float = 0, down: float = 0) -> Transform:
    """Places, moved by CSS pixels."""
    return places + ScaledTranslation(right / 72, -down / 72, axes.figure.dpi_scale_trans)


def scale(axes: Axes, low: float, high: float, *, ends: tuple[int, ...]) -> None:
    """Light vertical lines at round values of x.

    Args:
        axes: whose limits of x are set.
        low: smallest value.
        high: largest value.
        ends: where the values are written: 1 above, -1 below.
    """
    pad = (high - low) * 0.03 or 0.05
    axes.set_xlim(low - pad if low else 0, high + pad)
    values = _round_values(*axes.get_xlim())
    for value, text in zip(values, _alike(values), strict=True):
        axes.axvline(value, color=FAINT.light, linewidth=0.8, zorder=0)
        for end in ends:
            where = moved(axes, axes.transAxes, down=-8 if end > 0 else 15)
            x = axes.transAxes.inverted().transform(axes.transData.transform((value, 0)))[0]
            axes.text(x, float(end > 0), text, transform=where, ha="center", size=SMALL, color=MUTED.light)


def levels(axes: Axes) -> None:
    """The same for y, with the values on the left."""
    low, high = axes.get_ylim()
    values = _round_values(low, high)
    for value, text in zip(values, _alike(values), strict=True):
        axes.axhline(value, color=FAINT.light, linewidth=0.8, zorder=0)
        name_row(axes, value, text, size=SMALL, color=MUTED.light)


def _round_values(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [round(float(value), 9) for value in ticks if low <= value <= high]


def _alike(values: list[float]) -> list[str]:
    """All with as many decimals as the longest needs."""
    decimals = max((len(numbers.plain(value).partition(".")[2]) for value in values), default=0)
    return [f"{value:,.{decimals}f}".replace("-", "−") for value in values]


def name_row(axes: Axes, y: float, text: str, *, size: float = FONT, color: str = INK.light) -> None:
    """Write the name of a row to the left of the axes."""
    place = moved(axes, axes.get_yaxis_transform(), right=-6)
    axes.text(0, y, label(text), transform=place, ha="right", va="center_baseline", size=size, color=color)


def margin(names: Iterable[str], *, gap: float = 10) -> float:
    """Space that the names need."""
    return LETTER * max(len(label(name)) for name in names) + gap


def label(text: str) -> str:
    """A name that fits beside a chart and that XML can hold."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…"
