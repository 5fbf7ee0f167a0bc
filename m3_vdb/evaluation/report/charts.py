"""The charts of a report. Every one has a size that fits a phone; the page sets several side by side where it can."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from m3_vdb.evaluation.report import numbers
from m3_vdb.evaluation.report.axes import FONT, SMALL, bare_axes, label, levels, margin, moved, name_row, scale
from m3_vdb.evaluation.report.costs import latencies
from m3_vdb.evaluation.report.palette import FAINT, INK, MUTED, PAPER, Style
from m3_vdb.evaluation.report.picture import Picture, draw
from m3_vdb.evaluation.report.tables import figure_of, labels, system_name
from m3_vdb.evaluation.report.weights import finite_points
from m3_vdb.evaluation.results import Evaluation, Figure

WIDE: Final = 420
PANEL: Final = 184
MARKER: Final = {"^": 8.5, "v": 8.5, "D": 7.5, "X": 7.5}
"""Sizes at which the shapes look equally large."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a chart: a name and a figure per system."""

    name: str
    figures: Mapping[str, Figure]


def group_lines(evaluation: Evaluation) -> list[Line]:
    """Every group with the systems that were measured there."""
    measure = evaluation.measures[0]
    found = []
    for name, group in zip(labels(evaluation.groups)[1], evaluation.groups, strict=True):
        known = {system: figure_of(group.figures, system, measure) for system in evaluation.systems}
        found.append(Line(name, {system: figure for system, figure in known.items() if figure is not None}))
    return [line for line in found if line.figures]


def dots(evaluation: Evaluation, styles: Mapping[str, Style], name: str) -> tuple[Picture, ...]:
    """A line per group with a dot per system, the highest on top."""
    lines = sorted(group_lines(evaluation), key=lambda line: max(f.value for f in line.figures.values()), reverse=True)
    if len(lines) < 2 or len({system for line in lines for system in line.figures}) < 2:
        return ()
    row, top, bottom = 25, 26, 26 if len(lines) > 12 else 8
    left = margin(line.name for line in lines)

    def paint(canvas: Canvas) -> None:
        axes = bare_axes(canvas, left=left, right=14, top=top, bottom=bottom)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        values = [figure.value for line in lines for figure in line.figures.values()]
        scale(axes, min(values), max(values), ends=(1, -1) if len(lines) > 12 else (1,))
        for y, line in enumerate(lines):
            name_row(axes, y, line.name)
            marks = [(system, line.figures[system].value) for system in evaluation.systems if system in line.figures]
            between = [value for _, value in marks]
            axes.plot([min(between), max(between)], [y, y], color=FAINT.light, linewidth=5, solid_capstyle="round")
            for system, value in marks:
                style = styles[system]
                axes.plot(
                    value,
                    y,
                    style.marker,
                    color=style.light,
                    markersize=MARKER.get(style.marker, 7.5),
                    mec=PAPER.light,
                    mew=0.8,
                )

    caption = f"{evaluation.measures[0]} by {labels(evaluation.groups)[0]}, the best on top"
    return (draw(WIDE, row * len(lines) + top + bottom, paint, name=name, caption=caption),)


def bars(evaluation: Evaluation, styles: Mapping[str, Style], name: str) -> tuple[Picture, ...]:
    """A small chart per group, all with the same scale, and one of the means first."""
    lines = group_lines(evaluation)
    if len(lines) > 1:
        known = {system: figure_of(evaluation.mean, system, evaluation.measures[0]) for system in evaluation.systems}
        mean = {system: figure for system, figure in known.items() if figure is not None}
        lines = [Line("mean", mean), *lines] if mean else lines
    ends = [figure.high for line in lines for figure in line.figures.values()]
    values = [figure.value for line in lines for figure in line.figures.values()]
    longest = max([end for end in (*ends, *values) if math.isfinite(end)], default=1.0)
    systems = [system for system in evaluation.systems if any(system in line.figures for line in lines)]
    if len(lines) == 1:
        names = {system: system_name(system) for system in systems}
        return (_panel(lines[0], names, styles, longest or 1.0, name, width=WIDE, row=22),)
    names = {system: styles[system].short or system[:7] for system in systems}
    return tuple(_panel(line, names, styles, longest or 1.0, f"{name}-{i}") for i, line in enumerate(lines))


def _panel(
    line: Line,
    names: Mapping[str, str],
    styles: Mapping[str, Style],
    longest: float,
    name: str,
    *,
    width: int = PANEL,
    row: int = 15,
) -> Picture:
    top = 20
    left = margin(names.values(), gap=4)

    def paint(canvas: Canvas) -> None:
        axes = bare_axes(canvas, left=left, right=36, top=top, bottom=2)
        axes.set_xlim(0, longest)
        axes.set_ylim(len(names) - 0.5, -0.5)
        best = max(numbers.number(figure.value) for figure in line.figures.values())
        canvas.text(0, 1, label(line.name), size=FONT + 1, weight="bold", color=INK.light, va="top")
        for y, (system, shown) in enumerate(names.items()):
            name_row(axes, y, shown, size=SMALL, color=MUTED.light)
            if system in line.figures:
                _bar(axes, y, line.figures[system], styles[system], best)

    return draw(width, row * len(names) + top + 2, paint, name=name, caption=line.name)


def _bar(axes: Axes, y: int, figure: Figure, style: Style, best: str) -> None:
    axes.barh(y, figure.value, height=0.72, color=style.light, clip_on=False)
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        axes.plot([figure.low, figure.high], [y, y], color=INK.light, linewidth=1, clip_on=False)
    text = numbers.number(figure.value)
    where = moved(axes, axes.get_yaxis_transform(), right=6)
    weight = "bold" if text == best else "normal"
    axes.text(1, y, text, transform=where, size=SMALL, weight=weight, color=INK.light, va="center_baseline")


def curves(evaluation: Evaluation, styles: Mapping[str, Style], name: str) -> tuple[Picture, ...]:
    """A line per weight, a ring around the one that was used."""
    known = [(curve, points) for curve in evaluation.curves if (points := finite_points(curve))]
    if not known:
        return ()

    def paint(canvas: Canvas) -> None:
        axes = bare_axes(canvas, left=44, right=14, top=12, bottom=38)
        xs, ys = zip(*(point for _, points in known for point in points), strict=True)
        pad = (max(ys) - min(ys)) * 0.08 or 0.01
        axes.set_ylim(min(ys) - pad, max(ys) + pad)
        scale(axes, min(xs), max(xs), ends=(0,))
        levels(axes)
        for curve, points in known:
            style = styles[curve.weight]
            across, up = zip(*points, strict=True)
            axes.plot(across, up, color=style.light, linewidth=2, marker=style.marker, markersize=5, clip_on=False)
            for weight, value in points:
                if math.isclose(weight, curve.used):
                    axes.plot(weight, value, "o", markersize=13, mfc="none", mec=style.light, mew=2, clip_on=False)
        axes.text(
            0.5, 0, "weight", transform=moved(axes, axes.transAxes, down=30), ha="center", size=FONT, color=MUTED.light
        )

    caption = f"{evaluation.measures[0]} of all while one weight varies; a ring marks the weight that was used"
    return (draw(WIDE, 290, paint, name=name, caption=caption),)


def latency(evaluation: Evaluation, styles: Mapping[str, Style], name: str) -> tuple[Picture, ...]:
    """A bar to the median, a line on to the 95th and the 99th percentile."""
    found = {part: value for part, value in latencies(evaluation).items() if math.isfinite(value.p99)}
    if not found:
        return ()
    row, top, bottom = 22, 4, 26

    def paint(canvas: Canvas) -> None:
        axes = bare_axes(canvas, left=margin(map(system_name, found)), right=14, top=top, bottom=bottom)
        axes.set_ylim(len(found) - 0.5, -0.5)
        scale(axes, 0, max(value.p99 for value in found.values()), ends=(-1,))
        for y, (part, value) in enumerate(found.items()):
            colour = styles[part].light if part in styles else MUTED.light
            name_row(axes, y, system_name(part))
            axes.barh(y, value.p50, height=0.6, color=colour)
            axes.plot([value.p50, value.p99], [y, y], color=colour, linewidth=1.5, solid_capstyle="butt")
            axes.plot([value.p95], [y], marker="|", markersize=11, mew=2, color=colour)
            axes.plot([value.p99], [y], marker="|", markersize=7, mew=1.5, color=colour)

    caption = "milliseconds: bar to the median, marks at the 95th and the 99th percentile"
    return (draw(WIDE, row * len(found) + top + bottom, paint, name=name, caption=caption),)
