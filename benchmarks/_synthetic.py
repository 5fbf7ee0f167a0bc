"""Random texts as vectors, with the shapes and overlaps of m3-small's: no model is asked, and everything is seeded.

A text is a draw of tokens from a long-tailed vocabulary around one of 200 topics. Its token rows are keyed by the token
(a vector of the token and some noise), so texts that share tokens share nearly equal rows; its lexical weights are
those of its tokens; its dense vector is near the topic's. On the multilingual texts of the tests, m3-small gives 384
numbers, 101 rows of 96 and 40 tokens a text, dense products of 0.45 to 0.84 between texts, and 5 tokens a query; so do
these, within a few per cent.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.stores import ModelIdentity
from m3_vdb.types import Document, FloatArray, M3Embedding, M3Embeddings

LANGUAGES: Final = ("de", "en", "fr", "ja")
_VOCABULARY: Final = 30_000
_TOPIC_VOCABULARY: Final = 600
_TOPICS: Final = 200
_TOPIC_RANK: Final = 12
"""Topics lie in so many dimensions, so that some are near each other."""
_TOKEN_VECTORS: Final = 4096
_WIDTHS: Final = (384, 96)


def identity(multi_vector_dim: int = _WIDTHS[1]) -> ModelIdentity:
    """A model that does not exist, of m3-small's widths."""
    return ModelIdentity(name="synthetic", fingerprint="0", dense_dim=_WIDTHS[0], multi_vector_dim=multi_vector_dim)


def documents(start: int, stop: int) -> list[Document]:
    """Documents d<start> … d<stop - 1>; their payloads have a keyword, an integer, a bool, a float and a list."""
    return [Document(id=f"d{i}", title=f"title {i}", text=f"text {i}", payload=_payload(i)) for i in range(start, stop)]


def _payload(i: int) -> dict[str, Any]:
    return {
        "lang": LANGUAGES[i % 4],
        "year": 2000 + i % 23,
        "draft": i % 5 == 0,
        "price": i % 4 + 0.5,
        "tags": ["all", f"t{i % 10}"],
    }


def embeddings(n: int, *, seed: int, queries: bool = False, multi_vector_dim: int = _WIDTHS[1]) -> M3Embeddings:
    """Vectors of n texts; the same seed gives the same texts.

    Args:
        n: texts.
        seed: of these texts; topics and token vectors are the same for all seeds.
        queries: short texts, of 3 to 13 rows instead of about 100.
        multi_vector_dim: numbers a row.
    """
    rng, shared = np.random.default_rng([7, seed]), np.random.default_rng(99)
    centre = shared.normal(size=_WIDTHS[0])
    topics = shared.normal(size=(_TOPICS, _TOPIC_RANK)) @ shared.normal(size=(_TOPIC_RANK, _WIDTHS[0]))
    topics /= _TOPIC_RANK**0.5
    token_centre = shared.normal(size=multi_vector_dim)
    token_vectors = shared.normal(size=(_TOKEN_VECTORS, multi_vector_dim))
    rows = rng.integers(3, 14, size=n) if queries else np.clip(rng.normal(100, 30, size=n), 8, 250).astype(int)
    topic = rng.integers(_TOPICS, size=n)
    tokens = _tokens(rng, np.repeat(topic, rows))
    dense = 1.1 * centre + 0.75 * topics[topic] + 0.5 * rng.normal(size=(n, _WIDTHS[0]))
    multi = 0.5 * token_centre + token_vectors[tokens % _TOKEN_VECTORS]
    multi = multi + 0.5 * rng.normal(size=multi.shape)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    # About half of a text's tokens carry a lexical weight; a token counts once.
    ids = [np.unique(tokens[a:b][:: 1 if queries else 2]) for a, b in pairwise(offsets)]
    return M3Embeddings(
        token_counts=(rows + 1).astype(np.int32),
        truncated=np.zeros(n, np.bool_),
        dense=_unit(dense),
        sparse_ids=np.concatenate(ids).astype(np.int32),
        sparse_weights=(0.3 * rng.beta(1.2, 2, size=sum(map(len, ids))) + 1e-3).astype(np.float32),
        sparse_offsets=np.cumsum([0, *map(len, ids)]),
        multi_vector=_unit(multi),
        multi_vector_offsets=offsets,
    )


def queries(n: int, *, multi_vector_dim: int = _WIDTHS[1]) -> list[M3Embedding]:
    """Vectors of n short texts of the same topics and tokens."""
    return list(embeddings(n, seed=1_000_000, queries=True, multi_vector_dim=multi_vector_dim))


def _tokens(rng: np.random.Generator, topic: NDArray[np.int64]) -> NDArray[np.int64]:
    """A token a row, by a long tail: half of them from the whole vocabulary, half from the topic's part of it."""
    own = rng.random(len(topic)) < 0.5
    longest = np.where(own, _TOPIC_VOCABULARY, _VOCABULARY)
    rank = np.exp(rng.random(len(topic)) * np.log(longest)).astype(np.int64)
    return np.where(own, (rank * 31 + topic * 977) % _VOCABULARY, rank) + 4


def _unit(rows: NDArray[np.float64]) -> FloatArray:
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
