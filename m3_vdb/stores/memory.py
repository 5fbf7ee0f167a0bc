"""A store in plain memory: the exact oracle that the other stores are tested against, and a store for small trials.

Nothing is approximate and nothing is kept on disk. The search is that of ``m3_vdb.stores.exact``; here are documents,
filters and fusion.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from m3_vdb.boosts import boost_score
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import StoreError
from m3_vdb.filters import Expression, matches
from m3_vdb.scoring import inverse_document_frequency, saturated
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.exact import Block, ExactIndex, best_rows
from m3_vdb.stores.fusion import SOURCE_VECTORS, best_first, fuse, words_limit
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, Facts, Search
from m3_vdb.stores.points import Point, read_point
from m3_vdb.stores.vectors import pack
from m3_vdb.types import Document, FloatArray, Hit, M3Embedding, M3Embeddings, Scores, SparseVector


@dataclass(frozen=True, slots=True)
class _Row:
    document: Document
    embedding: M3Embedding


@dataclass(frozen=True, slots=True)
class _Searchable:
    """The rows in the order of their ids, the indexes of their vectors, and how many have exact words."""

    rows: list[_Row]
    index: ExactIndex
    words: Block | None
    worded: int

    def words_of(self, query: M3Embedding) -> FloatArray | None:
        """s_bm25 of every row: float32 [n]; None if it is not asked for."""
        block, given = self.words, query.bm25
        if block is None or given is None:
            return None
        holders = [span.stop - span.start for span in block.spans(given.ids)]
        rarity = [inverse_document_frequency(self.worded, number) for number in holders]
        weighted = SparseVector(given.ids, (given.weights * np.array(rarity)).astype(np.float32))
        return saturated(block.lexical_scores(weighted))


class MemoryStore(VectorStore):
    """Documents and vectors in a dict; gone when the store is closed.

    Args:
        identity: the model whose vectors will be stored.
        bm25: also keep the exact words of documents.
    """

    def __init__(self, identity: ModelIdentity, *, bm25: bool = False) -> None:
        super().__init__()
        self._identity = identity
        self._has_bm25 = bm25
        self._last_run: Mapping[str, Any] = {}
        self._rows: dict[str, _Row] | None = {}
        self._index: _Searchable | None = None  # made by the first query after a change
        self._lock = threading.RLock()

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the store holds."""
        return self._identity

    @property
    def has_bm25(self) -> bool:
        """Whether it was made with exact words."""
        return self._has_bm25

    @property
    def has_full_text(self) -> bool:
        """Yes: a filter looks at every text."""
        return True

    @property
    def _where(self) -> str:
        return "store in memory"

    def _write(self, points: Sequence[Point]) -> None:
        with self._lock:
            self._open_rows().update((point.payload["id"], _row(point)) for point in points)
            self._index = None

    def _get(self, ids: Sequence[str]) -> list[Document]:
        with self._lock:
            rows = self._open_rows()
            return [rows[i].document for i in ids if i in rows]

    def _delete(self, ids: Sequence[str]) -> None:
        with self._lock:
            for i in ids:
                self._open_rows().pop(i, None)
            self._index = None

    def _delete_matching(self, condition: Expression) -> None:
        with self._lock:
            self._delete(self._matching(condition))

    def _update(self, documents: Sequence[Document]) -> None:
        with self._lock:
            rows = self._open_rows()
            rows.update((one.id, replace(rows[one.id], document=one)) for one in documents if one.id in rows)
            self._index = None

    def _count(self, condition: Expression | None) -> int:
        with self._lock:
            return len(self._open_rows()) if condition is None else len(self._matching(condition))

    def _facts(self) -> Facts:
        with self._lock:
            passages = [row.document.passage for row in self._open_rows().values()]
        return Facts(
            later_passages=sum(one is not None and one.number > 1 for one in passages),
            index="none: every search scans all vectors",
            options={"bm25": self._has_bm25},
            engine={"name": "memory", "exact_candidates": True, "fusion": "client"},
            last_run=self._last_run,
        )

    def _note_run(self, run: Mapping[str, Any]) -> None:
        self._last_run = dict(run)

    def _matching(self, condition: Expression) -> list[str]:
        return [i for i, row in self._open_rows().items() if _matches(row.document, condition)]

    def _close(self) -> None:
        with self._lock:
            self._rows = None
            self._index = None

    def _search(self, queries: Sequence[M3Embedding], search: Search) -> list[list[Hit]]:
        with self._lock:
            held = self._search_index()
        rows, index = held.rows, held.index
        if not rows:
            return [[] for _ in queries]
        allowed = np.ones(len(rows), np.bool_)
        if search.filter is not None:
            allowed = np.array([_matches(row.document, search.filter) for row in rows], dtype=np.bool_)
        packed = pack(queries)
        lists = [
            index.best(part, packed, search.candidates, allowed=allowed).rows for part in SOURCE_VECTORS[search.source]
        ]
        hits = []
        for i, candidates in enumerate(np.hstack(lists)):
            words = held.words_of(queries[i])
            if words is not None and search.weights.bm25 and search.source == "union":
                exact = np.where(allowed, words, 0)
                candidates = np.append(candidates, best_rows(exact, words_limit(search.candidates), 0.0))  # noqa: PLW2901
            found = np.unique(candidates[candidates >= 0])[None]
            scores = index.scores(packed[i : i + 1], found, (DENSE, SPARSE, MULTI_VECTOR))
            raw = [scores[part][0].tolist() for part in (DENSE, SPARSE, MULTI_VECTOR)]
            raw.append([None] * len(found[0]) if words is None else words[found[0]].tolist())
            parts = {row: Scores(*one) for row, *one in zip(found[0].tolist(), *raw, strict=True)}
            if search.boosts:
                payloads = {row: rows[row].document.payload for row in parts}
                parts = {
                    row: replace(one, boost=boost_score(payloads[row], search.boosts, search.now))
                    for row, one in parts.items()
                }
            best = best_first(fuse(parts, search), search)
            hits.append([Hit(rows[row].document, total, parts[row] if search.explain else None) for row, total in best])
        return hits

    def _documents(self, batch: int, condition: Expression | None) -> Iterator[list[Document]]:
        with self._lock:
            found = [row.document for row in self._open_rows().values() if _matches(row.document, condition)]
        for start in range(0, len(found), batch):
            yield found[start : start + batch]

    def _read(self, ids: Sequence[str]) -> list[tuple[Document, M3Embedding]]:
        with self._lock:
            rows = self._open_rows()
            return [(rows[i].document, rows[i].embedding) for i in ids if i in rows]

    def _open_rows(self) -> dict[str, _Row]:
        if self._rows is None:
            raise StoreError("this memory store is closed; open a new one")
        return self._rows

    def _search_index(self) -> _Searchable:
        if self._index is None:
            held = self._open_rows()
            ids = sorted(held)
            words = [held[i].embedding.bm25 for i in ids]
            blocks = []
            if ids:
                packed = pack([held[i].embedding for i in ids])
                # Vectors once in memory.
                held.update(
                    (i, _Row(held[i].document, replace(packed[at], bm25=words[at]))) for at, i in enumerate(ids)
                )
                blocks = [Block.of(packed)]
            vectors = [one for one in words if one is not None]
            self._index = _Searchable(
                [held[i] for i in ids],
                ExactIndex(blocks),
                _words_block(vectors) if vectors else None,
                worded=sum(len(one.ids) > 0 for one in vectors),
            )
        return self._index


def _matches(document: Document, condition: Expression | None) -> bool:
    return matches(document.payload, condition, text=document.text)


def _words_block(vectors: Sequence[SparseVector]) -> Block:
    """The inverted lists of n exact words."""
    return Block.of(
        M3Embeddings(
            token_counts=np.zeros(len(vectors), np.int32),
            truncated=np.zeros(len(vectors), np.bool_),
            sparse_ids=np.concatenate([one.ids for one in vectors]),
            sparse_weights=np.concatenate([one.weights for one in vectors]),
            sparse_offsets=np.cumsum([0, *(len(one.ids) for one in vectors)], dtype=np.int64),
        )
    )


def _row(point: Point) -> _Row:
    # Copies: the caller's packed arrays are views that a later batch may overwrite.
    sparse = SparseVector(point.sparse.ids.copy(), point.sparse.weights.copy())
    return _Row(
        read_point(point.payload), M3Embedding(point.dense.copy(), sparse, point.multi_vector.copy(), point.bm25)
    )
