"""Groups texts into forward passes by their lengths.

Texts are sorted by length, and the sorted list is cut into batches so that the total cost is minimal. A batch costs
``CALL_COST + rows · longest``, in tokens: padding costs as much as tokens, and each call has a fixed cost. Dynamic
programming finds the optimum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError
from m3_vdb.types import IntArray

CALL_COST: Final = 32
"""Fixed cost of a forward pass, in tokens: a query of a few tokens takes 5-6 ms on a machine that computes 3,000-6,000
tokens/s in large batches (docs/log.md, 2026-11-22), as long as 15-30 tokens."""
DEFAULT_BATCH_TOKENS: Final = 4096
"""Padded tokens per batch; larger batches need more memory and are not faster on CPUs."""


def pack(
    lengths: IntArray,
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    batch_size: int | None = None,
    call_cost: int = CALL_COST,
) -> list[NDArray[np.intp]]:
    """Group texts into batches of minimal total cost.

    Args:
        lengths: int32 [n], tokens of each text, ≥ 1.
        batch_tokens: upper limit of rows · longest; a longer text gets a batch of its own.
        batch_size: maximum rows per batch; None for no limit.
        call_cost: fixed cost of a batch, in tokens.

    Returns:
        Indices into ``lengths`` per batch; every text occurs once. Longest texts first, so that memory peaks early.

    Raises:
        ConfigError: ``batch_tokens`` or ``batch_size`` is not positive.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens={batch_tokens}: at least 1")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: at least 1, or None")
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].astype(np.int64)
    n = len(ascending)
    best = np.zeros(n + 1, dtype=np.int64)  # best[j]: least cost of the j shortest texts
    cut = np.zeros(n + 1, dtype=np.intp)  # cut[j]: where the last batch of that optimum begins
    for j in range(1, n + 1):
        longest = ascending[j - 1]
        most = max(1, batch_tokens // longest)
        first = max(0, j - (most if batch_size is None else min(most, batch_size)))
        rows = np.arange(j - first, 0, -1)
        costs = best[first:j] + rows * longest
        i = int(costs.argmin())
        best[j], cut[j] = costs[i] + call_cost, first + i
    batches = []
    while n:
        batches.append(order[cut[n] : n])
        n = cut[n]
    return batches
