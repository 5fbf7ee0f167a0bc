"""An embedding function as two steps of a pipeline; rows that it cannot use are set aside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction, not_finite_error
from m3_vdb.errors import ItemError, ModelOutputError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Item
from m3_vdb.ingest.packed import keep_texts, keep_tokens
from m3_vdb.ingest.rows import Rejected, Row, words


class Encoder:
    """An embedding function in two steps, so that texts are tokenized while others are encoded.

    Args:
        embed: ours, or any other, which is then called in the second step for everything.
    """

    def __init__(self, embed: Embedder) -> None:
        self._embed = embed
        self._ours = embed if isinstance(embed, M3EmbeddingFunction) else None
        self._identity = embed.identity

    def cost(self, item: Item) -> int:
        """Bytes that an item may take, vectors included, from above."""
        if isinstance(item, Rejected):
            return len(item.row or "")
        document = item.document if isinstance(item, Row) else item
        texts: tuple[object, ...] = (document.text, document.title)
        characters = sum(len(one) for one in texts if isinstance(one, str))  # what is no text is rejected later
        tokens = characters if self._ours is None else min(characters, self._ours.max_length)
        floats = self._identity.dense_dim + (tokens + 2) * (self._identity.multi_vector_dim + 2)
        return 4 * floats + characters + (len(item.row or "") if isinstance(item, Row) else 0)

    def tokenize(self, batch: Batch) -> None:
        """The first step, of documents that were checked; those that may not be cut and are too long are rejected."""
        ours = self._ours
        if ours is None or not batch.waiting:
            return
        tokens = ours.tokenizer.encode(batch.texts, max_length=ours.max_length, mcls_every=ours.mcls_every)
        if ours.on_truncate == "error" and tokens.truncated.any():
            for i in _numbers(tokens.truncated):
                reason = f"longer than {ours.max_length} tokens: split the text, or pass on_truncate='ignore'"
                batch.drop(i, kinds.NOT_ENCODABLE, reason)
            tokens = keep_tokens(tokens, ~tokens.truncated)
        batch.tokens = tokens

    def encode(self, batch: Batch, passed: Callable[[int, int], None] | None = None) -> None:
        """The second step; rows of which the model makes no vectors are rejected.

        Args:
            batch: tokenized.
            passed: called with rows and tokens after each forward pass.
        """
        tokens, batch.tokens = batch.tokens, None
        if self._ours is None or tokens is None:
            self._encode_elsewhere(batch)
            return
        # encode_documents without its first half, which was done in another thread
        embeddings, failed = self._ours.encode_usable(tokens, passed=passed)
        for i in _numbers(failed):
            batch.drop(i, kinds.MODEL_OUTPUT, words(not_finite_error(i, int(tokens.lengths[i]))))
        batch.embeddings = keep_texts(embeddings, ~failed) if failed.any() else embeddings

    def _encode_elsewhere(self, batch: Batch) -> None:
        """With any embedding function; one that fails on a text is asked again for the others."""
        while batch.waiting:
            try:
                batch.embeddings = self._embed.encode_documents(batch.texts)
            except ItemError as error:
                kind = kinds.MODEL_OUTPUT if isinstance(error, ModelOutputError) else kinds.NOT_ENCODABLE
                batch.drop(error.index, kind, words(error))
                continue
            return


def _numbers(rows: NDArray[np.bool_]) -> list[int]:
    """Which rows are True, the last one first: each can be dropped without moving those that follow."""
    return [int(i) for i in np.flatnonzero(rows)[::-1]]
