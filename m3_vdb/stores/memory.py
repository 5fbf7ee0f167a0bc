"""A store in plain memory: the exact oracle that the other stores are tested against, and a store for small trials.

Nothing is approximate and nothing is kept on disk. A query costs one product with the matrix of dense vectors [n, d]
and one exact score (``m3_vdb.scoring``) for every candidate.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from m3_vdb.errors import StoreError
from m3_vdb.fusion import Weights
from m3_vdb.scoring import dense_scores, hybrid_score, score
from m3_vdb.stores._checks import check_query
from m3_vdb.stores._filters import matches, parse_filter
from m3_vdb.stores._points import Point, make_points, read_document
from m3_vdb.stores.base import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, ModelIdentity
from m3_vdb.types import Document, Filter, FloatArray, Hit, M3Embedding, M3Embeddings


@dataclass(frozen=True, slots=True)
class _Row:
    document: Document
    embedding: M3Embedding


class MemoryStore:
    """Documents and vectors in a dict; gone when the store is closed.

    Args:
        identity: the model whose vectors will be stored.
    """

    def __init__(self, identity: ModelIdentity) -> None:
        self._identity = identity
        self._rows: dict[str, _Row] | None = {}
        self._dense: FloatArray | None = None  # the rows' dense vectors, stacked by the first query after a change
        self._lock = threading.RLock()

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the store holds."""
        return self._identity

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors; see ``VectorStore.upsert``."""
        points = make_points(documents, embeddings, identity=self._identity, max_floats=None)
        with self._lock:
            self._open_rows().update((point.payload["id"], _row(point)) for point in points)
            self._dense = None

    def query(
        self,
        query: M3Embedding,
        *,
        weights: Weights = DEFAULT_WEIGHTS,
        limit: int = 10,
        candidates: int = DEFAULT_CANDIDATES,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents by exact M3 score among the dense candidates; see ``VectorStore.query``."""
        candidates = check_query(query, identity=self._identity, limit=limit, candidates=candidates)
        assert query.dense is not None  # check_query has refused it
        conditions = parse_filter(filter)
        with self._lock:
            rows = list(self._open_rows().values())
            nearness = dense_scores(query.dense, self._dense_matrix())
        allowed = [i for i, row in enumerate(rows) if matches(row.document.payload, conditions)]
        nearest = sorted(allowed, key=lambda i: -nearness[i])[:candidates]
        hits = []
        for i in nearest:
            parts = score(query, rows[i].embedding)
            hits.append(Hit(rows[i].document, hybrid_score(parts, weights), parts if explain else None))
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        with self._lock:
            rows = self._open_rows()
            return [rows[i].document for i in ids if i in rows]

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        with self._lock:
            for i in ids:
                self._open_rows().pop(i, None)
            self._dense = None

    def count(self) -> int:
        """Documents in the store."""
        with self._lock:
            return len(self._open_rows())

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        with self._lock:
            self._rows = None
            self._dense = None

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_rows(self) -> dict[str, _Row]:
        if self._rows is None:
            raise StoreError("this memory store is closed; open a new one")
        return self._rows

    def _dense_matrix(self) -> FloatArray:
        if self._dense is None:
            dense = [row.embedding.dense for row in self._open_rows().values() if row.embedding.dense is not None]
            self._dense = np.stack(dense) if dense else np.zeros((0, self._identity.dense_dim), np.float32)
        return self._dense


def _row(point: Point) -> _Row:
    # Copies: the caller's packed arrays are views that a later batch may overwrite.
    sparse = type(point.sparse)(point.sparse.ids.copy(), point.sparse.weights.copy())
    return _Row(
        document=read_document(point.payload),
        embedding=M3Embedding(point.dense.copy(), sparse, point.multi_vector.copy()),
    )
