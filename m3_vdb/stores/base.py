"""The contract that every vector store keeps.

One collection holds, for every document, three named vectors (``dense``, ``sparse``, ``multi_vector``), the user's
id, title, text and payload, and once for the collection the identity of the model that made the vectors.

- **Scores.** ``query`` takes ``candidates`` documents from a search of the whole collection (``source``: the nearest by
  dense score, the best by lexical score, or both lists) and returns those with the highest *exact* M3 score
  (``m3_vdb.scoring``), fused by the engine in one request. A candidate without a common token has s_lex = 0; a
  candidate is never scored by a part of the formula only. Ties are broken by no promise. ``rank`` is the same query
  without the documents.
- **Identity.** Opening a collection with a model whose identity differs raises ``CollectionMismatchError``.
- **Ids** are the user's strings. ``upsert`` of a known id replaces the document with all its vectors.
- **Filters** restrict the candidates *before* they are chosen, so ``limit`` hits come back if that many match. A
  filter names top-level fields of the payload, literally; ``m3_vdb.stores._filters`` says what equals what.
- **Errors** of the client library are mapped to ``StoreConnectionError`` or ``StoreRequestError``; a document that
  cannot be stored raises ``DocumentError`` with its index, before anything of the batch is written.
- **Payloads** come back as the JSON values they were; of a float, 15 digits are certain.
- **Threads.** Calls may come from several threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

from m3_vdb.errors import CollectionMismatchError
from m3_vdb.fusion import Weights
from m3_vdb.types import Document, Filter, Hit, M3Embedding, M3Embeddings

DEFAULT_CANDIDATES: Final = 200
"""Dense candidates that are re-scored exactly; the paper re-ranks the dense top 200."""
DEFAULT_WEIGHTS: Final = Weights()
Source: TypeAlias = Literal["dense", "sparse", "union"]
"""Where candidates come from. "dense": the nearest by s_dense. "sparse": the best by s_lex, among documents that share
a token with the query. "union": both lists, so up to twice as many."""
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
DENSE: Final = "dense"
SPARSE: Final = "sparse"
MULTI_VECTOR: Final = "multi_vector"
LAYOUT: Final = 1
"""Version of what is stored: names of the vectors, layout of the payload. A reader refuses one it does not know."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made the vectors of a collection.

    Attributes:
        name: the bundle's name, for people.
        fingerprint: hash of the bundle; two models with different vectors have different ones.
        dense_dim: width of the dense vector.
        multi_vector_dim: width of a multi-vector row.
    """

    name: str
    fingerprint: str
    dense_dim: int
    multi_vector_dim: int

    def as_metadata(self) -> dict[str, Any]:
        """Plain JSON values to keep with the collection."""
        return {
            "layout": LAYOUT,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dense_dim": self.dense_dim,
            "multi_vector_dim": self.multi_vector_dim,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ModelIdentity:
        """The inverse of ``as_metadata``.

        Raises:
            KeyError: a field is missing: the metadata is not ours.
        """
        return cls(
            name=str(metadata["name"]),
            fingerprint=str(metadata["fingerprint"]),
            dense_dim=int(metadata["dense_dim"]),
            multi_vector_dim=int(metadata["multi_vector_dim"]),
        )

    def require_same(self, stored: ModelIdentity, *, where: str) -> None:
        """Check that a collection was made by this model.

        Raises:
            CollectionMismatchError: it was not; the message names both models.
        """
        # The widths too: a fingerprint that lies must fail here and not in the middle of an ingest.
        mine = (self.fingerprint, self.dense_dim, self.multi_vector_dim)
        if mine != (stored.fingerprint, stored.dense_dim, stored.multi_vector_dim):
            raise CollectionMismatchError(
                f"{where} holds vectors of model {stored.name!r} (fingerprint {stored.fingerprint}, "
                f"dims {stored.dense_dim}/{stored.multi_vector_dim}), but this is {self.name!r} "
                f"(fingerprint {self.fingerprint}, dims {self.dense_dim}/{self.multi_vector_dim}): "
                f"use that model, or ingest into a new collection"
            )


def open_identity(given: ModelIdentity | None, metadata: Mapping[str, Any] | None, *, where: str) -> ModelIdentity:
    """The identity that a collection carries, checked against the model that opens it.

    Args:
        given: the model at hand; None accepts any.
        metadata: what was stored with the collection by ``as_metadata``.
        where: the collection in words, for messages.

    Raises:
        CollectionMismatchError: not made by m3-vdb, by a newer one, or with another model.
    """
    try:
        fields = metadata or {}
        layout, stored = fields["layout"], ModelIdentity.from_metadata(fields)
    except (KeyError, TypeError, ValueError):
        raise CollectionMismatchError(
            f"{where} does not say which model made it, so m3-vdb did not: choose another name"
        ) from None
    if layout != LAYOUT:
        raise CollectionMismatchError(
            f"{where} has layout {layout!r}, and this version of m3-vdb reads layout {LAYOUT}: upgrade m3-vdb, "
            f"or ingest into a new collection"
        )
    if given is not None:
        given.require_same(stored, where=where)
    return stored


class VectorStore(Protocol):
    """One open collection. A context manager; complete after construction."""

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        ...

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors, replacing documents of the same id.

        Args:
            documents: n documents; if an id occurs twice, the last one wins.
            embeddings: n embeddings with all three parts, in the same order.

        Raises:
            DocumentError: a document or its vectors cannot be stored; nothing was written.
            ConfigError: documents and embeddings do not belong together, or a part is missing; nothing was written.
        """
        ...

    def query(
        self,
        query: M3Embedding,
        *,
        weights: Weights = DEFAULT_WEIGHTS,
        limit: int = 10,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents by exact M3 score among the candidates, best first.

        Args:
            query: all three parts of the query.
            weights: weights of the three scores.
            limit: hits to return, ≥ 1.
            candidates: documents taken from a list and scored exactly; raised to ``limit`` if smaller.
            source: the list or lists that they are taken from.
            filter: payload conditions that must all hold.
            explain: also fill ``Hit.parts``.

        Raises:
            ConfigError: an argument is out of range, or the query lacks a part or does not fit the collection.
        """
        ...

    def rank(
        self,
        query: M3Embedding,
        *,
        weights: Weights = DEFAULT_WEIGHTS,
        limit: int = 10,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        filter: Filter | None = None,
    ) -> list[tuple[str, float]]:
        """``query`` without the documents: (id, fused score), best first; for long rankings and texts kept elsewhere.

        Raises:
            ConfigError: as ``query``.
        """
        ...

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        ...

    def count(self) -> int:
        """Documents in the collection, exact."""
        ...

    def optimize(self) -> None:
        """Build the engine's indexes now and wait for them; changes no score. A store without indexes does nothing."""
        ...

    def disk_bytes(self) -> int | None:
        """Bytes that the collection takes on disk; None if the store cannot say."""
        ...

    def close(self) -> None:
        """Write everything out and free the connection or files; a second call does nothing."""
        ...

    def __enter__(self) -> VectorStore: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
