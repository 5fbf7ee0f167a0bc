"""LlamaIndex: a vector store and a retriever over ``HybridIndex``, embeddings for other stores, and a reranker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
from m3_vdb.index import HybridIndex
from m3_vdb.types import Document, Filter, Hit

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "llama_index":
        raise
    raise MissingExtraError("m3_vdb.integrations.llama_index", extra="llama-index") from error

from m3_vdb.integrations.llama_index_embeddings import M3Embedding, M3Reranker, sparse_functions
from m3_vdb.integrations.llama_index_filters import to_filter

__all__ = ["M3Embedding", "M3Reranker", "M3Retriever", "M3VectorStore", "sparse_functions"]

NODE_ID: Final = "_node_id"
"""Payload field with a node's id, so that a search can be restricted to some nodes."""
_CONTENT: Final = "_node_content"
"""LlamaIndex's field for a node as JSON, without its text."""
_MODES: Final[dict[VectorStoreQueryMode, dict[str, Any]]] = {
    VectorStoreQueryMode.DEFAULT: {},
    VectorStoreQueryMode.HYBRID: {},
    VectorStoreQueryMode.SPARSE: {"weights": (0, 1, 0), "source": "sparse"},
}


class M3VectorStore(BasePydanticVectorStore):
    """A vector store of LlamaIndex whose searches have the M3 score, fused by the database in one request.

    The store makes the vectors itself: all three of a node in one forward pass. Give ``embed_model=store.embed_model``
    to ``VectorStoreIndex``, whose own embedding would be a second pass that nothing uses. A node is encoded as
    LlamaIndex would (``MetadataMode.EMBED``): its metadata are the document's title and fields of its payload.

    ``vector_store_kwargs`` of a retriever are arguments of ``HybridIndex.query``: ``weights``, ``candidates``,
    ``source``, ``fusion``, ``ef``, ``score_threshold``, ``filter``. The mode "sparse" has lexical weights alone.

    Args:
        index: an open index; ``close`` closes it.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    _index: HybridIndex = PrivateAttr()
    _async_index: AsyncHybridIndex = PrivateAttr()

    def __init__(self, index: HybridIndex) -> None:
        super().__init__(stores_text=True)
        self._index = index
        self._async_index = AsyncHybridIndex(index)

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's events."""
        return "M3VectorStore"

    @property
    def client(self) -> HybridIndex:
        """The index behind the store."""
        return self._index

    @property
    def embed_model(self) -> BaseEmbedding:
        """Embeds nothing; for ``VectorStoreIndex``, since the store makes the vectors."""
        return _NoEmbedding(model_name=self._index.embed.identity.name)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ANN401 - LlamaIndex's signature
        """Encode nodes and store them; a node with a known id is replaced.

        Args:
            nodes: n nodes; their embeddings are not used.
            kwargs: ``batch_size``.

        Returns:
            n ids.

        Raises:
            InputError: a node cannot be encoded or stored, or an id occurs twice.
        """
        documents = list(map(_to_document, nodes))
        self._index.add(documents, **kwargs)
        return [document.id for document in documents]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ANN401
        """``add`` for asyncio."""
        documents = list(map(_to_document, nodes))
        await self._async_index.add(documents, **kwargs)
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **_: Any) -> None:  # noqa: ANN401 - LlamaIndex's signature
        """Delete the nodes of a document."""
        self._index.delete(filter={"ref_doc_id": ref_doc_id})

    async def adelete(self, ref_doc_id: str, **_: Any) -> None:  # noqa: ANN401 - LlamaIndex's signature
        """``delete`` for asyncio."""
        await self._async_index.delete(filter={"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **_: Any,  # noqa: ANN401 - LlamaIndex's signature
    ) -> None:
        """Delete the nodes with these ids, those that match filters, or those of the ids that do.

        Raises:
            ConfigError: neither is given, or a filter cannot be used; nothing was deleted.
        """
        self._index.delete(**_selected(node_ids, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **_: Any,  # noqa: ANN401 - LlamaIndex's signature
    ) -> None:
        """``delete_nodes`` for asyncio."""
        await self._async_index.delete(**_selected(node_ids, filters))

    def clear(self) -> None:
        """Delete all nodes; documents that did not come from LlamaIndex stay."""
        self._index.delete(filter={NODE_ID: {"$exists": True}})

    async def aclear(self) -> None:
        """``clear`` for asyncio."""
        await self._async_index.delete(filter={NODE_ID: {"$exists": True}})

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these ids, or all, that match filters. Without ids all that match are read.

        Raises:
            ConfigError: a filter cannot be used.
        """
        condition = parse_filter(to_filter(filters))
        if node_ids is None:
            stored = [one for some in self._index.store.documents(filter=to_filter(filters)) for one in some]
            node_ids = [one.id for one in stored if one.passage is None or one.passage.number == 1]
        return [_to_node(one) for one in self._index.get(node_ids) if matches(one.payload, condition, text=one.text)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """``get_nodes`` for asyncio."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:  # noqa: ANN401
        """The best nodes for ``query.query_str``, best first.

        Args:
            query: its text, ``similarity_top_k``, ``mode``, ``filters``, ``doc_ids`` and ``node_ids``.
            kwargs: arguments of ``HybridIndex.query``.

        Raises:
            ConfigError: the query has no text, a mode or an option that the store does not have, or a filter that
                cannot be used.
        """
        return _result(self._index.query(**_search(query, **kwargs)))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:  # noqa: ANN401
        """``query`` for asyncio."""
        return _result(await self._async_index.query(**_search(query, **kwargs)))

    def close(self) -> None:
        """Close the index; a second call does nothing."""
        self._index.close()


class M3Retriever(BaseRetriever):
    """Retrieves from any collection of m3-vdb, also one that ``m3-vdb ingest`` wrote, with one forward pass per query.

    Args:
        index: an open index; the retriever does not close it.
        similarity_top_k: nodes to return.
        filters: metadata filters that must hold.
        options: arguments of ``HybridIndex.query``, such as ``weights``, ``candidates`` and ``filter``.
    """

    def __init__(
        self,
        index: HybridIndex,
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        **options: Any,  # noqa: ANN401 - arguments of HybridIndex.query
    ) -> None:
        super().__init__()
        self._index = index
        self._async_index = AsyncHybridIndex(index)
        restricted = _all_of(to_filter(filters), options.pop("filter", None))
        self._options = {"limit": similarity_top_k, "filter": restricted, **options}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(self._index.query(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(await self._async_index.query(query_bundle.query_str, **self._options))


class _NoEmbedding(BaseEmbedding):
    """Gives every text an empty vector."""

    def _get_query_embedding(self, query: str) -> list[float]:
        return []

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return []

    def _get_text_embedding(self, text: str) -> list[float]:
        return []


def _to_document(node: BaseNode) -> Document:
    """A node as a document; what LlamaIndex puts before the text to embed it is the title."""
    text, embedded = node.get_content(MetadataMode.NONE), node.get_content(MetadataMode.EMBED)
    before = embedded.removesuffix(text) if embedded.endswith(text) else node.get_metadata_str(MetadataMode.EMBED)
    payload = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    return Document(node.node_id, text, title=before.strip(), payload={**payload, NODE_ID: node.node_id})


def _to_node(document: Document) -> BaseNode:
    """The node that was stored, or one made of a document that others stored."""
    if _CONTENT in document.payload:
        return metadata_dict_to_node(dict(document.payload), text=document.text)
    title = {"title": document.title} if document.title else {}
    return TextNode(id_=document.id, text=document.text, metadata={**title, **document.payload})


def _scored(hits: Iterable[Hit]) -> list[NodeWithScore]:
    return [NodeWithScore(node=_to_node(hit.document), score=hit.score) for hit in hits]


def _result(hits: Iterable[Hit]) -> VectorStoreQueryResult:
    found = _scored(hits)
    return VectorStoreQueryResult(
        nodes=[one.node for one in found],
        similarities=[one.get_score() for one in found],
        ids=[one.node.node_id for one in found],
    )


def _all_of(*filters: Filter | None) -> Filter | None:
    given = [one for one in filters if one]
    return {"$and": given} if given else None


def _selected(node_ids: list[str] | None, filters: MetadataFilters | None) -> dict[str, Any]:
    """Arguments of ``HybridIndex.delete``."""
    condition = to_filter(filters)
    if condition is None or node_ids is None:
        return {"ids": node_ids, "filter": condition}
    return {"filter": _all_of({NODE_ID: {"$in": node_ids}}, condition)}


def _search(
    query: VectorStoreQuery,
    filter: Filter | None = None,
    **options: Any,  # noqa: ANN401 - arguments of HybridIndex.query
) -> dict[str, Any]:
    """Arguments of ``HybridIndex.query``."""
    if query.query_str is None:
        raise ConfigError(
            "the query has only an embedding: expected a text (query_str), from which the store makes three"
        )
    if query.mode not in _MODES:
        modes = ", ".join(mode.value for mode in _MODES)
        raise ConfigError(f"mode={VectorStoreQueryMode(query.mode).value!r}: expected one of {modes}")
    if query.alpha is not None:
        raise ConfigError(
            f"alpha={query.alpha}: three scores need three weights: leave alpha out and pass "
            f"vector_store_kwargs={{'weights': (1, 0.3, 1)}}"
        )
    return {
        "text": query.query_str,
        "limit": query.hybrid_top_k or query.similarity_top_k,
        "filter": _all_of(
            filter,
            to_filter(query.filters),
            {"doc_id": {"$in": query.doc_ids}} if query.doc_ids else None,
            {NODE_ID: {"$in": query.node_ids}} if query.node_ids else None,
        ),
        **_MODES[query.mode],
        **options,
    }
