"""Embeddings of LlamaIndex for other stores, with one forward pass for both sides, and a reranker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.integrations.encoder import ModelLike, SharedEncoder, m3_scores, shared_encoder
from m3_vdb.stores.options import DEFAULT_WEIGHTS
from m3_vdb.weights import WeightsLike

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "llama_index":
        raise
    raise MissingExtraError("m3_vdb.integrations.llama_index", extra="llama-index") from error


class M3Embedding(BaseEmbedding):
    """Dense vectors for any vector store of LlamaIndex.

    Args:
        model: a ``SharedEncoder``, given to ``sparse_functions`` too so that both need one forward pass; an embedding
            function; or a model as ``M3EmbeddingFunction`` takes it, None for the model that ships with m3-vdb.
        embed_batch_size: texts per call.
        kwargs: further fields of ``BaseEmbedding``, such as ``callback_manager``.
    """

    _encoder: SharedEncoder = PrivateAttr()

    def __init__(
        self,
        model: ModelLike = None,
        *,
        embed_batch_size: int = 64,
        **kwargs: Any,  # noqa: ANN401 - fields of BaseEmbedding
    ) -> None:
        encoder = shared_encoder(model)
        super().__init__(model_name=encoder.embed.identity.name, embed_batch_size=embed_batch_size, **kwargs)
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's events."""
        return "M3Embedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.dense_query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.dense_documents(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


SparseFunction = Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]
"""Texts → token ids and weights, as ``QdrantVectorStore`` takes them."""


def sparse_functions(model: ModelLike = None) -> tuple[SparseFunction, SparseFunction]:
    """Lexical weights for LlamaIndex's ``QdrantVectorStore(enable_hybrid=True)``.

    Args:
        model: as ``M3Embedding``.

    Returns:
        (``sparse_doc_fn``, ``sparse_query_fn``).
    """
    encoder = shared_encoder(model)
    return (
        lambda texts: _ids_and_weights(encoder.sparse_documents(texts)),
        lambda texts: _ids_and_weights(encoder.sparse_queries(texts)),
    )


class M3Reranker(BaseNodePostprocessor):
    """Re-ranks the nodes of any retriever by the M3 score: one pass for the query, one for the nodes.

    Args:
        embed: makes the vectors.
        top_n: nodes to keep; None keeps all.
        weights: ``Weights``, the name of a preset, or three numbers.
    """

    top_n: int | None = None
    _embed: Embedder = PrivateAttr()
    _weights: WeightsLike = PrivateAttr()

    def __init__(self, embed: Embedder, *, top_n: int | None = None, weights: WeightsLike = DEFAULT_WEIGHTS) -> None:
        super().__init__()
        self.top_n = top_n
        self._embed = embed
        self._weights = weights

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's events."""
        return "M3Reranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ConfigError("M3Reranker: there is no query: pass query_bundle or query_str")
        texts = [one.node.get_content(MetadataMode.EMBED) for one in nodes]
        scores = m3_scores(self._embed, query_bundle.query_str, texts, weights=self._weights)
        found = [NodeWithScore(node=one.node, score=score) for one, score in zip(nodes, scores, strict=True)]
        return sorted(found, key=lambda one: -(one.score or 0.0))[: self.top_n]


def _ids_and_weights(texts: Iterable[dict[int, float]]) -> tuple[list[list[int]], list[list[float]]]:
    weights = list(texts)
    return [list(one) for one in weights], [list(one.values()) for one in weights]
