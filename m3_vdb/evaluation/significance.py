"""From values per query to the figures of a report: means with intervals, differences to the baseline with p-values.

Both come from resampling queries. Seeded: the same values, the same result. Shapes: S columns (systems × measures),
n queries of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.results import Comparison, Figure, Group

Values = NDArray[np.float64]
Figures = dict[str, dict[str, Figure]]
RESAMPLES: Final = 2000
"""Bootstrap samples: the ends of a 95 % interval then rest on 50 samples each."""
PERMUTATIONS: Final = 10_000
"""Random sign patterns: the smallest p-value is 1/10,001."""
CONFIDENCE: Final = 0.95
_NUMBERS: Final = 4_000_000
"""Numbers drawn at once, 32 MB: MKQA alone has 165,000 queries."""


def bootstrap(groups: Sequence[Values], *, seed: int = 0) -> tuple[Values, Values]:
    """Percentile bootstrap intervals of the mean of the groups' means.

    Queries are drawn with replacement inside every group, so a mean over languages keeps each language's weight.

    Args:
        groups: one float64 [n, S] a group; n may differ and is at least 1.
        seed: of the draws; all columns share them.

    Returns:
        (low, high), each float64 [S].
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((RESAMPLES, groups[0].shape[1]))
    for values in groups:
        n = len(values)
        for rows in _blocks(RESAMPLES, n):
            count = rows.stop - rows.start
            drawn = rng.integers(0, n, size=(count, n)) + n * np.arange(count)[:, np.newaxis]
            # How often each query was drawn, in each sample. Much faster than rng.multinomial.
            counts = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
            total[rows] += counts @ values / n
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(total / len(groups), [tail, 100 - tail], axis=0)
    return low, high


def randomization(differences: Values, *, seed: int = 0) -> Values:
    """Two-sided p-values of paired differences (Fisher's randomization test).

    If two systems were the same, every query's difference could as well have had the other sign. The p-value is the
    share of random sign patterns whose mean is at least as far from 0 as the one observed, itself included.

    Args:
        differences: float64 [n, S], system minus baseline.
        seed: of the signs; all columns share them.

    Returns:
        float64 [S], in [1/(PERMUTATIONS + 1), 1].
    """
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    # Sums that are equal on paper differ in their last bits, depending on the order of addition.
    slack = 1e-9 * np.abs(differences).sum(axis=0)
    extreme = np.zeros(differences.shape[1])
    for rows in _blocks(PERMUTATIONS, len(differences)):
        signs = rng.integers(0, 2, size=(rows.stop - rows.start, len(differences))) * 2.0 - 1
        extreme += (np.abs(signs @ differences) >= observed - slack).sum(axis=0)
    return (extreme + 1) / (PERMUTATIONS + 1)


def _blocks(count: int, width: int) -> Iterator[slice]:
    """The rows of a [count, width] table, as many together as may be in memory."""
    step = max(1, _NUMBERS // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


@dataclass(frozen=True, slots=True)
class Measured:
    """The queries of one language in one collection, with a value for every system and measure.

    Attributes:
        collection: its name.
        lang: language of the queries.
        documents: documents of the collection.
        values: system → measure → one value per query, in the same order everywhere.
    """

    collection: str
    lang: str
    documents: int
    values: Mapping[str, Mapping[str, Sequence[float]]]

    def matrix(self, columns: Sequence[tuple[str, str]]) -> Values:
        """float64 [n, S], one column per (system, measure)."""
        rows: Values = np.array([self.values[system][measure] for system, measure in columns], dtype=np.float64)
        return np.ascontiguousarray(rows.T)


@dataclass(frozen=True, slots=True)
class Summary:
    """The fields of ``results.Evaluation`` with the same names."""

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
