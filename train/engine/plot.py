"""``training.png``: a run at a glance, drawn from its log files alone, so it can be drawn again at any time.

Every phase is drawn by itself, since losses jump where one ends: the values light, their running median over them. A
panel whose measures were not logged is left out, which is how one figure serves all stages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

POINTS: Final = 400  # of a median line in a phase; more cannot be seen
PANELS: Final = (
    ("Loss", "loss", ""),
    ("Accuracy in the batch", "accuracy", ""),
    ("Sparse vectors", "sparse/active_dimensions", "sparse/zero_share"),
    ("Learning rate and gradient norm", "learning_rate", "gradient_norm"),
    ("Speed and padding", "tokens_per_second", "padding"),
)
"""Title, measure of the left axis with all below it, measure of the right axis."""


@dataclass(frozen=True, slots=True)
class Log:
    """``training.jsonl`` by column.

    Attributes:
        columns: "step", "learning_rate", "seconds" and every measure; NaN at a step without it.
        phases: name and lines of each, in order.
    """

    columns: dict[str, NDArray[np.float64]]
    phases: list[tuple[str, slice]]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, none if it is missing; a line that was torn when the process died is left out."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)


def read_log(out: Path, *, last: float = np.inf) -> Log:
    """The log of a run up to a step; empty if there is none."""
    entries = [entry for entry in read_lines(out / "training.jsonl") if entry["step"] <= last]
    names = dict.fromkeys(name for entry in entries for name in entry["measures"])
    columns = {name: np.array([entry["measures"].get(name, np.nan) for entry in entries]) for name in names}
    columns |= {name: np.array([e[name] for e in entries], float) for name in ("step", "learning_rate", "seconds")}
    starts = [i for i, entry in enumerate(entries) if not i or entry["phase"] != entries[i - 1]["phase"]]
    return Log(columns, [(entries[a]["phase"], slice(a, b)) for a, b in pairwise([*starts, len(entries)])])


def plot_training(out: Path) -> Path | None:
    """Draw ``out/training.png`` from ``out/training.jsonl`` and ``out/evaluations.jsonl``; None without a step."""
    log, evaluations = read_log(out), list(read_lines(out / "evaluations.jsonl"))
    panels = [(title, left, right) for title, left, right in PANELS if _below(log, left)]
    if not panels:
        return None
    rows = (len(panels) + bool(evaluations) + 1) // 2
    figure = Figure((14, 0.6 + 3.4 * rows), dpi=110, layout="constrained")
    figure.suptitle(f"{out.resolve().name}: {len(log.columns['step']):,} steps")
    for number, (title, left, right) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 2, number, title=title, xlabel="step")
        colours = (f"C{i}" for i in count())
        _draw(axes, log, left, colours, "upper left")
        if _below(log, right):
            _draw(axes.twinx(), log, right, colours, "upper right")
        for name, lines in log.phases[1:]:
            first = log.columns["step"][lines.start]
            axes.axvline(first, color="grey", linestyle=":")
            axes.text(first, 0.02, f" {name}", color="grey", transform=axes.get_xaxis_transform())
    if evaluations:
        axes = figure.add_subplot(rows, 2, 2 * rows, title="Evaluation", xlabel="step")
        pairs = [(mode, measure) for mode, figures in evaluations[0]["mean"].items() for measure in figures]
        decides = (p for p in pairs if all(e["mean"][p[0]][p[1]] == e["value"] for e in evaluations))
        _, measure = next(decides, pairs[0])
        for mode in evaluations[0]["mean"]:
            values = [entry["mean"][mode][measure] for entry in evaluations]
            axes.plot([entry["step"] for entry in evaluations], values, "o-", label=f"{mode} {measure}")
        axes.legend()
    figure.savefig(out / "training.png")
    return out / "training.png"


def _below(log: Log, name: str) -> list[str]:
    """The measure and those whose names continue with a slash; a total of one term is left out."""
    found = [n for n, c in log.columns.items() if (n == name or n.startswith(f"{name}/")) and np.isfinite(c).any()]
    return [n for n in found if n != name or len(found) != 2]


def _draw(
    axes: Axes, log: Log, measure: str, colours: Iterator[str], legend: Literal["upper left", "upper right"]
) -> None:
    """Values and running medians of a measure and those below it."""
    for name in _below(log, measure):
        label, colour = name, next(colours)
        for _, lines in log.phases:
            kept = np.isfinite(log.columns[name][lines])
            steps, values = log.columns["step"][lines][kept], log.columns[name][lines][kept]
            if len(values):
                half = max(1, len(values) // 40)
                places = np.unique(np.linspace(0, len(values) - 1, POINTS).astype(np.intp))
                medians = [np.median(values[max(0, place - half) : place + half + 1]) for place in places]
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(steps[places], medians, color=colour, label=label)
                label = ""  # one entry in the legend is enough
    axes.legend(loc=legend)
