"""Random documents, embeddings and queries with the shapes and overlaps of real ones; everything is seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3_vdb.stores import ModelIdentity
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings

IDENTITY = ModelIdentity(name="toy", fingerprint="f00d", dense_dim=64, multi_vector_dim=24)
TOPICS = 12
VOCABULARY = 900
LANGUAGES = ("de", "en", "fr")
SHARED = 150
"""Documents of the fixture ``shared``."""


def make_documents(n: int, *, start: int = 0) -> list[Document]:
    """Documents d0, d1, … whose payload has a str, an int, a bool, a float and a list."""
    return [
        Document(
            id=f"d{i}",
            text=f"text {i}",
            title=f"title {i}" if i % 2 else "",
            payload={
                "lang": LANGUAGES[i % 3],
                "year": 2000 + i % 7,
                "draft": i % 5 == 0,
                "price": i % 4 + 0.5,
                "tags": ["all", f"t{i % 10}"],
            },
        )
        for i in range(start, start + n)
    ]


def make_embeddings(n: int, *, seed: int = 0, identity: ModelIdentity = IDENTITY, max_rows: int = 60) -> M3Embeddings:
    """n texts around common topics: 5 to ``max_rows`` rows, 3 to 40 token ids with a long-tailed distribution."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(99)  # the same for documents and queries
    dense_topics = topics.normal(size=(TOPICS, identity.dense_dim))
    token_topics = topics.normal(size=(TOPICS * 8, identity.multi_vector_dim))
    frequency = 1 / np.arange(5, VOCABULARY + 5)
    frequency /= frequency.sum()
    rows = rng.integers(5, max_rows + 1, size=n)
    dense = dense_topics[rng.integers(TOPICS, size=n)] + rng.normal(size=(n, identity.dense_dim))
    tokens = token_topics[rng.integers(TOPICS * 8, size=rows.sum())]
    tokens = tokens + 0.7 * rng.normal(size=(rows.sum(), identity.multi_vector_dim))
    ids = [np.sort(rng.choice(VOCABULARY, size=rng.integers(3, 41), replace=False, p=frequency)) + 4 for _ in range(n)]
    return M3Embeddings(
        token_counts=(rows + 1).astype(np.int32),
        truncated=np.zeros(n, np.bool_),
        dense=_unit(dense),
        sparse_ids=np.concatenate([np.empty(0, int), *ids]).astype(np.int32),
        sparse_weights=rng.uniform(0.02, 0.45, size=sum(map(len, ids))).astype(np.float32),
        sparse_offsets=np.cumsum([0, *map(len, ids)]),
        multi_vector=_unit(tokens),
        multi_vector_offsets=np.concatenate([[0], np.cumsum(rows)]),
    )


def make_queries(n: int, *, seed: int = 1000, identity: ModelIdentity = IDENTITY) -> list[M3Embedding]:
    return list(make_embeddings(n, seed=seed, identity=identity, max_rows=16))


def assert_same_hits(got: Sequence[Hit], oracle: Sequence[Hit], *, limit: int, tie: float = 1e-6) -> float:
    """The same documents in the same order, save swaps among ties; returns the largest relative score error.

    Args:
        got: hits of the store under test.
        oracle: hits of the memory store, some more than ``limit``, so that a tie at the end can be seen.
        limit: hits that were asked for.
        tie: scores that differ by less may come in any order; more for a store that rounds vectors.
    """
    assert oracle, "the oracle found nothing: the test would pass vacuously"
    assert len(got) == min(limit, len(oracle))
    true_score = {hit.document.id: hit.score for hit in oracle}
    worst = 0.0
    for mine, theirs in zip(got, oracle, strict=False):
        assert mine.document.id in true_score
        assert abs(true_score[mine.document.id] - theirs.score) <= tie
        worst = max(worst, abs(mine.score - true_score[mine.document.id]) / abs(theirs.score))
    assert len({hit.document.id for hit in got}) == len(got)
    assert worst < 1e-4
    return worst


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
