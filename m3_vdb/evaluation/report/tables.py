"""The tables of a report, with the sentences between them.

A table holds numbers and values of ``results``; they become text only in ``writing``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from m3_vdb.evaluation.report.writing import (
    Cell,
    Column,
    Row,
    Table,
    count,
    interval,
    number,
    p_value,
    percentiles,
    plain,
    rate,
    scientific,
    share,
    signed,
    size,
    tenths,
)
from m3_vdb.evaluation.results import Comparison, Cost, Curve, Evaluation, Figure, Group, Percentiles
from m3_vdb.notices import counted

NAMES: Final = {"multi_vector": "multi-vector", "dense_sparse": "dense + sparse", "bm25": "BM25"}
ENCODING: Final = "encode the query"
FEW_COLLECTIONS: Final = 3
"""Up to this many collections stand in the first table of costs; more are summed up there and listed below."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a task's section; ``key`` says which charts belong to it, ``more`` is collapsed on the page."""

    key: str
    title: str
    text: str = ""
    table: Table | None = None
    more: Sequence[Table] = ()


def system_name(system: str) -> str:
    """A system in a reader's words."""
    return NAMES.get(system, system)


def figure_of(figures: Mapping[str, Mapping[str, Figure]], system: str, measure: str) -> Figure | None:
    """The figure, None if it is missing or not a number."""
    figure = figures.get(system, {}).get(measure)
    return figure if figure is not None and math.isfinite(figure.value) else None


def comparison_of(evaluation: Evaluation, system: str, measure: str) -> Comparison | None:
    """The comparison with the baseline, None if it is missing or not a number."""
    found = evaluation.comparisons.get(system, {}).get(measure)
    return found if found is not None and math.isfinite(found.delta) else None


def labels(groups: Sequence[Group]) -> tuple[str, tuple[str, ...]]:
    """Heading and name of every group: the language alone where that tells them apart."""
    one = len({group.collection for group in groups}) == 1
    by_language = all(group.lang and (one or group.lang == group.collection) for group in groups)
    return "language" if by_language else "collection", tuple(g.lang if by_language else g.label for g in groups)


def summary(evaluations: Sequence[Evaluation]) -> Table | None:
    """A row per task with its first measure; None for one task, whose section has it."""
    if len(evaluations) < 2:
        return None
    systems = tuple(dict.fromkeys(system for evaluation in evaluations for system in evaluation.systems))
    rows = []
    for evaluation in evaluations:
        measure = evaluation.measures[0] if evaluation.measures else ""
        rows.append(Row(evaluation.task, (measure, *(figure_of(evaluation.mean, s, measure) for s in systems))))
    columns: list[Column] = [
        (system_name(system), lambda f: Cell(number(f.value), rank=round(f.value, 3))) for system in systems
    ]
    return Table("task", [("measure", str), *columns], rows)


def blocks(evaluation: Evaluation) -> tuple[Block, ...]:
    """The parts that have content, in reading order."""
    return (*_quality(evaluation), *_weights(evaluation), *_costs(evaluation))


def _quality(evaluation: Evaluation) -> list[Block]:
    if not evaluation.measures:
        return []
    first, *others = evaluation.measures
    text = "In brackets 95 % bootstrap confidence intervals over queries."
    if evaluation.comparisons:
        text += f" The difference to {system_name(evaluation.baseline)} is paired, query by query; p of a two-sided "
        text += "randomization test."
    more = tuple(_systems_table(evaluation, measure) for measure in others)
    found = [Block("systems", first, text, _systems_table(evaluation, first), more)]
    if len(evaluation.groups) > 1:
        more = tuple(_groups_table(evaluation, measure) for measure in others)
        text = "± is half the 95 % confidence interval; the best of a row is bold."
        title = f"{first} by {labels(evaluation.groups)[0]}"
        found.append(Block("groups", title, text, _groups_table(evaluation, first), more))
    return found


def _figure(figure: Figure, *, short: bool = False) -> Cell:
    """A figure with its interval or, ``short``, half of that."""
    between = interval(figure.low, figure.high)
    small = f"±{(figure.high - figure.low) / 2:.3f}" if short and between else between
    hover = f"95 % confidence interval {between}" if between else ""
    return Cell(number(figure.value), small, hover, round(figure.value, 3))


def _systems_table(evaluation: Evaluation, measure: str) -> Table:
    """A row per system: its mean, its pooled figure, and how it compares with the baseline."""
    several = len(evaluation.groups) != 1
    difference = f"difference to {system_name(evaluation.baseline)}"
    columns: list[Column] = [
        *([("mean of groups", _figure), ("all queries", _figure)] if several else [(measure, _figure)]),
        (difference, lambda c: Cell(signed(c.delta), interval(c.low, c.high, sign=True))),
        ("p", lambda c: p_value(c.p_value)),
        ("queries better", lambda c: count(c.better)),
        ("worse", lambda c: count(c.worse)),
    ]
    rows = []
    for system in evaluation.systems:
        figures = [figure_of(evaluation.mean, system, measure), figure_of(evaluation.pooled, system, measure)]
        compared: list[Any] = [comparison_of(evaluation, system, measure)] * 4
        if evaluation.comparisons and system == evaluation.baseline:
            compared = ["baseline", None, None, None]
        rows.append(Row(system_name(system), (*figures[: 1 + several], *compared)))
    return Table("system", columns, rows, measure, best_of_column=True)


def _groups_table(evaluation: Evaluation, measure: str) -> Table:
    """A row per group and a column per system, then the mean and the pooled figure."""
    corner, names = labels(evaluation.groups)

    def line(name: str, queries: int, figures: Mapping[str, Mapping[str, Figure]], **about: Any) -> Row:  # noqa: ANN401
        return Row(name, (queries, *(figure_of(figures, s, measure) for s in evaluation.systems)), **about)

    rows = [
        line(name, group.queries, group.figures, hover=f"{group.label}: {counted(group.documents, 'document')}")
        for name, group in zip(names, evaluation.groups, strict=True)
    ]
    total = sum(group.queries for group in evaluation.groups)
    rows += [
        line(name, total, figures, summary=True)
        for name, figures in (("mean", evaluation.mean), ("all queries", evaluation.pooled))
    ]
    short = partial(_figure, short=True)
    columns: list[Column] = [("queries", count), *((system_name(system), short) for system in evaluation.systems)]
    return Table(corner, columns, rows, measure, shaded=True)


def _weights(evaluation: Evaluation) -> list[Block]:
    found = []
    measure = evaluation.measures[0] if evaluation.measures else ""
    known = [(curve, points) for curve in evaluation.curves if (points := finite_points(curve))]
    if known:
        names = ("as used", "best tried", "worst tried")
        columns: list[Column] = [(name, lambda p: Cell(number(p[1]), f"at {plain(p[0])}")) for name in names]
        rows = []
        for curve, points in known:
            used = next((value for weight, value in points if math.isclose(weight, curve.used)), math.nan)
            worst, *_, best = sorted([*points, points[0]], key=lambda point: point[1])
            rows.append(Row(system_name(curve.weight), ((curve.used, used), best, worst)))
        text = f"Mean {measure} of all while one weight varies and the two others stay."
        table = Table(f"{measure} by weight", columns, rows)
        found.append(Block("weights", "Sensitivity to the weights", text, table, (_points_table(evaluation.curves),)))
    if evaluation.tunings:
        found.append(_tuning_block(evaluation, measure))
    if evaluation.fusion_error is not None and math.isfinite(evaluation.fusion_error):
        text = "Largest relative difference between a fused score of the store and the weighted sum of its three "
        text += f"parts, asked for one by one: {scientific(evaluation.fusion_error)}."
        found.append(Block("fusion", "Exactness of the fusion", text))
    return found


def _points_table(curves: Sequence[Curve]) -> Table:
    """Every point of every curve, a row per weight."""
    known = [(curve, dict(finite_points(curve))) for curve in curves]
    rows = []
    for weight in sorted({weight for _, points in known for weight in points}):
        values = [
            (points.get(weight, math.nan), "used" if math.isclose(weight, curve.used) else "")
            for curve, points in known
        ]
        rows.append(Row(plain(weight), values))
    columns: list[Column] = [
        (system_name(curve.weight), lambda p: Cell(number(p[0]), p[1], rank=round(p[0], 3))) for curve in curves
    ]
    return Table("weight", columns, rows, "Every weight tried", best_of_column=True)


def finite_points(curve: Curve) -> list[tuple[float, float]]:
    """The points that can be drawn."""
    return [point for point in curve.points if all(map(math.isfinite, point))]


def _tuning_block(evaluation: Evaluation, measure: str) -> Block:
    def weights(values: Sequence[float]) -> str:
        return ", ".join(map(plain, values))

    def move(values: tuple[float, float]) -> str:
        return f"{number(values[0])} → {number(values[1])}"

    columns: list[Column] = [("weights before", weights), ("tuned", weights), ("dev queries", count)]
    columns += [("dev", move), ("gained on dev", signed), ("test", move), ("gained on test", signed)]
    rows = [
        Row(
            system_name(t.mode),
            (
                *(t.before, t.after, t.dev_queries, (t.dev_before, t.dev_after), t.dev_after - t.dev_before),
                *((t.test_before, t.test_after), t.test_after - t.test_before),
            ),
        )
        for t in evaluation.tunings
    ]
    text = f"Weights (dense, sparse, multi-vector) with the best mean {measure} on the dev queries; "
    text += "all other figures of this report are those of the tuned weights."
    return Block("tuning", "Tuned weights", text, Table("mode", columns, rows))


def _costs(evaluation: Evaluation) -> list[Block]:
    found = []
    latency = latencies(evaluation)
    if latency:
        columns: list[Column] = [
            *[("p50", lambda p: tenths(p.p50)), ("p95", lambda p: tenths(p.p95)), ("p99", lambda p: tenths(p.p99))],
            ("measured", lambda p: count(p.count)),
        ]
        table = Table("milliseconds", columns, [Row(system_name(name), [value] * 4) for name, value in latency.items()])
        text = "One request for 10 hits with their texts; encoding the query is not part of it."
        more: tuple[Table, ...] = ()
        if len(evaluation.costs) > 1:
            text += f" Medians over {len(evaluation.costs)} collections."
            rows = [
                Row(name, (cost.encode_ms, *map(cost.search_ms.get, evaluation.systems)))
                for name, cost in evaluation.costs.items()
            ]
            columns = [(name, percentiles) for name in ("encode", *map(system_name, evaluation.systems))]
            more = (Table("collection", columns, rows, "Milliseconds by collection, p50 / p95 / p99"),)
        found.append(Block("latency", "Latency", text, table, more))
    if evaluation.costs:
        rows = [_ingest_row(name, [cost]) for name, cost in evaluation.costs.items()]
        total = _ingest_row(f"all {len(rows)}", evaluation.costs.values(), summary=True)
        listed = Table("collection", INGEST, [*rows, total] if len(rows) > 1 else rows)
        more = ()
        if len(rows) > FEW_COLLECTIONS:
            more = (Table("collection", INGEST, rows, "Ingest by collection"),)
            listed = Table("collections", INGEST, [total])
        found.append(Block("ingest", "Ingest and index", "", listed, more))
    approximate = [one for measure in evaluation.measures if (one := _approximation_table(evaluation, measure))]
    if approximate:
        text = "The engine's graph instead of a full scan: what it changes, and how many of the true top 10 it finds."
        title = "What approximate search costs"
        found.append(Block("approximate", title, text, approximate[0], tuple(approximate[1:])))
    return found


def latencies(evaluation: Evaluation) -> dict[str, Percentiles]:
    """Encoding and every system: percentiles of the one collection, or the median of each over the collections."""
    costs = evaluation.costs.values()
    parts = {ENCODING: [cost.encode_ms for cost in costs]}
    parts |= {system: [cost.search_ms.get(system) for cost in costs] for system in evaluation.systems}
    known = {name: [value for value in values if value is not None] for name, values in parts.items()}
    return {
        name: Percentiles(
            p50=statistics.median(value.p50 for value in values),
            p95=statistics.median(value.p95 for value in values),
            p99=statistics.median(value.p99 for value in values),
            count=sum(value.count for value in values),
        )
        for name, values in known.items()
        if values
    }


INGEST: Final[Sequence[Column]] = (
    *((name, count) for name in ("encoded", "unchanged", "rejected", "tokens", "truncated")),
    *(("seconds", tenths), ("documents/s", rate), ("tokens/s", rate), ("index", size), ("per document", size)),
)


def ingest_totals(costs: Collection[Cost]) -> dict[str, float | None]:
    """The values of ``INGEST``, and the documents in the index; None where nothing is known."""

    def total(name: str) -> Any:  # noqa: ANN401 - of integers an integer
        return sum(getattr(cost, name) for cost in costs)

    encoded, tokens, seconds = total("documents"), total("tokens"), total("ingest_seconds")
    sized = bool(costs) and all(cost.index_bytes is not None for cost in costs)
    index, stored = total("index_bytes") if sized else None, encoded + total("reused")
    return {
        "encoded": encoded,
        "unchanged": total("reused") or None,
        "rejected": total("rejected") or None,
        "tokens": tokens if encoded else None,
        "truncated": total("truncated") or None,
        "seconds": seconds if encoded else None,
        "documents/s": encoded / seconds if encoded and seconds > 0 else None,
        "tokens/s": tokens / seconds if encoded and tokens and seconds > 0 else None,
        "index": index,
        "per document": index / stored if sized and stored else None,
        "stored": stored,
    }


def _ingest_row(name: str, costs: Collection[Cost], *, summary: bool = False) -> Row:
    totals = ingest_totals(costs)
    return Row(name, [totals[column] for column, _ in INGEST], summary)


def _approximation_table(evaluation: Evaluation, measure: str) -> Table | None:
    rows = [
        Row(
            system_name(mode),
            (
                *(one.exact[measure], one.approximate[measure], one.approximate[measure] - one.exact[measure]),
                *(one.overlap, one.search_ms),
            ),
        )
        for mode, one in evaluation.approximations.items()
        if measure in one.exact and measure in one.approximate
    ]
    columns: list[Column] = [
        *[("exact", number), ("approximate", number), ("difference", signed), ("same top 10", share)],
        ("ms, p50 / p95 / p99", percentiles),
    ]
    return Table("mode", columns, rows, measure) if rows else None
