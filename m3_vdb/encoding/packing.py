"""Which texts share a forward pass: a pure function of their lengths.

Texts are sorted by length and the sorted row is cut where the total cost is least. A batch costs
``CALL_COST + rows · longest`` in token units: padding is paid for like tokens, and so is one more call. Dynamic
programming finds the optimum; no choice of budget or batch size by hand can do better on this cost.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError
from m3_vdb.types import IntArray

CALL_COST: Final = 32
"""Price of one forward pass in tokens: a query of a few tokens takes 5-6 ms on a machine that computes 3,000-6,000
tokens/s in large batches (docs/log.md, 2026-11-22), so a call costs what 15-30 tokens cost."""
DEFAULT_BATCH_TOKENS: Final = 4096
"""Padded tokens of a batch; beyond it CPUs gain nothing and memory grows."""


def pack(
    lengths: IntArray,
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    batch_size: int | None = None,
    call_cost: int = CALL_COST,
) -> list[NDArray[np.intp]]:
    """Group texts into batches of least total cost.

    Args:
        lengths: int32 [n], tokens of each text, ≥ 1.
        batch_tokens: upper limit of rows · longest; a single longer text is a batch of its own.
        batch_size: upper limit of rows; None for any number.
        call_cost: price of a batch, in tokens.

    Returns:
        Indices into ``lengths``; every text occurs once. Batches come longest first, so that memory peaks early.

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
