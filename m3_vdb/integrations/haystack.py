"""Haystack: a document store and a retriever for the fused M3 score, embedders for other stores, and a ranker.

``M3DocumentStore`` makes the vectors itself, so an indexing pipeline is a writer, and a query pipeline a retriever. The
embedders are for other document stores; they fill all fields from one pass: ``embedding``, ``sparse_embedding``, and
``multivector_embedding`` if the installed Haystack has it.

A pipeline from a file needs ``Pipeline.loads(text, allowed_modules=["m3_vdb.*"])``.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cached_property
from typing import Any, Final, cast

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import ConfigError
from m3_vdb.imports import no_usage_data
from m3_vdb.integrations.encoder import m3_scores
from m3_vdb.integrations.haystack_filters import to_filter
from m3_vdb.integrations.haystack_store import M3DocumentStore, in_thread, open_model, to_haystack, written
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_SOURCE, Source
from m3_vdb.types import M3Embedding
from m3_vdb.weights import Weights

with no_usage_data():
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import SparseEmbedding
    from haystack.document_stores.types import FilterPolicy, apply_filter_policy

__all__ = ["M3DocumentEmbedder", "M3DocumentStore", "M3Ranker", "M3Retriever", "M3TextEmbedder"]

_HAS_MULTI_VECTOR: Final = any(field.name == "multivector_embedding" for field in fields(Document))
_TEXT_OUTPUTS: Final[dict[str, Any]] = {
    "embedding": list[float],
    "sparse_embedding": SparseEmbedding,
    **({"multivector_embedding": list[list[float]]} if _HAS_MULTI_VECTOR else {}),
}


def _fields(embedding: M3Embedding) -> dict[str, Any]:
    """Vectors as Haystack's documents hold them."""
    if embedding.dense is None or embedding.sparse is None or embedding.multi_vector is None:
        raise ConfigError("the embedding function left out a part: expected dense, sparse and multi_vector")
    sparse = SparseEmbedding(embedding.sparse.ids.tolist(), embedding.sparse.weights.tolist())
    vectors = {"embedding": embedding.dense.tolist(), "sparse_embedding": sparse}
    return {**vectors, "multivector_embedding": embedding.multi_vector.tolist()} if _HAS_MULTI_VECTOR else vectors


class _Encoding:
    """What components with a model share; the model is opened when it is first used."""

    _model: str | Embedder | None

    @cached_property
    def embed(self) -> Embedder:
        """The open embedding function."""
        return open_model(self._model)

    def warm_up(self) -> None:
        """Open the model."""
        _ = self.embed


@component
class M3DocumentEmbedder(_Encoding):
    """Fills the vectors of documents for a document store of another kind, all from one pass.

    Args:
        model: a model's name, folder or hub id; None for the model that ships with m3-vdb; or an open embedding
            function, with which the component cannot be written to a file.
        meta_fields_to_embed: fields of ``meta`` that are encoded before the content.
        embedding_separator: between them.
    """

    def __init__(
        self,
        model: str | Embedder | None = None,
        *,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._model = model
        self._embedded = meta_fields_to_embed or []
        self._separator = embedding_separator

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Encode documents.

        Args:
            documents: with content.

        Returns:
            "documents": copies with vectors.
        """
        embeddings = self.embed.encode_documents([self._text(document) for document in documents])
        filled = [replace(document, **_fields(one)) for document, one in zip(documents, embeddings, strict=True)]
        return {"documents": filled}

    run_async = in_thread(run)

    def _text(self, document: Document) -> str:
        if document.content is None:
            raise ConfigError(f"document {document.id!r} has no content: convert it to text first")
        meta = [str(document.meta[field]) for field in self._embedded if document.meta.get(field) is not None]
        return self._separator.join([*meta, document.content])

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values."""
        return default_to_dict(
            self,
            model=written(self, self._model),
            meta_fields_to_embed=self._embedded,
            embedding_separator=self._separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> M3DocumentEmbedder:
        """The component that ``to_dict`` wrote."""
        return default_from_dict(cls, data)


@component
class M3TextEmbedder(_Encoding):
    """Encodes a query for a document store of another kind, all vectors from one pass.

    Args:
        model: as ``M3DocumentEmbedder``; components with the same model share it.
    """

    def __init__(self, model: str | Embedder | None = None) -> None:
        self._model = model

    @component.output_types(**_TEXT_OUTPUTS)
    def run(self, text: str) -> dict[str, Any]:
        """Encode a query.

        Args:
            text: the query.

        Returns:
            "embedding" and "sparse_embedding", and "multivector_embedding" if the installed Haystack has it.
        """
        return _fields(self.embed.encode_queries([text])[0])

    run_async = in_thread(run)

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values."""
        return default_to_dict(self, model=written(self, self._model))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> M3TextEmbedder:
        """The component that ``to_dict`` wrote."""
        return default_from_dict(cls, data)


@component
class M3Retriever:
    """Finds the best documents by the fused M3 score, in one request.

    Args:
        document_store: a collection of m3-vdb.
        filters: of Haystack; the database applies them.
        top_k: documents to return.
        weights: a preset's name, or three numbers: dense, sparse, multi-vector.
        candidates: documents to score.
        source: where candidates come from: "dense", "sparse" or "union".
        filter_policy: "replace" or "merge", for filters that are given to ``run``.
    """

    def __init__(
        self,
        document_store: M3DocumentStore,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        weights: str | list[float] = "default",
        candidates: int = DEFAULT_CANDIDATES,
        source: str = DEFAULT_SOURCE,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, M3DocumentStore):
            raise ConfigError(f"document_store: expected an M3DocumentStore, got {type(document_store).__name__}")
        Weights.parse(weights)
        self._document_store = document_store
        self._filters = filters
        self._top_k = top_k
        self._weights = weights
        self._candidates = candidates
        self._source = source
        self._policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        weights: str | list[float] | None = None,
    ) -> dict[str, list[Document]]:
        """Search.

        Args:
            query: text, in any language.
            filters: instead of those of the component, or besides them (``filter_policy``).
            top_k: instead of that of the component.
            weights: instead of those of the component.

        Returns:
            "documents": best first, with ``score``.

        Raises:
            FilterError: the filter cannot be used.
            ConfigError: a number is out of range.
        """
        limit = self._top_k if top_k is None else top_k
        hits = self._document_store.index.query(
            query,
            limit=limit,
            weights=self._weights if weights is None else weights,
            candidates=max(self._candidates, limit),
            source=cast(Source, self._source),
            filter=to_filter(apply_filter_policy(self._policy, self._filters, filters)),
        )
        return {"documents": [to_haystack(hit.document, hit.score) for hit in hits]}

    run_async = in_thread(run)

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values."""
        return default_to_dict(
            self,
            document_store=self._document_store.to_dict(),
            filters=self._filters,
            top_k=self._top_k,
            weights=self._weights,
            candidates=self._candidates,
            source=self._source,
            filter_policy=self._policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> M3Retriever:
        """The component that ``to_dict`` wrote."""
        return default_from_dict(cls, data)


@component
class M3Ranker(_Encoding):
    """Re-ranks documents of any source by the M3 score: one pass for the query, one per batch of documents.

    Args:
        model: as ``M3DocumentEmbedder``.
        top_k: documents to return; None for all.
        weights: a preset's name, or three numbers: dense, sparse, multi-vector.
    """

    def __init__(
        self, model: str | Embedder | None = None, *, top_k: int | None = None, weights: str | list[float] = "default"
    ) -> None:
        Weights.parse(weights)
        self._top_k = top_k
        self._weights = weights
        self._model = model

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Re-rank documents.

        Args:
            query: text.
            documents: with content.
            top_k: instead of that of the component.

        Returns:
            "documents": best first, with the M3 score as ``score``.
        """
        texts = [document.content or "" for document in documents]
        scores = m3_scores(self.embed, query, texts, weights=self._weights)
        scored = [replace(document, score=score) for document, score in zip(documents, scores, strict=True)]
        scored.sort(key=lambda document: (-(document.score or 0.0), document.id))
        return {"documents": scored[: self._top_k if top_k is None else top_k]}

    run_async = in_thread(run)

    def to_dict(self) -> dict[str, Any]:
        """The component as plain values."""
        return default_to_dict(self, model=written(self, self._model), top_k=self._top_k, weights=self._weights)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> M3Ranker:
        """The component that ``to_dict`` wrote."""
        return default_from_dict(cls, data)
