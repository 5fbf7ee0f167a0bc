"""Embeddings of LangChain for other stores, with one forward pass for both sides, and a compressor that re-ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import MissingExtraError
from m3_vdb.imports import log_handlers_kept, no_usage_data
from m3_vdb.integrations.encoder import ModelLike, SharedEncoder, m3_scores, shared_encoder
from m3_vdb.stores.options import DEFAULT_WEIGHTS

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
    from pydantic import ConfigDict
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingExtraError("m3_vdb.integrations.langchain", extra="langchain") from error

if TYPE_CHECKING:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
else:
    BaseSparseEmbedding = SparseEmbeddings = object  # imported where they are used: each imports a database's client


class M3Embeddings(Embeddings):
    """Dense vectors for any LangChain store.

    Args:
        model: a ``SharedEncoder``, given to the sparse side too so that both need one forward pass; an embedding
            function; or a model as ``M3EmbeddingFunction`` takes it, None for the model that ships with m3-vdb.
    """

    def __init__(self, model: ModelLike = None) -> None:
        self.encoder: SharedEncoder = shared_encoder(model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Dense vectors of n documents, each of length 1."""
        return self.encoder.dense_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """The dense vector of a query."""
        return self.encoder.dense_query(text)


class M3SparseEmbeddings(SparseEmbeddings):
    """Lexical weights for langchain-qdrant (``QdrantVectorStore(sparse_embedding=…)``).

    Args:
        model: as ``M3Embeddings``.
    """

    def __init__(self, model: ModelLike = None) -> None:
        with no_usage_data():  # qdrant-client imports fastembed where that is installed, and fastembed onnxruntime
            from langchain_qdrant.sparse_embeddings import SparseEmbeddings  # noqa: PLC0415 - a package of its own

        SparseEmbeddings.register(type(self))
        self.encoder: SharedEncoder = shared_encoder(model)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Lexical weights of n documents."""
        return [_sparse_vector(weights) for weights in self.encoder.sparse_documents(texts)]

    def embed_query(self, text: str) -> SparseVector:
        """Lexical weights of a query."""
        return _sparse_vector(self.encoder.sparse_queries([text])[0])

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """``embed_documents`` for asyncio."""
        return await run_in_executor(None, self.embed_documents, texts)

    async def aembed_query(self, text: str) -> SparseVector:
        """``embed_query`` for asyncio."""
        return await run_in_executor(None, self.embed_query, text)


class M3MilvusSparseEmbedding(BaseSparseEmbedding):
    """Lexical weights for langchain-milvus (``Milvus(embedding_function=[dense, sparse])``).

    Args:
        model: as ``M3Embeddings``.
    """

    def __init__(self, model: ModelLike = None) -> None:
        with log_handlers_kept():
            from langchain_milvus.utils.sparse import BaseSparseEmbedding  # noqa: PLC0415 - a package of its own

        BaseSparseEmbedding.register(type(self))
        self.encoder: SharedEncoder = shared_encoder(model)

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Lexical weights of n documents, ``{token id: weight}``."""
        return self.encoder.sparse_documents(texts)

    def embed_query(self, query: str) -> dict[int, float]:
        """Lexical weights of a query, ``{token id: weight}``."""
        return self.encoder.sparse_queries([query])[0]

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """``embed_documents`` for asyncio."""
        return await run_in_executor(None, self.embed_documents, texts)

    async def aembed_query(self, query: str) -> dict[int, float]:
        """``embed_query`` for asyncio."""
        return await run_in_executor(None, self.embed_query, query)


class M3Compressor(BaseDocumentCompressor):
    """Re-ranks documents by the M3 score: one forward pass for the query, one for the documents.

    For documents from any retriever. Those of ``M3VectorStore`` have this score already.

    Attributes:
        embed: makes the vectors.
        top_n: documents to keep; None keeps all.
        weights: ``Weights``, the name of a preset, or three numbers.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    embed: Any  # an Embedder, which pydantic cannot check
    top_n: int | None = None
    weights: Any = DEFAULT_WEIGHTS

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents for a query, best first; ``metadata["relevance_score"]`` is the M3 score.

        Args:
            documents: from any retriever.
            query: the text.
            callbacks: not used.

        Raises:
            TextError, TruncationError, ModelOutputError: a text cannot be encoded.
        """
        embed: Embedder = self.embed
        scores = m3_scores(embed, query, [document.page_content for document in documents], weights=self.weights)
        scored = sorted(zip(scores, documents, strict=True), key=lambda pair: -pair[0])
        return [
            document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
            for score, document in scored[: self.top_n]
        ]


def _sparse_vector(weights: Mapping[int, float]) -> SparseVector:
    from langchain_qdrant.sparse_embeddings import SparseVector  # noqa: PLC0415

    return SparseVector(indices=list(weights), values=list(weights.values()))
