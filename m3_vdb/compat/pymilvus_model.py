"""``pymilvus.model.hybrid.BGEM3EmbeddingFunction`` over an ``M3EmbeddingFunction``; see ``m3_vdb.compat``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from m3_vdb.compat.flag_embedding import BGEM3FlagModel
from m3_vdb.errors import MissingExtraError
from m3_vdb.inputs import many_texts


class BGEM3EmbeddingFunction:
    """``pymilvus.model.hybrid.BGEM3EmbeddingFunction`` over an ``M3EmbeddingFunction``; sparse parts need SciPy.

    Args:
        model_name: a model in any form that ``M3EmbeddingFunction`` takes.
        batch_size: texts per forward pass at most.
        device: None, "cpu", "cuda" or "cuda:0".
        normalize_embeddings: True; a bundle's vectors have length 1.
        use_fp16: has no effect: bundle and processor decide the arithmetic.
        return_dense: compute dense vectors.
        return_sparse: compute lexical weights.
        return_colbert_vecs: compute multi-vectors.
        max_length: tokens kept of a text; a warning says when texts were cut.

    Raises:
        ConfigError: an option that a bundle cannot follow.
        BundleError: the model is missing or damaged.
        MissingExtraError: the sparse part is asked for and SciPy is not installed.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "BAAI/bge-m3",
        batch_size: int = 16,
        device: str | None = None,
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_colbert_vecs: bool = False,
        max_length: int = 512,
    ) -> None:
        if return_sparse and find_spec("scipy") is None:
            raise MissingExtraError("BGEM3EmbeddingFunction with a sparse part", extra="compat")
        self.model_name = model_name
        self.model = BGEM3FlagModel(
            model_name,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            devices=device,
            batch_size=batch_size,
            passage_max_length=max_length,
            return_dense=return_dense,
            return_sparse=return_sparse,
            return_colbert_vecs=return_colbert_vecs,
        )

    @property
    def dim(self) -> dict[str, int]:
        """Widths for a schema: {"dense", "colbert_vecs", "sparse"}."""
        dim = self.model.embed.dim
        return {"dense": dim["dense"], "colbert_vecs": dim["multi_vector"], "sparse": dim["sparse"]}

    def encode_documents(self, documents: Sequence[str]) -> dict[str, Any]:
        """Encode n texts.

        Returns:
            "dense": n arrays float32 [d]; "sparse": ``scipy.sparse.csr_array`` float64 [n, vocabulary];
            "colbert_vecs": n arrays float32 [tokens - 1, m]. A part that is not wanted has no key.

        Raises:
            TextError: an item is not a string.
        """
        return self._encode(documents)

    def encode_queries(self, queries: Sequence[str]) -> dict[str, Any]:
        """``encode_documents``: M3 has no instruction or prefix for queries."""
        return self._encode(queries)

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        """``encode_documents``."""
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> dict[str, Any]:
        model = self.model
        wanted = (model.return_dense, model.return_sparse, model.return_colbert_vecs)
        vectors = model.packed(list(many_texts(texts)), None, model.passage_max_length, wanted)
        results: dict[str, Any] = {}
        if vectors.dense is not None:
            results["dense"] = list(vectors.dense)
        if model.return_sparse:
            from scipy.sparse import csr_array  # noqa: PLC0415 - optional

            weights, ids, offsets = vectors.sparse_csr()
            shape = (len(vectors), self.dim["sparse"])
            results["sparse"] = csr_array((weights.astype(np.float64), ids, offsets), shape=shape)
        if model.return_colbert_vecs:
            results["colbert_vecs"] = [part.multi_vector for part in vectors]
        return results
