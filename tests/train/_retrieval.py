"""An embedding function with hand-made scores, random embeddings, and small collections on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.types import M3Embeddings

Table = Mapping[tuple[str, str], float]
"""(query, passage) → score."""
NOUNS, ARTICLES = ("vector", "search", "index"), ("der", "die", "das", "Wort")
DOCUMENTS = {f"d{i}": f"{NOUNS[i % 3]} {ARTICLES[i % 4]} {i}" for i in range(30)}
QUERIES = {f"q{i}": f"{NOUNS[i % 3]} {i}" for i in range(6)} | {"d7": "Wort 7"}
QRELS = {(f"q{i}", f"d{i}"): 1 for i in range(6)} | {("d7", "d7"): 1, ("q0", "d12"): 2, ("q1", "d29"): 0}
"""A collection of thirty passages; a query has the id of a passage, another has two relevant ones."""


class TableEncoder:
    """Texts get vectors whose scores are those of a table, 0 where it says nothing.

    A query is a unit axis, and a passage has its scores as coordinates; ``multi_vector`` is the dense table unless it
    is given. Every text that is encoded is counted.
    """

    def __init__(self, dense: Table, *, sparse: Table | None = None, multi_vector: Table | None = None) -> None:
        self.tables = {"dense": dense, "sparse": sparse or {}, "multi_vector": multi_vector or dense}
        self.queries = sorted({query for table in self.tables.values() for query, _ in table})
        self.encoded: list[str] = []
        self.identity = ModelIdentity("table", "1", len(self.queries) + 1, len(self.queries) + 1)
        self.model_max_length = 8192

    def encode_documents(
        self, texts: Sequence[str], *, max_length: int, dense: bool, sparse: bool, multi_vector: bool
    ) -> M3Embeddings:
        self.encoded += texts
        units, vectors = (
            np.stack([self._unit(text, part) for text in texts]).astype(np.float32)
            for part in ("dense", "multi_vector")
        )
        lexical = [self._lexical(text) for text in texts]
        return packed(
            units if dense else None,
            lexical if sparse else None,
            [row[None] for row in vectors] if multi_vector else None,
            count=len(texts),
        )

    def _unit(self, text: str, part: str) -> np.ndarray:
        if text in self.queries:
            return np.eye(len(self.queries) + 1)[self.queries.index(text)]
        scores = np.array([self.tables[part].get((query, text), 0.0) for query in self.queries])
        return np.append(scores, np.sqrt(1 - scores @ scores))

    def _lexical(self, text: str) -> dict[int, float]:
        if text in self.queries:
            return {10 + self.queries.index(text): 1.0}
        scores = {10 + i: self.tables["sparse"].get((query, text), 0.0) for i, query in enumerate(self.queries)}
        return {token: score for token, score in scores.items() if score > 0}


def packed(
    dense: np.ndarray | None,
    lexical: Sequence[Mapping[int, float]] | None,
    vectors: Sequence[np.ndarray] | None,
    *,
    count: int,
) -> M3Embeddings:
    """Embeddings of ``count`` texts from one value a text."""

    def offsets(values: Iterable[Any]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int64)

    return M3Embeddings(
        token_counts=np.full(count, 3, np.int32),
        truncated=np.zeros(count, np.bool_),
        dense=dense,
        sparse_ids=None if lexical is None else np.array([i for row in lexical for i in sorted(row)], np.int32),
        sparse_weights=None if lexical is None else np.array([r[i] for r in lexical for i in sorted(r)], np.float32),
        sparse_offsets=None if lexical is None else offsets(lexical),
        multi_vector=None if vectors is None else np.concatenate(vectors).astype(np.float32),
        multi_vector_offsets=None if vectors is None else offsets(vectors),
    )


def random_embeddings(seed: int, count: int, *, dim: int = 8, width: int = 4, vocabulary: int = 30) -> M3Embeddings:
    """Unit rows, one to six of them in a multi-vector, and up to eight token ids; some texts have none."""
    rng = np.random.default_rng(seed)

    def unit(*shape: int) -> np.ndarray:
        rows = rng.normal(size=shape)
        return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)

    tokens = [rng.choice(np.arange(4, vocabulary), rng.integers(0, 9), replace=False) for _ in range(count)]
    lexical = [{int(token): float(rng.uniform(0.05, 1)) for token in row} for row in tokens]
    vectors = [unit(int(rng.integers(1, 7)), width).astype(np.float16).astype(np.float32) for _ in range(count)]
    return packed(unit(count, dim), lexical, vectors, count=count)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_collection(
    folder: Path, documents: Mapping[str, str], queries: Mapping[str, str], qrels: Mapping[tuple[str, str], int]
) -> Path:
    """A folder in BEIR layout; ``qrels`` is (query id, passage id) → grade."""
    write_jsonl(folder / "corpus.jsonl", ({"_id": i, "title": "", "text": text} for i, text in documents.items()))
    write_jsonl(folder / "queries.jsonl", ({"_id": i, "text": text} for i, text in queries.items()))
    (folder / "qrels").mkdir(exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{grade}" for (q, d), grade in qrels.items())]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
