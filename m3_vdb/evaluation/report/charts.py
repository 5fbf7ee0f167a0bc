"""The charts of a report as plain SVG: bars per group, dots per system, curves of the weights, latency.

Colours and fonts are classes of the page (``report.html.jinja``), so a chart follows its dark mode. Every system has
one colour and one marker in all charts and legends; nothing depends on colour alone. The colours are Okabe and Ito's,
which colour-blind readers can tell apart, darkened for white paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from m3_vdb.evaluation.report.tables import figure_of, finite_points, labels, latencies, system_name
from m3_vdb.evaluation.report.writing import number
from m3_vdb.evaluation.results import Evaluation, Figure

WIDE: Final = 420
PANEL: Final = 184
"""Widths in CSS pixels; both fit a phone."""
LETTER: Final = 6.1
"""Width of a letter, generously: which font the browser has is not known here."""
LONGEST_LABEL: Final = 26


@dataclass(frozen=True, slots=True)
class Style:
    """How a system is drawn: its class, colours on light and dark paper, SVG path of its marker, and a short name."""

    name: str
    light: str
    dark: str
    marker: str
    short: str = ""


KNOWN: Final = {
    "bm25": Style(
        "bm25",
        "#6f7887",
        "#a7b0bd",
        "M-3-5L0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0-5-3z",
        "BM25",
    ),
    "dense": Style("dense", "#0072b2", "#56b4e9", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "dense"),
    "sparse": Style("sparse", "#c48a00", "#edbb3a", "M-3.6-3.6h7.2v7.2h-7.2z", "sparse"),
    "multi_vector": Style("multi", "#009e73", "#2fcf9f", "M0-4.8L4.6 3.6H-4.6z", "multi"),
    "dense_sparse": Style("pair", "#b0578d", "#e09ac4", "M0 4.8L4.6-3.6H-4.6z", "d + s"),
    "all": Style("all", "#d04a02", "#ff8445", "M0-5L5 0 0 5-5 0z", "all"),
}
SPARE: Final = (
    Style("spare1", "#5b4bc4", "#a99dff", "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"),
    Style("spare2", "#8a6d3b", "#cdae72", "M-4.8 0L3.6-4.6V4.6z"),
    Style("spare3", "#2f7d8c", "#6fc3d3", "M4.8 0L-3.6-4.6V4.6z"),
    Style("spare4", "#7a2e2e", "#e38b8b", "M0-4.8L4.6-1.5 2.8 3.9H-2.8L-4.6-1.5z"),
)
STYLES: Final = (*KNOWN.values(), *SPARE)


def palette(systems: Iterable[str]) -> dict[str, Style]:
    """The style of every system, in order of first appearance; unknown ones take the spare styles in turn."""
    names = list(dict.fromkeys((*systems, *KNOWN)))
    unknown = [name for name in names if name not in KNOWN]
    return {name: KNOWN.get(name) or SPARE[unknown.index(name) % len(SPARE)] for name in names}


@dataclass
class Chart:
    """An SVG picture with axes: x and y of the data are placed inside the margins, in CSS pixels."""

    width: float
    height: float
    caption: str
    left: float = 0
    right: float = 14
    top: float = 4
    bottom: float = 2
    x_range: tuple[float, float] = (0, 1)
    y_range: tuple[float, float] = (0, 1)
    parts: list[str] = field(default_factory=list)

    @property
    def svg(self) -> str:
        """The picture."""
        box, about = f"0 0 {self.width:g} {self.height:g}", escape(label(self.caption, longest=200))
        return f'<svg viewBox="{box}" role="img" aria-label="{about}">{"".join(self.parts)}</svg>'

    def x(self, value: float) -> float:
        """Where a value stands from the left."""
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.right), 2)

    def y(self, value: float) -> float:
        """Where a value stands from the top."""
        low, high = self.y_range
        return round(self.top + (high - value) / (high - low) * (self.height - self.top - self.bottom), 2)

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> None:
        """A text whose base line is at y."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(label(text))}</text>'
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """A line between two places."""
        self.parts.append(f'<path class="{kind}" d="M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}"/>')

    def bar(self, y: float, value: float, height: float, kind: str) -> None:
        """A bar from the left end of x to a value, its middle at y."""
        start, end = self.x(self.x_range[0]), self.x(value)
        size = f'width="{max(end - start, 0):g}" height="{height:g}"'
        self.parts.append(f'<rect class="{kind}" x="{start:g}" y="{y - height / 2:g}" {size}/>')

    def mark(self, x: float, y: float, style: Style) -> None:
        """A system's marker."""
        self.parts.append(f'<path class="mark {style.name}" transform="translate({x:g} {y:g})" d="{style.marker}"/>')

    def scale(self, values: Sequence[float], *, above: bool = True, below: bool = False) -> None:
        """Fit x to values, with light lines at round ones, which are written above, below or both."""
        low, high = min(values), max(values)
        pad = (high - low) * 0.03 or 0.05
        self.x_range = (low - pad if low else 0, high + pad)
        for value, text in round_values(*self.x_range):
            x = self.x(value)
            self.line((x, self.top), (x, self.height - self.bottom), "faint")
            for y in [self.top - 8] * above + [self.height - self.bottom + 15] * below:
                self.text(x, y, text, "muted", anchor="middle")


def round_values(low: float, high: float) -> list[tuple[float, str]]:
    """About six round values in a range, all with as many decimals as the step needs."""
    step = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [round(i * step, 9) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:,.{decimals}f}".replace("-", "−")) for value in values]


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name that fits beside a chart and that XML can hold."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _margin(names: Iterable[str], gap: float = 10) -> float:
    return LETTER * max(len(label(name)) for name in names) + gap


def _group_lines(evaluation: Evaluation) -> list[tuple[str, dict[str, Figure]]]:
    """(name, system → figure) of every group in which something was measured."""
    names = labels(evaluation.groups)[1]
    figures = [group.figures for group in evaluation.groups]
    lines = [(name, _known(evaluation, of_group)) for name, of_group in zip(names, figures, strict=True)]
    return [(name, known) for name, known in lines if known]


def _known(evaluation: Evaluation, figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Figure]:
    found = {system: figure_of(figures, system, evaluation.measures[0]) for system in evaluation.systems}
    return {system: figure for system, figure in found.items() if figure is not None}


def dots(evaluation: Evaluation, styles: Mapping[str, Style]) -> list[Chart]:
    """A line per group with a marker per system, the highest on top."""
    lines = sorted(_group_lines(evaluation), key=lambda line: max(f.value for f in line[1].values()), reverse=True)
    if len(lines) < 2 or len({system for _, figures in lines for system in figures}) < 2:
        return []
    row, many = 25, len(lines) > 12
    caption = f"{evaluation.measures[0]} by {labels(evaluation.groups)[0]}, the best on top"
    chart = Chart(WIDE, 0, caption, _margin(name for name, _ in lines), top=26, bottom=26 if many else 8)
    chart.height = row * len(lines) + chart.top + chart.bottom
    chart.scale([figure.value for _, figures in lines for figure in figures.values()], below=many)
    for i, (name, figures) in enumerate(lines):
        y = chart.top + row * (i + 0.5)
        places = {system: chart.x(figure.value) for system, figure in figures.items()}
        chart.text(chart.left - 6, y + 4, name, anchor="end")
        chart.line((min(places.values()), y), (max(places.values()), y), "faint span")
        for system, x in places.items():
            chart.mark(x, y, styles[system])
    return [chart]


def bars(evaluation: Evaluation, styles: Mapping[str, Style]) -> list[Chart]:
    """A small chart per group, all with the same scale, and one of the means first."""
    lines = _group_lines(evaluation)
    if len(lines) > 1 and (mean := _known(evaluation, evaluation.mean)):
        lines = [("mean", mean), *lines]
    ends = [end for _, figures in lines for figure in figures.values() for end in (figure.high, figure.value)]
    longest = max([end for end in ends if math.isfinite(end)], default=1.0) or 1.0
    systems = [system for system in evaluation.systems if any(system in figures for _, figures in lines)]
    one = len(lines) == 1
    names = {s: system_name(s) if one else styles[s].short or s[:7] for s in systems}
    charts = []
    for title, figures in lines:
        row, top = 22 if one else 15, 20
        size = (WIDE if one else PANEL, row * len(names) + top + 2)
        chart = Chart(*size, title, _margin(names.values(), 4), 40, top, x_range=(0, longest))
        chart.text(0, 12, title, "title")
        best = max(round(figure.value, 3) for figure in figures.values())
        for i, (system, name) in enumerate(names.items()):
            y = top + row * (i + 0.5)
            chart.text(chart.left - 6, y + 4, name, "muted", anchor="end")
            if system in figures:
                value, low, high = figures[system].value, figures[system].low, figures[system].high
                chart.bar(y, value, row * 0.72, styles[system].name)
                if math.isfinite(low) and math.isfinite(high):
                    chart.line((chart.x(low), y), (chart.x(high), y), "ink")
                bold = "small bold" if round(value, 3) == best else "small"
                chart.text(chart.width - chart.right + 6, y + 4, number(value), bold)
        charts.append(chart)
    return charts


def curves(evaluation: Evaluation, styles: Mapping[str, Style]) -> list[Chart]:
    """A line per weight, a ring around the one that was used."""
    known = [(curve, points) for curve in evaluation.curves if (points := finite_points(curve))]
    if not known:
        return []
    caption = f"{evaluation.measures[0]} of all while one weight varies; a ring marks the weight that was used"
    chart = Chart(WIDE, 290, caption, 44, top=12, bottom=38)
    xs, ys = zip(*(point for _, points in known for point in points), strict=True)
    pad = (max(ys) - min(ys)) * 0.08 or 0.01
    chart.y_range = (min(ys) - pad, max(ys) + pad)
    chart.scale(xs, above=False, below=True)
    for value, text in round_values(*chart.y_range):
        chart.line((chart.left, chart.y(value)), (chart.width - chart.right, chart.y(value)), "faint")
        chart.text(chart.left - 6, chart.y(value) + 4, text, "muted", anchor="end")
    for curve, points in known:
        style = styles[curve.weight]
        places = [(chart.x(weight), chart.y(value)) for weight, value in points]
        path = "L".join(f"{x:g} {y:g}" for x, y in places)
        chart.parts.append(f'<path class="curve {style.name}" d="M{path}"/>')
        for (x, y), (weight, _) in zip(places, points, strict=True):
            chart.mark(x, y, style)
            if math.isclose(weight, curve.used):
                chart.parts.append(f'<circle class="curve {style.name}" cx="{x:g}" cy="{y:g}" r="8"/>')
    chart.text((chart.left + chart.width - chart.right) / 2, chart.height - 6, "weight", "muted", anchor="middle")
    return [chart]


def latency(evaluation: Evaluation, styles: Mapping[str, Style]) -> list[Chart]:
    """A bar to the median, a line on to the 95th and the 99th percentile."""
    found = {part: value for part, value in latencies(evaluation).items() if math.isfinite(value.p99)}
    if not found:
        return []
    row, caption = 22, "milliseconds: bar to the median, marks at the 95th and the 99th percentile"
    chart = Chart(WIDE, row * len(found) + 30, caption, _margin(map(system_name, found)), bottom=26)
    chart.scale([0, *(value.p99 for value in found.values())], above=False, below=True)
    for i, (part, value) in enumerate(found.items()):
        y, kind = chart.top + row * (i + 0.5), styles[part].name if part in styles else "other"
        chart.text(chart.left - 6, y + 4, system_name(part), anchor="end")
        chart.bar(y, value.p50, 13, kind)
        chart.line((chart.x(value.p50), y), (chart.x(value.p99), y), f"tail {kind}")
        for x, half in ((chart.x(value.p95), 6), (chart.x(value.p99), 4)):
            chart.line((x, y - half), (x, y + half), f"tail {kind}")
    return [chart]
