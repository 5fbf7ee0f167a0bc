"""The tables of weights: what each is worth, and what tuning them gained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from m3_vdb.evaluation.report import numbers
from m3_vdb.evaluation.report.tables import Cell, Row, Table, cells, system_name, without_empty_columns
from m3_vdb.evaluation.results import Curve, Tuning


def tuning_table(tunings: Iterable[Tuning]) -> Table | None:
    """Tuned weights and what they gained."""
    rows = tuple(
        Row(
            system_name(tuning.mode),
            (
                *cells([weights_text(tuning.before), weights_text(tuning.after), numbers.count(tuning.dev_queries)]),
                *_gain(tuning.dev_before, tuning.dev_after),
                *_gain(tuning.test_before, tuning.test_after),
            ),
        )
        for tuning in tunings
    )
    columns = ("weights before", "tuned", "dev queries", "dev", "gained on dev", "test", "gained on test")
    return Table("mode", columns, rows) if rows else None


def _gain(before: float, after: float) -> tuple[Cell, Cell]:
    return (Cell(f"{numbers.number(before)} → {numbers.number(after)}"), Cell(numbers.signed(after - before)))


def weights_text(weights: Sequence[float]) -> str:
    """``1, 0.3, 1``."""
    return ", ".join(map(numbers.plain, weights))


def curve_table(curves: Sequence[Curve], measure: str) -> Table | None:
    """What a weight's choice is worth: at the used value, at the best one and at the worst of those tried."""
    rows = []
    for curve in curves:
        points = finite_points(curve)
        if not points:
            continue
        best, worst = max(points, key=lambda point: point[1]), min(points, key=lambda point: point[1])
        used = next((value for weight, value in points if math.isclose(weight, curve.used)), math.nan)
        shown = [_at(point) for point in ((curve.used, used), best, worst)]
        rows.append(Row(system_name(curve.weight), tuple(shown)))
    return Table(f"{measure} by weight", ("as used", "best tried", "worst tried"), tuple(rows)) if rows else None


def _at(point: tuple[float, float]) -> Cell:
    return Cell(numbers.number(point[1]), f"at {numbers.plain(point[0])}")


def finite_points(curve: Curve) -> list[tuple[float, float]]:
    """The points that can be drawn."""
    return [point for point in curve.points if all(map(math.isfinite, point))]


def points_table(curves: Sequence[Curve]) -> Table | None:
    """Every point of every curve, a row per weight."""
    known = [(curve, dict(finite_points(curve))) for curve in curves]
    weights = sorted({weight for _, points in known for weight in points})
    best = [max(points.values(), default=math.nan) for _, points in known]
    rows = tuple(
        Row(
            numbers.plain(weight),
            tuple(
                Cell(
                    numbers.number(points.get(weight, math.nan)),
                    small="used" if math.isclose(weight, curve.used) else "",
                    best=points.get(weight) == top,
                )
                for (curve, points), top in zip(known, best, strict=True)
            ),
        )
        for weight in weights
    )
    columns = tuple(system_name(curve.weight) for curve in curves)
    return without_empty_columns(Table("weight", columns, rows, "Every weight tried")) if rows else None
