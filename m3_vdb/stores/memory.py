"""A store in plain memory: the exact oracle that the other stores are tested against, and a store for small trials.

Nothing is approximate and nothing is kept on disk. The search is that of ``m3_vdb.stores.exact``; here are documents,
filters and fusion.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import StoreError
from m3_vdb.filters import matches
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.exact import Block, ExactIndex
from m3_vdb.stores.fusion import SOURCE_VECTORS, best_first, fuse
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.stores.points import Point, make_points, pack, read_point
from m3_vdb.types import (
    Document,
    Hit,
    M3Embedding,
    M3Embeddings,
    Scores,
)


@dataclass(frozen=True, slots=True)
class _Row:
    document: Document
    embedding: M3Embedding


class MemoryStore(VectorStore):
    """Documents and vectors in a dict; gone when the store is closed.

    Args:
        identity: the model whose vectors will be stored.
    """

    def __init__(self, identity: ModelIdentity) -> None:
        super().__init__()
        self._identity = identity
        self._rows: dict[str, _Row] | None = {}
        self._index: tuple[list[_Row], ExactIndex] | None = None  # made by the first query after a change
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
            self._index = None

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
            self._index = None

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
            self._index = None

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        best = self._search(query, search)
        return [Hit(row.document, fused, parts if explain else None) for row, fused, parts in best]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(row.document.id, fused) for row, fused, _ in self._search(query, search)]

    def _search(self, query: M3Embedding, search: Search) -> list[tuple[_Row, float, Scores]]:
        with self._lock:
            rows, index = self._search_index()
        if not rows:
            return []
        allowed = None
        if search.filter is not None:
            allowed = np.array([matches(row.document.payload, search.filter) for row in rows], dtype=np.bool_)
        queries = pack([query])
        lists = [
            index.best(part, queries, search.candidates, allowed=allowed).rows for part in SOURCE_VECTORS[search.source]
        ]
        found = np.unique(np.hstack(lists))
        found = found[found >= 0][None]
        scores = index.scores(queries, found, (DENSE, SPARSE, MULTI_VECTOR))
        raw = zip(*(scores[part][0].tolist() for part in (DENSE, SPARSE, MULTI_VECTOR)), strict=True)
        parts = {i: Scores(*one) for i, one in zip(found[0].tolist(), raw, strict=True)}
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

    def _search_index(self) -> tuple[list[_Row], ExactIndex]:
        """The rows in the order of their ids, and the index of their embeddings."""
        if self._index is None:
            held = self._open_rows()
            ids = sorted(held)
            blocks = []
            if ids:
                packed = pack([held[i].embedding for i in ids])
                held.update(
                    (i, _Row(held[i].document, packed[at])) for at, i in enumerate(ids)
                )  # vectors once in memory
                blocks = [Block.of(packed)]
            self._index = [held[i] for i in ids], ExactIndex(blocks)
        return self._index


def _row(point: Point) -> _Row:
    # Copies: the caller's packed arrays are views that a later batch may overwrite.
    sparse = type(point.sparse)(point.sparse.ids.copy(), point.sparse.weights.copy())
    return _Row(
        document=read_point(point.payload),
        embedding=M3Embedding(point.dense.copy(), sparse, point.multi_vector.copy()),
    )
