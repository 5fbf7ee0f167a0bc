"""An embedding function as two steps of a pipeline; rows that it cannot use are set aside."""

from __future__ import annotations

import numpy as np

from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import InputError, ModelOutputError, TruncationError
from m3_vdb.index import Embedder
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Item
from m3_vdb.ingest.packed import without
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
        """The first step; rows that cannot be encoded are rejected."""
        ours = self._ours
        while ours is not None and batch.waiting:
            try:
                tokens = ours.tokenizer.encode(batch.texts, max_length=ours.max_length, mcls_every=ours.mcls_every)
                if ours.on_truncate == "error" and tokens.truncated.any():
                    raise TruncationError(
                        f"longer than {ours.max_length} tokens: split the text, or pass on_truncate='ignore'",
                        index=int(np.argmax(tokens.truncated)),
                    )
            except InputError as error:
                batch.drop(error.index, kinds.NOT_ENCODABLE, words(error))
                continue
            batch.tokens = tokens
            return

    def encode(self, batch: Batch) -> None:
        """The second step; rows of which the model makes no vectors are rejected."""
        while batch.waiting:
            try:
                if self._ours is None or batch.tokens is None:
                    batch.embeddings = self._embed.encode_documents(batch.texts)
                else:  # encode_documents without its first half, which was done in another thread
                    batch.embeddings = self._ours.encode_tokens(batch.tokens)
            except (InputError, ModelOutputError) as error:
                kind = kinds.MODEL_OUTPUT if isinstance(error, ModelOutputError) else kinds.NOT_ENCODABLE
                batch.drop(error.index, kind, words(error))
                batch.tokens = batch.tokens and without(batch.tokens, error.index)
                continue
            batch.tokens = None
            return
