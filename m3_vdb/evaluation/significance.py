"""How sure a mean is, and how sure a difference is, by resampling queries. Seeded: the same values, the same result.

Legend: S columns (systems × measures), n queries of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
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
