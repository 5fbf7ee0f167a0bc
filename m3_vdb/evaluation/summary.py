"""From values per query to the figures of a report: groups, means, intervals, comparisons with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3_vdb.evaluation.results import Comparison, Figure, Group
from m3_vdb.evaluation.significance import Values, bootstrap, randomization

Figures = dict[str, dict[str, Figure]]


@dataclass(frozen=True, slots=True)
class Measured:
    """The queries of one language in one collection, with a value for every system and measure.

    Attributes:
        collection: its name.
        lang: language of the queries.
        documents: documents of the collection.
        values: system → measure → one value a query, in the same order everywhere.
    """

    collection: str
    lang: str
    documents: int
    values: Mapping[str, Mapping[str, Sequence[float]]]

    def matrix(self, columns: Sequence[tuple[str, str]]) -> Values:
        """float64 [n, S], a column a (system, measure)."""
        rows: Values = np.array([self.values[system][measure] for system, measure in columns], dtype=np.float64)
        return np.ascontiguousarray(rows.T)


@dataclass(frozen=True, slots=True)
class Summary:
    """What ``results.Evaluation`` says under the same names."""

    groups: tuple[Group, ...]
    mean: Figures
    pooled: Figures
    comparisons: dict[str, dict[str, Comparison]]


def summarise(measured: Sequence[Measured], systems: Sequence[str], measures: Sequence[str], baseline: str) -> Summary:
    """All figures of a task.

    Args:
        measured: the groups, at least one, each with at least one query.
        systems: columns.
        measures: what was measured.
        baseline: the system that the others are compared with.
    """
    columns = [(system, measure) for system in systems for measure in measures]
    matrices = [group.matrix(columns) for group in measured]
    pooled = np.concatenate(matrices)
    groups = tuple(
        Group(group.collection, group.lang, group.documents, len(matrix), _figures([matrix], columns))
        for group, matrix in zip(measured, matrices, strict=True)
    )
    return Summary(
        groups, _figures(matrices, columns), _figures([pooled], columns), _compare(pooled, columns, baseline)
    )


def _figures(groups: Sequence[Values], columns: Sequence[tuple[str, str]]) -> Figures:
    """Mean of the groups' means with its interval, for every column."""
    means = np.mean([group.mean(axis=0) for group in groups], axis=0)
    low, high = bootstrap(groups)
    figures: Figures = {}
    for i, (system, measure) in enumerate(columns):
        figures.setdefault(system, {})[measure] = Figure(float(means[i]), float(low[i]), float(high[i]))
    return figures


def _compare(pooled: Values, columns: Sequence[tuple[str, str]], baseline: str) -> dict[str, dict[str, Comparison]]:
    others = [column for column in columns if column[0] != baseline]
    if not others:
        return {}
    index = {column: i for i, column in enumerate(columns)}
    differences = np.stack(
        [pooled[:, index[system, measure]] - pooled[:, index[baseline, measure]] for system, measure in others], axis=1
    )
    p_values = randomization(differences)
    low, high = bootstrap([differences])
    compared: dict[str, dict[str, Comparison]] = {}
    for i, (system, measure) in enumerate(others):
        column = differences[:, i]
        compared.setdefault(system, {})[measure] = Comparison(
            delta=float(column.mean()),
            p_value=float(p_values[i]),
            better=int((column > 0).sum()),
            worse=int((column < 0).sum()),
            low=float(low[i]),
            high=float(high[i]),
        )
    return compared
