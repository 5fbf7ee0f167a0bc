"""Reduces the multi-vector rows of a document, by hierarchical token pooling or by keeping the first rows.

Token pooling (Clavié, Chaffin and Adams 2024, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
Performance Impact via Token Pooling", arXiv 2409.14683, the hierarchical method): the rows of a document are clustered
by Ward's method, and each cluster is replaced by the mean of its rows, scaled to length 1. For unit rows Ward's
distance is the cosine distance times |A||B|/(|A|+|B|). Queries are not pooled.

Long documents are pooled in windows of neighbouring rows, so that time and memory grow linearly with the rows. Up to
``WINDOW`` rows the whole document is clustered, as in the paper. Shapes: n rows, m wide.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError
from m3_vdb.types import FloatArray, IntArray, M3Embeddings

WINDOW: Final = 512
"""Neighbouring rows that are clustered together: the usual maximum length of models and of the paper's collections."""
_FLAT: Final = 1e-6
"""A mean shorter than this has no meaningful direction: its rows cancel out."""
_Matrix: TypeAlias = NDArray[np.float64]


def pool_rows(rows: FloatArray, keep: int, *, window: int = WINDOW) -> FloatArray:
    """Cluster the rows of one document and return the unit mean of each cluster.

    Args:
        rows: float32 [n, m], rows of length 1.
        keep: rows to return, at least 1; if n ≤ keep, the rows are returned unchanged.
        window: neighbouring rows that are clustered together; n/keep rows if that is more. Memory is 8·window² bytes.

    Returns:
        float32 [min(n, keep), m], rows of length 1, in the order of the clusters' first rows. A cluster whose rows
        cancel out returns its first row.

    Raises:
        ConfigError: ``keep`` is below 1 or ``window`` below 2.
    """
    if keep < 1 or window < 2:
        raise ConfigError(f"keep={keep}, window={window}: expected at least 1 row, and windows of at least 2")
    n = len(rows)
    if n <= keep:
        return rows
    parts = min(ceil(n / window), keep)
    starts = [n * part // parts for part in range(parts + 1)]
    kept = [keep * part // parts for part in range(parts + 1)]
    return np.concatenate([_pooled(rows[starts[i] : starts[i + 1]], kept[i + 1] - kept[i]) for i in range(parts)])


def first_rows(rows: FloatArray, keep: int) -> FloatArray:
    """The first ``keep`` rows of one document.

    Raises:
        ConfigError: ``keep`` is below 1.
    """
    if keep < 1:
        raise ConfigError(f"keep={keep}: expected at least 1 row")
    return rows[:keep]


def rows_to_keep(counts: IntArray, *, factor: float = 1.0, max_rows: int | None = None) -> IntArray:
    """Number of rows to keep per document: 1 in ``factor``, and at most ``max_rows``.

    Args:
        counts: int [documents], rows per document.
        factor: 1 or more; 2 halves the storage.
        max_rows: maximum rows per document, at least 1; None for no limit.

    Returns:
        int32 [documents], at least 1 if the document has a row.

    Raises:
        ConfigError: an argument is out of range.
    """
    if not (np.isfinite(factor) and factor >= 1):
        raise ConfigError(f"factor={factor}: expected 1 (all rows) or more")
    if max_rows is not None and max_rows < 1:
        raise ConfigError(f"max_rows={max_rows}: expected at least 1, or None for no limit")
    kept = np.ceil(counts / factor).astype(np.int32)
    return kept if max_rows is None else np.minimum(kept, max_rows).astype(np.int32)


def pool_tokens(
    embeddings: M3Embeddings, *, factor: float = 1.0, max_rows: int | None = None, window: int = WINDOW
) -> M3Embeddings:
    """Pool the multi-vectors of documents; the other parts, and ``token_counts``, do not change.

    Args:
        embeddings: n documents, with multi-vectors.
        factor: keep 1 in ``factor`` rows, rounded up.
        max_rows: maximum rows per document.
        window: see ``pool_rows``.

    Returns:
        The embeddings with fewer rows; the same object if no document has more rows than it may keep.

    Raises:
        ConfigError: an argument is out of range, or there are no multi-vectors.
    """
    counts = row_counts(embeddings)
    return with_rows(embeddings, rows_to_keep(counts, factor=factor, max_rows=max_rows), pool=True, window=window)


def row_counts(embeddings: M3Embeddings) -> IntArray:
    """Multi-vector rows of each text: int32 [n].

    Raises:
        ConfigError: there are no multi-vectors.
    """
    if embeddings.multi_vector is None or embeddings.multi_vector_offsets is None:
        raise ConfigError("the embeddings have no multi-vectors: encode with multi_vector=True")
    return np.diff(embeddings.multi_vector_offsets).astype(np.int32)


def with_rows(embeddings: M3Embeddings, keep: IntArray, *, pool: bool, window: int = WINDOW) -> M3Embeddings:
    """Reduce each text to a given number of rows; returns the same object if no text has more.

    Args:
        embeddings: n texts, with multi-vectors.
        keep: int [n], at least 1 each.
        pool: pool the rows; False keeps the first rows.
        window: see ``pool_rows``.

    Raises:
        ConfigError: an argument is out of range, or there are no multi-vectors.
    """
    if (row_counts(embeddings) <= keep).all():
        return embeddings
    parts = [
        pool_rows(one.multi_vector, int(k), window=window) if pool else first_rows(one.multi_vector, int(k))
        for one, k in zip(embeddings, keep, strict=True)
        if one.multi_vector is not None
    ]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return replace(embeddings, multi_vector=np.concatenate(parts), multi_vector_offsets=offsets)


def _pooled(rows: FloatArray, keep: int) -> FloatArray:
    """``pool_rows`` for one window."""
    if len(rows) <= keep:
        return rows
    owner = _clusters(rows.astype(np.float64), keep)
    _, first, cluster = np.unique(owner, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[cluster]  # clusters in the order of their first rows
    means: _Matrix = np.zeros((len(first), rows.shape[1]))
    np.add.at(means, place, rows)
    means /= np.bincount(place)[:, None]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means = np.where(lengths > _FLAT, means / np.maximum(lengths, _FLAT), rows[np.sort(first)])
    return means.astype(np.float32)


def _clusters(rows: _Matrix, keep: int) -> IntArray:
    """Ward's clustering, stopped at ``keep`` clusters: a cluster number for each row."""
    merges = _ward(rows)
    merges.sort(key=lambda merge: merge[0])
    owner = np.arange(len(rows), dtype=np.int32)
    for _, a, b in merges[: len(rows) - keep]:
        owner[owner == owner[a]] = owner[b]
    return owner


def _ward(rows: _Matrix) -> list[tuple[float, int, int]]:
    """All merges (cost, a row of one cluster, a row of the other), by nearest-neighbour chains in O(n²).

    The cost of a merge is the growth of the sum of squared distances to the means, |A||B|/(|A|+|B|) · ‖a − b‖². Two
    clusters that are each other's nearest can be merged at once, in any order (Ward's method is reducible). Sorted by
    cost, the merges are the same as when the cheapest pair is merged each time.
    """
    n = len(rows)
    cost = 1.0 - rows @ rows.T  # = ‖a − b‖² / 2 of unit rows, which is the cost of merging two single rows
    np.fill_diagonal(cost, np.inf)
    sizes = np.ones(n)
    alive = np.ones(n, dtype=np.bool_)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < n - 1:
        if not chain:
            chain.append(int(np.argmax(alive)))
        a = chain[-1]
        b = int(np.argmin(cost[a]))
        if len(chain) > 1 and cost[a, chain[-2]] <= cost[a, b]:  # on ties the previous link, so that the chain ends
            b = chain[-2]
            chain = chain[:-2]
            merges.append((float(cost[a, b]), a, b))
            _merge(cost, sizes, a, b)
            alive[a] = False
        else:
            chain.append(b)
    return merges


def _merge(cost: _Matrix, sizes: _Matrix, a: int, b: int) -> None:
    """Merge cluster a into b and update its costs to all others (Lance and Williams 1967)."""
    merged = (sizes[a] + sizes) * cost[a] + (sizes[b] + sizes) * cost[b] - sizes * cost[a, b]
    merged /= sizes[a] + sizes[b] + sizes
    merged[a] = merged[b] = np.inf
    cost[b] = cost[:, b] = merged
    cost[a] = cost[:, a] = np.inf
    sizes[b] += sizes[a]
