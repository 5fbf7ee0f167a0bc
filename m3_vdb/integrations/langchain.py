"""LangChain: a vector store over ``HybridIndex``, embeddings for other stores, and a compressor that re-ranks."""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.index import HybridIndex
from m3_vdb.stores.options import DEFAULT_WEIGHTS
from m3_vdb.types import Document, Hit
from m3_vdb.weights import Weights, WeightsLike

try:
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("m3_vdb.integrations.langchain", extra="langchain") from error

from m3_vdb.integrations.langchain_embeddings import (
    M3Compressor,
    M3Embeddings,
    M3MilvusSparseEmbedding,
    M3SparseEmbeddings,
)

__all__ = ["M3Compressor", "M3Embeddings", "M3MilvusSparseEmbedding", "M3SparseEmbeddings", "M3VectorStore"]


class M3VectorStore(VectorStore):
    """A LangChain vector store whose searches have the M3 score, fused by the database in one request.

    A document's metadata are its payload, so filters are those of m3-vdb (``{"year": {"$gte": 2000}}``). A search takes
    the arguments of ``HybridIndex.query`` besides ``k``: ``filter``, ``weights``, ``candidates``, ``source``,
    ``fusion``, ``ef``, ``offset`` and ``score_threshold``. The async methods do not block the event loop
    (``AsyncHybridIndex``). There is no search by maximal marginal relevance: stores do not return the vectors of hits.

    Args:
        index: an open index; ``close`` closes it.
    """

    def __init__(self, index: HybridIndex) -> None:
        self._index = index
        self._async_index = AsyncHybridIndex(index)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: str | os.PathLike[str] = "memory://",
        **kwargs: Any,  # noqa: ANN401 - options of HybridIndex.open
    ) -> M3VectorStore:
        """Open a store and add texts.

        Args:
            texts: n texts.
            embedding: ``M3Embeddings``, whose model is used for all three vectors.
            metadatas: n payloads.
            ids: n ids; see ``add_texts``.
            store: a folder, a server's URL or ``memory://``, as ``HybridIndex.open`` takes it.
            kwargs: further arguments of ``HybridIndex.open``.

        Raises:
            ConfigError: ``embedding`` is of another class.
            M3Error: as ``HybridIndex.open`` and ``HybridIndex.add``.
        """
        with ExitStack() as opened:
            made = cls(opened.enter_context(HybridIndex.open(store, model=_model_of(embedding), **kwargs)))
            made.add_texts(texts, metadatas, ids=ids)
            opened.pop_all()  # stays open, unless adding failed
            return made

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: str | os.PathLike[str] = "memory://",
        **kwargs: Any,  # noqa: ANN401 - options of HybridIndex.open
    ) -> M3VectorStore:
        """``from_texts`` for asyncio."""
        opening = partial(HybridIndex.open, store, model=_model_of(embedding), **kwargs)
        with ExitStack() as opened:
            made = cls(opened.enter_context(await run_in_executor(None, opening)))
            await made.aadd_texts(texts, metadatas, ids=ids)
            opened.pop_all()  # stays open, unless adding failed
            return made

    @property
    def index(self) -> HybridIndex:
        """The index behind the store."""
        return self._index

    @property
    def embeddings(self) -> M3Embeddings | None:
        """The index's model as LangChain's embeddings; None if it is not an ``M3EmbeddingFunction``."""
        embed = self._index.embed
        return M3Embeddings(embed) if isinstance(embed, M3EmbeddingFunction) else None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = 64,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> list[str]:
        """Encode texts and store them; a document with a known id is replaced.

        Args:
            texts: n texts.
            metadatas: n payloads.
            ids: n ids; None makes one from text and metadata, so that a second call with the same replaces the first.
                Equal documents in one call get different ids.
            batch_size: texts encoded and stored together.
            kwargs: none.

        Returns:
            n ids.

        Raises:
            ConfigError: the numbers of texts, metadatas and ids differ.
            InputError: a text cannot be encoded or a document not stored, or an id occurs twice.
        """
        _refuse(kwargs)
        documents = _documents(texts, metadatas, ids)
        self._index.add(documents, batch_size=batch_size)
        return [document.id for document in documents]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = 64,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> list[str]:
        """``add_texts`` for asyncio."""
        _refuse(kwargs)
        documents = _documents(texts, metadatas, ids)
        await self._async_index.add(documents, batch_size=batch_size)
        return [document.id for document in documents]

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The documents with these ids that exist, in the order of ``ids``."""
        return [_to_langchain(document) for document in self._index.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """``get_by_ids`` for asyncio."""
        return [_to_langchain(document) for document in await self._async_index.get(ids)]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:  # noqa: ANN401 - LangChain's signature
        """Delete documents.

        Args:
            ids: their ids; None deletes all documents, as LangChain defines it, or those that match ``filter``.
            kwargs: ``filter``.

        Returns:
            True.

        Raises:
            ConfigError: ids and a filter are given, or the filter cannot be used.
        """
        self._index.delete(ids, filter=_deleted(ids, **kwargs))
        return True

    async def adelete(
        self,
        ids: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> bool:
        """``delete`` for asyncio."""
        await self._async_index.delete(ids, filter=_deleted(ids, **kwargs))
        return True

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[LangChainDocument]:
        """The best documents for a text, best first.

        Args:
            query: the text.
            k: documents to return.
            kwargs: arguments of ``HybridIndex.query``: ``filter``, ``weights``, ``candidates``, ``source``, …

        Raises:
            TextError, ConfigError: as ``HybridIndex.query``.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[LangChainDocument]:
        """``similarity_search`` for asyncio."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[tuple[LangChainDocument, float]]:
        """``similarity_search`` with the M3 score of each document; higher is better."""
        return _scored(self._index.query(query, limit=k, **kwargs))

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[tuple[LangChainDocument, float]]:
        """``similarity_search_with_score`` for asyncio."""
        return _scored(await self._async_index.query(query, limit=k, **kwargs))

    def _similarity_search_with_relevance_scores(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[tuple[LangChainDocument, float]]:
        relevance = _relevance(**kwargs)
        found = self.similarity_search_with_score(query, k, **kwargs)
        return [(document, relevance(score)) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> list[tuple[LangChainDocument, float]]:
        relevance = _relevance(**kwargs)
        found = await self.asimilarity_search_with_score(query, k, **kwargs)
        return [(document, relevance(score)) for document, score in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return _relevance()

    def close(self) -> None:
        """Close the index; a second call does nothing."""
        self._index.close()

    async def aclose(self) -> None:
        """Wait for running async calls, then close the index."""
        await self._async_index.close()


def _model_of(embedding: object) -> M3EmbeddingFunction:
    if not isinstance(embedding, M3Embeddings):
        raise ConfigError(f"embedding: expected M3Embeddings, which make all three vectors; got {type(embedding)}")
    return embedding.encoder.embed


def _documents(
    texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[Document]:
    """Documents with ids, of which those that are None are made from text and metadata."""
    given = list(texts)
    payloads = [{} for _ in given] if metadatas is None else list(metadatas)
    names = [None for _ in given] if ids is None else list(ids)
    if not len(given) == len(payloads) == len(names):
        raise ConfigError(
            f"texts, metadatas and ids: expected the same number of each, got {len(given)}, {len(payloads)} and "
            f"{len(names)}"
        )
    seen = Counter[str]()
    documents = []
    for text, payload, name in zip(given, payloads, names, strict=True):
        content = json.dumps([text, payload], sort_keys=True, default=str)
        made = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seen[content]} {content}"))
        seen[content] += 1
        documents.append(Document(made if name is None else name, text, payload=payload))
    return documents


def _refuse(unknown: Mapping[str, Any]) -> None:
    if unknown:
        raise ConfigError(f"add_texts takes texts, metadatas, ids and batch_size; got {', '.join(unknown)}")


def _deleted(ids: object, filter: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
    """The filter of a deletion; without ids and filter one that all documents match."""
    return {"id": {"$nin": []}} if ids is None and filter is None else filter


def _scored(hits: Iterable[Hit]) -> list[tuple[LangChainDocument, float]]:
    return [(_to_langchain(hit.document), hit.score) for hit in hits]


def _to_langchain(document: Document) -> LangChainDocument:
    """A stored document; LangChain's have no title, so one that others stored is in the metadata."""
    title = {"title": document.title} if document.title else {}
    return LangChainDocument(id=document.id, page_content=document.text, metadata={**title, **document.payload})


def _relevance(
    *, weights: WeightsLike = DEFAULT_WEIGHTS, fusion: str = "weighted_sum", **_: object
) -> Callable[[float], float]:
    """M3 score → weighted mean of the three scores, from 0 to 1."""
    if fusion != "weighted_sum":
        raise ConfigError(f"fusion={fusion!r}: relevance scores exist for weighted_sum; use similarity_search")
    read = Weights.parse(weights)
    total = read.dense + read.sparse + read.multi_vector
    return lambda score: min(1.0, max(0.0, score / total))
