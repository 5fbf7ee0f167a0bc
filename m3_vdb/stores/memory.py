"""A store in plain memory: the exact oracle that the other stores are tested against, and a store for small trials.

Nothing is approximate and nothing is kept on disk. A query costs one product with the matrix of dense vectors [n, d],
or one pass over all lexical weights, and one exact score (``m3_vdb.scoring``) for every candidate.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import StoreError
from m3_vdb.filters import matches
from m3_vdb.scoring import dense_scores, lexical_scores, score
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import SOURCE_VECTORS, best_first, fuse
from m3_vdb.stores.options import DENSE, SPARSE, Search
from m3_vdb.stores.points import Point, make_points, pack, read_point
from m3_vdb.types import (
    Document,
    FloatArray,
    Hit,
    IntArray,
    M3Embedding,
    M3Embeddings,
    OffsetArray,
    Scores,
)


@dataclass(frozen=True, slots=True)
class _Row:
    document: Document
    embedding: M3Embedding


@dataclass(frozen=True, slots=True)
class _Tables:
    """The rows in the order of their ids, their dense vectors, stacked, and their lexical weights, packed."""

    rows: list[_Row]
    dense: FloatArray
    ids: IntArray
    weights: FloatArray
    offsets: OffsetArray


class MemoryStore(VectorStore):
    """Documents and vectors in a dict; gone when the store is closed.

    Args:
        identity: the model whose vectors will be stored.
    """

    def __init__(self, identity: ModelIdentity) -> None:
        super().__init__()
        self._identity = identity
        self._rows: dict[str, _Row] | None = {}
        self._tables: _Tables | None = None  # made by the first query after a change
        self._lock = threading.RLock()

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the store holds."""
        return self._identity

    @property
    def _where(self) -> str:
        return "store in memory"

    def _upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors; see ``VectorStore.upsert``."""
        points = make_points(documents, embeddings, identity=self._identity, max_floats=None, types=self.field_types)
        with self._lock:
            self._open_rows().update((point.payload["id"], _row(point)) for point in points)
            self._tables = None

    def _get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        with self._lock:
            rows = self._open_rows()
            return [rows[i].document for i in ids if i in rows]

    def _delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        with self._lock:
            for i in ids:
                self._open_rows().pop(i, None)
            self._tables = None

    def _count(self) -> int:
        """Documents in the store."""
        with self._lock:
            return len(self._open_rows())

    def _optimize(self) -> None:
        """Nothing to do: there is no index."""

    def _disk_bytes(self) -> int | None:
        """None: nothing is on disk."""
        return None

    def _close(self) -> None:
        """Free the memory; a second call does nothing."""
        with self._lock:
            self._rows = None
            self._tables = None

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        best = self._search(query, search)
        return [Hit(row.document, fused, parts if explain else None) for row, fused, parts in best]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(row.document.id, fused) for row, fused, _ in self._search(query, search)]

    def _search(self, query: M3Embedding, search: Search) -> list[tuple[_Row, float, Scores]]:
        assert query.dense is not None  # check_search has refused it
        assert query.sparse is not None
        with self._lock:
            tables = self._search_tables()
        rows = tables.rows
        allowed = np.array([matches(row.document.payload, search.filter) for row in rows], dtype=np.bool_)
        found: set[int] = set()
        if DENSE in SOURCE_VECTORS[search.source]:
            found.update(_best(dense_scores(query.dense, tables.dense), allowed, search.candidates))
        if SPARSE in SOURCE_VECTORS[search.source]:
            lexical = lexical_scores(query.sparse, tables.ids, tables.weights, tables.offsets)
            found.update(_best(lexical, allowed & (lexical > 0), search.candidates))
        parts = {i: score(query, rows[i].embedding) for i in found}
        return [(rows[i], total, parts[i]) for i, total in best_first(fuse(parts, search), search)]

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        with self._lock:
            rows = list(self._open_rows().values())
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            yield [row.document for row in part], pack([row.embedding for row in part])

    def _open_rows(self) -> dict[str, _Row]:
        if self._rows is None:
            raise StoreError("this memory store is closed; open a new one")
        return self._rows

    def _search_tables(self) -> _Tables:
        if self._tables is None:
            rows = [row for _, row in sorted(self._open_rows().items())]
            embeddings = [row.embedding for row in rows]
            dense = [embedding.dense for embedding in embeddings if embedding.dense is not None]
            sparse = [embedding.sparse for embedding in embeddings if embedding.sparse is not None]
            self._tables = _Tables(
                rows=rows,
                dense=np.stack(dense) if dense else np.zeros((0, self._identity.dense_dim), np.float32),
                ids=np.concatenate([np.zeros(0, np.int32), *(part.ids for part in sparse)]),
                weights=np.concatenate([np.zeros(0, np.float32), *(part.weights for part in sparse)]),
                offsets=np.cumsum([0, *(len(part.ids) for part in sparse)], dtype=np.int64),
            )
        return self._tables


def _best(scores: FloatArray, allowed: NDArray[np.bool_], count: int) -> list[int]:
    """The ``count`` rows with the highest scores among those allowed; of equal ones the first, by id."""
    rows = np.flatnonzero(allowed)
    return [int(i) for i in rows[np.argsort(-scores[rows], kind="stable")[:count]]]


def _row(point: Point) -> _Row:
    # Copies: the caller's packed arrays are views that a later batch may overwrite.
    sparse = type(point.sparse)(point.sparse.ids.copy(), point.sparse.weights.copy())
    return _Row(
        document=read_point(point.payload),
        embedding=M3Embedding(point.dense.copy(), sparse, point.multi_vector.copy()),
    )
