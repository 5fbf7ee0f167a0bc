"""An embedding function without a model, stores that fail on purpose, and what a store holds row for row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from m3_vdb import Document
from m3_vdb.errors import ModelOutputError
from m3_vdb.stores import MemoryStore, ModelIdentity
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.points import point_id
from m3_vdb.types import EncodeStats, M3Embeddings

IDENTITY = ModelIdentity("hash", "hash-1", dense_dim=8, multi_vector_dim=4)


class HashEmbed:
    """Vectors that depend on the text alone. "poison" raises, "nan" gives a vector that no store takes."""

    def __init__(self, *, identity: ModelIdentity = IDENTITY, seconds: float = 0.0) -> None:
        self.identity = identity
        self.seconds = seconds
        self.encoded: list[str] = []

    def encode_documents(self, texts: list[str]) -> M3Embeddings:
        bad = next((i for i, text in enumerate(texts) if "poison" in text), None)
        if bad is not None:
            raise ModelOutputError(f"the model returned NaN for item {bad}", index=bad)
        time.sleep(self.seconds)
        self.encoded += map(str, texts)
        words = [text.split()[:32] or [""] for text in texts]
        rows = [_unit(word, 4) for some in words for word in some]
        dense = np.stack([_unit(text, 8) for text in texts]) if texts else np.zeros((0, 8), np.float32)
        for i, text in enumerate(texts):
            if text == "nan":
                dense[i, 3] = np.nan
        counts = np.array([len(some) for some in words], np.int32)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        sparse = [sorted({int.from_bytes(_hash(word)[:2], "big") for word in some}) for some in words]
        return M3Embeddings(
            token_counts=counts,
            truncated=np.zeros(len(texts), np.bool_),
            dense=dense,
            sparse_ids=np.array([i for some in sparse for i in some], np.int32),
            sparse_weights=np.array([0.1 + i % 7 for some in sparse for i in some], np.float32),
            sparse_offsets=np.concatenate([[0], np.cumsum([len(some) for some in sparse])]).astype(np.int64),
            multi_vector=np.stack(rows) if rows else np.zeros((0, 4), np.float32),
            multi_vector_offsets=offsets,
            stats=EncodeStats(1, int(counts.sum()), int(counts.sum())),
        )

    encode_queries = encode_documents


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _unit(text: str, width: int) -> np.ndarray:
    row = np.random.default_rng(int.from_bytes(_hash(text)[:8], "big")).normal(size=width).astype(np.float32)
    return row / np.linalg.norm(row)


class Faulty(MemoryStore):
    """A memory store whose calls first go through ``fault(name, call number)``, which may raise or wait.

    ``after`` is called when the work is done, so that an acknowledgement can be lost.
    """

    def __init__(
        self,
        fault: Callable[[str, int], None] = lambda name, call: None,
        after: Callable[[str, int], None] = lambda name, call: None,
    ) -> None:
        super().__init__(IDENTITY)
        self.fault, self.after = fault, after
        self.calls: dict[str, int] = {}
        self.sizes: list[int] = []

    def _faulted(self, name: str, work: Callable[[], Any]) -> Any:
        call = self.calls[name] = self.calls.get(name, 0) + 1
        self.fault(name, call)
        result = work()
        self.after(name, call)
        return result

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        self.sizes.append(len(documents))
        self._faulted("upsert", lambda: MemoryStore.upsert(self, documents, embeddings))

    def get(self, ids: Sequence[str]) -> list[Document]:
        return self._faulted("get", lambda: MemoryStore.get(self, ids))

    def count(self) -> int:
        return self._faulted("count", lambda: MemoryStore.count(self))


def rows(store: VectorStore, ids: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """Documents and vectors of a memory or embedded store, by id; an id that is not there is left out."""
    if isinstance(store, MemoryStore):
        found = {}
        for one in ids:
            if one in store._rows:
                row = store._rows[one]
                e = row.embedding
                found[one] = (row.document, e.dense.tolist(), e.sparse.as_dict(), e.multi_vector.tolist())
        return found
    points = store._shard.retrieve([point_id(one) for one in ids], with_payload=True, with_vector=True)
    return {point.payload["id"]: (point.payload, repr(_plain(point.vector))) for point in points}


def _plain(vectors: dict[str, Any]) -> list[object]:
    sparse = vectors["sparse"]
    pairs = sorted(zip(sparse.indices, sparse.values, strict=True))
    return [list(vectors["dense"]), pairs, [list(row) for row in vectors["multi_vector"]]]


def documents(count: int, *, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(f"d{i}", " ".join(f"w{n}" for n in rng.integers(0, 99, 1 + i % 9)), payload={"n": i})
        for i in range(count)
    ]
