"""Protocols of embedding functions for an index or an ingest; ``M3EmbeddingFunction`` implements all three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer
from m3_vdb.types import M3Embeddings


class Embedder(Protocol):
    """Makes the three vectors of texts."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity."""
        ...

    def encode_documents(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n documents, all three parts."""
        ...

    def encode_queries(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n queries, all three parts."""
        ...


@runtime_checkable
class Tokenizing(Protocol):
    """An embedding function with a tokenizer and limits, so that texts can be split by tokens.

    Attributes:
        tokenizer: the model's tokenizer.
        max_length: tokens kept per text.
        model_max_length: maximum tokens of the model.
        mcls_every: tokens between two ``<s>``; None for a single ``<s>``.
    """

    tokenizer: Tokenizer
    max_length: int
    model_max_length: int
    mcls_every: int | None


@runtime_checkable
class TwoStep(Tokenizing, Protocol):
    """An embedding function that encodes tokens, so that the next texts can be tokenized at the same time.

    Attributes:
        on_truncate: "error" if texts longer than ``max_length`` are refused.
    """

    on_truncate: str

    def encode_usable(
        self, tokens: TokenBatch, *, passed: Callable[[int, int], None] | None = None
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """Embeddings, and bool [n], True for texts whose vectors hold NaN or infinity."""
        ...
