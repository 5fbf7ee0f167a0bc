"""A session that needs no model: its outputs are formulas of the token ids, so a test can predict them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.sessions import Session
from m3_vdb.errors import M3Error


class FakeSession:
    """Counts its calls; a row that holds the token ``poison`` gets ``value`` where that token stands."""

    description = "fake"

    def __init__(self, *, dense_dim: int = 64, multi_vector_dim: int = 16, poison: int = -1, value: float = np.nan):
        self.shapes: list[tuple[int, ...]] = []
        self.asked: list[tuple[str, ...]] = []
        self._dims = dense_dim, multi_vector_dim
        self._poison, self._value = poison, value
        self._lock = threading.Lock()

    def run(self, outputs, input_ids, attention_mask):
        with self._lock:
            self.shapes.append(input_ids.shape)
            self.asked.append(tuple(outputs))
        poisoned = input_ids == self._poison
        d, m = self._dims
        sums = (input_ids * attention_mask).sum(axis=1)
        raw = {
            DENSE: np.eye(d, dtype=np.float32)[sums % d],
            SPARSE: (input_ids % 7 * attention_mask).astype(np.float32) / 8,
            MULTI_VECTOR: np.eye(m, dtype=np.float32)[input_ids[:, 1:] % m],
        }
        raw[SPARSE][poisoned] = self._value
        raw[MULTI_VECTOR][poisoned[:, 1:]] = self._value
        raw[DENSE][poisoned.any(axis=1)] = self._value
        return {name: raw[name] for name in outputs}


class Gate(FakeSession):
    """A session whose passes wait until they are let through; it raises for batches that hold the token ``breaks``."""

    def __init__(self, *, breaks: int = -1, **options) -> None:
        super().__init__(**options)
        self.open = threading.Event()
        self.reached = threading.Event()
        self._breaks = breaks

    def run(self, outputs, input_ids, attention_mask):
        self.reached.set()
        assert self.open.wait(30)
        if (input_ids == self._breaks).any():
            raise M3Error("the runtime failed")
        return super().run(outputs, input_ids, attention_mask)


def embed_with(session: Session, bundle: Path | None = None, **options) -> M3EmbeddingFunction:
    """An embedding function with the tokenizer and the identity of a bundle, but with another session."""
    opened = find_bundle(bundle)
    return M3EmbeddingFunction.from_parts(
        opened.read_tokenizer(), session, identity=opened.identity, model_max_length=opened.max_length, **options
    )
