"""Drop-in classes for code that was written for FlagEmbedding or ``pymilvus.model``: change the import, keep the rest.

Same signatures, defaults and result types (NumPy arrays, dicts with string ids, SciPy's CSR), without torch. Three
things differ. Where theirs cut long texts silently at 512 tokens, these warn. An option that a bundle cannot follow
(``normalize_embeddings=False``, another pooling) is an error that says so. ``compute_score`` scores each pair by
itself; FlagEmbedding pads a batch with zero rows, which puts a floor of 0 under a late-interaction maximum.

Sources: FlagEmbedding 1.4.2 ``inference/embedder/encoder_only/m3.py``, milvus-model 0.2.12 ``hybrid/bge_m3.py``.
"""

from m3_vdb.compat.flag_embedding import BGEM3FlagModel
from m3_vdb.compat.pymilvus_model import BGEM3EmbeddingFunction

__all__ = ["BGEM3EmbeddingFunction", "BGEM3FlagModel"]
