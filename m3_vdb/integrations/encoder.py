"""What the adapters share: one forward pass for the dense and the sparse side of a framework, and scores of texts."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, TypeAlias

from m3_vdb import scoring
from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.inputs import read_texts, whole_number
from m3_vdb.stores.options import DEFAULT_WEIGHTS
from m3_vdb.types import M3Embedding, M3Embeddings
from m3_vdb.weights import Weights, WeightsLike
from m3_vdb.writer import placed

KEPT_TEXTS: Final = 4096
"""Vectors that a ``SharedEncoder`` keeps: twice the largest batch that a framework embeds before it stores it."""


class SharedEncoder:
    """Dense and sparse vectors of texts from one forward pass, although a framework asks for them one after the other.

    Frameworks have one object for dense vectors and another for sparse ones, and pass the same texts to both. Both get
    the same ``SharedEncoder``, which encodes a text once and keeps the vectors of the last texts. Documents and queries
    are kept apart. May be called from several threads: who asks for texts that are being encoded waits for them.

    Args:
        model: an open embedding function, or a model in any form that ``M3EmbeddingFunction`` takes.
        kept: texts whose two vectors are kept, of documents and of queries, and at least those of the last call: 4
            bytes per dense number and 8 per lexical weight, beside the text.

    Raises:
        ConfigError: ``kept`` is below 1.
        BundleError: the model is missing or damaged.
    """

    def __init__(
        self, model: str | os.PathLike[str] | M3EmbeddingFunction | None = None, *, kept: int = KEPT_TEXTS
    ) -> None:
        kept = whole_number("kept", kept, least=1)
        self.embed = model if isinstance(model, M3EmbeddingFunction) else M3EmbeddingFunction(model)
        self._documents = _Kept(self.embed.encode_documents, kept)
        self._queries = _Kept(self.embed.encode_queries, kept)

    def documents(self, texts: Sequence[str]) -> list[M3Embedding]:
        """Dense and sparse vectors of n documents; only texts that are not kept are encoded.

        Raises:
            TextError, TruncationError, ModelOutputError: as ``M3EmbeddingFunction.encode_documents``.
        """
        return self._documents.get(texts)

    def queries(self, texts: Sequence[str]) -> list[M3Embedding]:
        """Dense and sparse vectors of n queries; only texts that are not kept are encoded.

        Raises:
            TextError, TruncationError, ModelOutputError: as ``M3EmbeddingFunction.encode_queries``.
        """
        return self._queries.get(texts)

    def dense_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Dense vectors of n documents as lists of d numbers."""
        return [_dense(vectors) for vectors in self.documents(texts)]

    def dense_query(self, text: str) -> list[float]:
        """The dense vector of a query as a list of d numbers."""
        return _dense(self.queries([text])[0])

    def sparse_documents(self, texts: Sequence[str]) -> list[dict[int, float]]:
        """Lexical weights of n documents, ``{token id: weight}``."""
        return [_sparse(vectors) for vectors in self.documents(texts)]

    def sparse_queries(self, texts: Sequence[str]) -> list[dict[int, float]]:
        """Lexical weights of n queries, ``{token id: weight}``."""
        return [_sparse(vectors) for vectors in self.queries(texts)]

    def __repr__(self) -> str:
        return f"SharedEncoder({self.embed.identity.name})"


ModelLike: TypeAlias = str | os.PathLike[str] | M3EmbeddingFunction | SharedEncoder | None
"""A ``SharedEncoder``, or what it takes."""


def shared_encoder(model: ModelLike) -> SharedEncoder:
    """The encoder that was given, or a new one for a model."""
    return model if isinstance(model, SharedEncoder) else SharedEncoder(model)


def m3_scores(
    embed: Embedder, query: str, texts: Sequence[str], *, weights: WeightsLike = DEFAULT_WEIGHTS
) -> list[float]:
    """The M3 score of a query and each of n texts, computed without a store.

    Args:
        embed: makes the vectors: one call for the query, one for the texts.
        query: one text.
        texts: n texts.
        weights: weights, a preset's name, or three numbers.

    Raises:
        TextError, TruncationError, ModelOutputError: as ``M3EmbeddingFunction``.
        ConfigError: the weights are not weights.
    """
    read = Weights.parse(weights)
    if not texts:
        return []
    asked = embed.encode_queries([query])[0]
    return [scoring.hybrid_score(scoring.score(asked, one), read) for one in embed.encode_documents(list(texts))]


class _Kept:
    """The vectors of the last texts, the latest at the end."""

    def __init__(self, encode: Callable[..., M3Embeddings], most: int) -> None:
        self._encode = encode
        self._most = most
        self._vectors: OrderedDict[str, M3Embedding] = OrderedDict()
        self._lock = Lock()

    def get(self, texts: Sequence[str]) -> list[M3Embedding]:
        given = read_texts(texts)
        with self._lock:
            new: dict[str, int] = {}
            for place, text in enumerate(given):
                if text not in self._vectors:
                    new.setdefault(text, place)
            if new:
                with placed(list(new.values())):
                    self._vectors.update(zip(new, self._encode(list(new), multi_vector=False), strict=True))
            for text in given:
                self._vectors.move_to_end(text)
            while len(self._vectors) > max(self._most, len(given)):
                self._vectors.popitem(last=False)
            return [self._vectors[text] for text in given]


def _dense(vectors: M3Embedding) -> list[float]:
    assert vectors.dense is not None
    dense: list[float] = vectors.dense.tolist()
    return dense


def _sparse(vectors: M3Embedding) -> dict[int, float]:
    assert vectors.sparse is not None
    return vectors.sparse.as_dict()
