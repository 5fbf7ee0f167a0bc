"""What an index or an ingest needs of an embedding function; ``M3EmbeddingFunction`` has all of it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import Tokenizer
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
