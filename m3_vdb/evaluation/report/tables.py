"""A table as values, and those of quality: the page and the Markdown draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from m3_vdb.evaluation.report import numbers
from m3_vdb.evaluation.report.numbers import MISSING
from m3_vdb.evaluation.results import Evaluation, Figure, Group

NAMES = {"multi_vector": "multi-vector", "dense_sparse": "dense + sparse", "bm25": "BM25"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One number.

    Attributes:
        text: as it is written.
        small: said beside it, quieter.
        hover: said when pointed at.
        best: the best of its row or column.
        heat: 0 to 1, place of the number among all of the table; None without shading.
    """

    text: str
    small: str = ""
    hover: str = ""
    best: bool = False
    heat: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; ``summary`` lines stand apart."""

    name: str
    cells: tuple[Cell, ...]
    summary: bool = False
    hover: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers under headings; ``corner`` is the heading of the names, ``title`` is only shown if collapsed."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""


def system_name(system: str) -> str:
    """A system in a reader's words."""
    return NAMES.get(system, system)


def labels(groups: Sequence[Group]) -> tuple[str, tuple[str, ...]]:
    """Heading and name of every group: the language alone where there is one collection only."""
    one = len({group.collection for group in groups}) == 1
    by_language = all(group.lang and (one or group.lang == group.collection) for group in groups)
    names = tuple(group.lang if by_language else group.label for group in groups)
    return "language" if by_language else "collection", names


def without_empty_columns(table: Table) -> Table:
    """A column in which nothing was measured does not appear."""
    kept = [i for i in range(len(table.columns)) if any(row.cells[i].text != MISSING for row in table.rows)]
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows)


def cells(texts: Iterable[str]) -> tuple[Cell, ...]:
    """Plain cells."""
    return tuple(Cell(text or MISSING) for text in texts)


def figure_of(figures: Mapping[str, Mapping[str, Figure]], system: str, measure: str) -> Figure | None:
    """The figure, None if it is missing or no number."""
    figure = figures.get(system, {}).get(measure)
    return figure if figure is not None and math.isfinite(figure.value) else None


def with_best(row: Sequence[Cell]) -> tuple[Cell, ...]:
    """The largest in bold, and everything a reader cannot tell from it; nothing if there is nothing to compare."""
    texts = [cell.text for cell in row if cell.text != MISSING]
    best = max(texts, key=_value, default=MISSING)
    return tuple(replace(cell, best=len(texts) > 1 and cell.text == best) for cell in row)


def _value(text: str) -> float:
    return float(text.replace("−", "-"))


def _cell(figure: Figure | None, *, short: bool) -> Cell:
    if figure is None:
        return Cell(MISSING)
    between = numbers.interval(figure.low, figure.high)
    small = numbers.half_width(figure) if short else between
    return Cell(numbers.number(figure.value), small, f"95 % confidence interval {between}" if between else "")


def systems_table(evaluation: Evaluation, measure: str) -> Table:
    """A row per system: its mean, its pooled figure, and how it stands beside the baseline."""
    found = evaluation.systems
    means = with_best([_cell(figure_of(evaluation.mean, system, measure), short=False) for system in found])
    pooled = with_best([_cell(figure_of(evaluation.pooled, system, measure), short=False) for system in found])
    rows = tuple(
        Row(system_name(system), (mean, pool, *_compared(evaluation, system, measure)))
        for system, mean, pool in zip(found, means, pooled, strict=True)
    )
    baseline = system_name(evaluation.baseline)
    columns: tuple[str, ...] = (
        "mean of groups",
        "all queries",
        f"difference to {baseline}",
        "p",
        "queries better",
        "worse",
    )
    if len(evaluation.groups) == 1:
        rows = tuple(replace(row, cells=(row.cells[0], *row.cells[2:])) for row in rows)
        columns = (measure, *columns[2:])
    return without_empty_columns(Table("system", columns, rows, measure))


def _compared(evaluation: Evaluation, system: str, measure: str) -> tuple[Cell, ...]:
    comparison = evaluation.comparisons.get(system, {}).get(measure)
    if evaluation.comparisons and system == evaluation.baseline:
        return cells(["baseline", "", "", ""])
    if comparison is None or not math.isfinite(comparison.delta):
        return cells([""] * 4)
    delta, _, between = numbers.difference(comparison).partition(" ")
    better, worse = numbers.count(comparison.better), numbers.count(comparison.worse)
    return (Cell(delta, between), *cells([numbers.p_value(comparison.p_value), better, worse]))


def groups_table(evaluation: Evaluation, measure: str) -> Table:
    """A row per group and a column per system, then the mean and the pooled figure."""
    corner, names = labels(evaluation.groups)
    figures = [group.figures for group in evaluation.groups]
    summaries = {"mean": evaluation.mean, "all queries": evaluation.pooled} if len(figures) > 1 else {}
    lines = [
        with_best([_cell(figure_of(line, system, measure), short=True) for system in evaluation.systems])
        for line in chain(figures, summaries.values())
    ]
    shaded = [*_heat(lines[: len(figures)]), *lines[len(figures) :]]
    total = Cell(numbers.count(sum(group.queries for group in evaluation.groups)))
    rows = [
        Row(name, (Cell(numbers.count(group.queries)), *line), hover=_about(group))
        for name, group, line in zip(names, evaluation.groups, shaded, strict=False)
    ]
    for name, line in zip(summaries, shaded[len(figures) :], strict=True):
        rows.append(Row(name, (total, *line), summary=True))
    columns = ("queries", *(system_name(system) for system in evaluation.systems))
    return without_empty_columns(Table(corner, columns, tuple(rows), measure))


def _about(group: Group) -> str:
    return f"{group.label}: {numbers.counted(group.documents, 'document')}"


def _heat(lines: Sequence[Sequence[Cell]]) -> list[tuple[Cell, ...]]:
    """Every number's place between the smallest and the largest of all lines."""
    values = [_value(cell.text) for line in lines for cell in line if cell.text != MISSING]
    low, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    if span <= 0 or len(lines) < 2:
        return [tuple(line) for line in lines]
    return [
        tuple(c if c.text == MISSING else replace(c, heat=(_value(c.text) - low) / span) for c in line)
        for line in lines
    ]
