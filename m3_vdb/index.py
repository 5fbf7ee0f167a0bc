"""Text in, hits out: an embedding function and a store put together. Everything else is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Protocol

from m3_vdb.errors import ConfigError
from m3_vdb.fusion import Weights
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.search import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, Fusion, Source
from m3_vdb.types import Document, Filter, Hit, M3Embeddings


class Embedder(Protocol):
    """What an index needs of an embedding function; ``M3EmbeddingFunction`` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """The model behind it."""
        ...

    def encode_documents(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n passages, all three parts."""
        ...

    def encode_queries(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n queries, all three parts."""
        ...


class HybridIndex:
    """A searchable collection of texts.

    Args:
        embed: makes the vectors; stays open when the index is closed.
        store: keeps them; the index closes it.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
    """

    def __init__(self, embed: Embedder, store: VectorStore) -> None:
        embed.identity.require_same(store.identity, where="the store")
        self._embed = embed
        self._store = store

    def add(self, documents: Iterable[Document], *, batch_size: int = 64) -> int:
        """Encode documents and store them; a known id is replaced. Returns how many were taken from ``documents``.

        Batches are stored as they are done: if one fails, those before it stay.

        Args:
            documents: any number, also a generator; read ``batch_size`` at a time.
            batch_size: documents encoded and stored together.

        Raises:
            InputError: a text cannot be encoded or a document not stored; ``index`` counts within its batch.
            ConfigError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        remaining = iter(documents)
        added = 0
        while batch := list(islice(remaining, batch_size)):
            self._store.upsert(batch, self._embed.encode_documents([document.content for document in batch]))
            added += len(batch)
        return added

    def query(
        self,
        text: str,
        *,
        weights: Weights = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        fusion: Fusion = "exact",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents for a text, best first; the arguments are those of ``VectorStore.query``."""
        query = self._embed.encode_queries([text])[0]
        return self._store.query(
            query,
            weights=weights,
            limit=limit,
            offset=offset,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=filter,
            explain=explain,
        )

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        return self._store.get(ids)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        self._store.delete(ids)

    def count(self) -> int:
        """Documents in the collection."""
        return self._store.count()

    def close(self) -> None:
        """Close the store; a second call does nothing."""
        self._store.close()

    def __enter__(self) -> HybridIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
