"""M3-Embedding from training to the vector database: one pass, three vectors, one collection, one fused query.

>>> from m3_vdb import M3EmbeddingFunction
>>> embed = M3EmbeddingFunction()
>>> embeddings = embed.encode_documents(["Vectors in one pass.", "一次得到三种向量。"])
>>> len(embeddings), embeddings.dense.shape[1] == embed.dim["dense"]
(2, True)

Runtimes and database clients are imported on first use.
"""

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.bm25 import bm25_query
from m3_vdb.boosts import Boost
from m3_vdb.encoding.bundle import Bundle
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import M3Error
from m3_vdb.index import HybridIndex
from m3_vdb.stores import CollectionOptions, ModelIdentity, VectorStore, open_store
from m3_vdb.types import Document, Explanation, Hit, M3Embedding, M3Embeddings, Passage, Scores, SparseVector
from m3_vdb.weights import PRESETS, Weights
from m3_vdb.writer import AddReport

__version__ = "0.2.0"
__all__ = [
    "PRESETS",
    "AddReport",
    "AsyncHybridIndex",
    "Boost",
    "Bundle",
    "CollectionOptions",
    "Document",
    "Explanation",
    "Hit",
    "HybridIndex",
    "LongDocuments",
    "M3Embedding",
    "M3EmbeddingFunction",
    "M3Embeddings",
    "M3Error",
    "ModelIdentity",
    "Passage",
    "Scores",
    "SparseVector",
    "VectorStore",
    "Weights",
    "bm25_query",
    "find_bundle",
    "open_store",
]
