"""What an index or an ingest needs of an embedding function; ``M3EmbeddingFunction`` has all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer
from m3_vdb.types import M3Embeddings


class Embedder(Protocol):
    """Anything that makes the three vectors."""

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


@runtime_checkable
class Tokenizing(Protocol):
    """An embedding function whose tokenizer and limits are known, so that texts can be split by tokens.

    Attributes:
        tokenizer: the model's.
        max_length: tokens kept of a text.
        model_max_length: tokens that the model takes.
        mcls_every: tokens between two ``<s>``; None for one ``<s>`` only.
    """

    tokenizer: Tokenizer
    max_length: int
    model_max_length: int
    mcls_every: int | None


@runtime_checkable
class TwoStep(Tokenizing, Protocol):
    """An embedding function that encodes tokens, so that other texts are tokenized meanwhile.

    Attributes:
        on_truncate: "error" where a text may not be longer than ``max_length``.
    """

    on_truncate: str

    def encode_usable(
        self, tokens: TokenBatch, *, passed: Callable[[int, int], None] | None = None
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """Embeddings, and bool [n], True for texts of which the model makes no finite vectors."""
        ...
