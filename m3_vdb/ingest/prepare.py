"""Rows → a batch to encode (bad documents, repeated ids and unchanged documents are taken out), and its encoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedder import Embedder, TwoStep
from m3_vdb.encoding.forward import not_finite_error
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import ConfigError, DocumentError, ItemError, ModelOutputError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Item, Waiting, chain_digest, content_hash, row_hash
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.rows import Rejected, Row, message_without_index, reject
from m3_vdb.types import Document, OffsetArray
from m3_vdb.writer import Writer


class Preparer:
    """Turns rows into a batch: finds bad documents, repeated ids, and what the store holds already.

    Args:
        tokenize: the last step of preparing; may reject rows.
        writer: of the store.
        ledger: knows the ids of the corpus, and how many rows are done.
        ask: whether to ask the store at all.
        skip_unchanged: leave out what the store holds already.
    """

    def __init__(
        self,
        tokenize: Callable[[Batch], None],
        writer: Writer,
        ledger: Ledger,
        *,
        ask: bool,
        skip_unchanged: bool = True,
    ) -> None:
        self._tokenize = tokenize
        self._writer = writer
        self._ledger = ledger
        self._ask = ask
        self._skip_unchanged = skip_unchanged
        self._place = 0
        self._number = 0
        self._digest = b""
        self._done = ledger.checkpoint.rows
        self._expected = ledger.checkpoint.digest

    def prepare(self, items: Sequence[Item]) -> Batch | None:
        """The batch of the next rows without those that are done already; None if all are.

        Raises:
            ConfigError: the rows that are done are not those of this corpus.
            StoreError: the store cannot be asked.
            OSError: the ledger cannot be written.
        """
        fresh = [(place, item) for item in items if (place := self._next(item)) is not None]
        if not fresh:
            return None
        batch = Batch(stop=self._place, number=self._number, digest=self._digest.hex())
        self._number += 1
        for place, item in fresh:
            if isinstance(item, Rejected):
                batch.rejected.append((place, item))
            else:
                self._check(batch, place, item)
        self._drop_repeated(batch)
        if self._ask:
            self._compare(batch)
        self._tokenize(batch)
        return batch

    def finish(self) -> None:
        """The corpus has ended.

        Raises:
            ConfigError: it is shorter than what was done of it.
        """
        if self._place < self._done:
            raise ConfigError(self._other_corpus(f"it has only {self._place:,} rows"))

    def _next(self, item: Item) -> int | None:
        """The place of an item, None if it is done."""
        place = self._place
        self._place += 1
        if self._ledger.path is not None:
            self._digest = chain_digest(self._digest, row_hash(item))
        if place >= self._done:
            return place
        if self._place == self._done and self._digest.hex() != self._expected:
            raise ConfigError(self._other_corpus("these rows have changed"))
        return None

    def _other_corpus(self, why: str) -> str:
        return (
            f"{self._ledger.path} says that the first {self._done:,} rows of the corpus are done, but {why}: run "
            f"without resuming (what is stored unchanged is not encoded again)"
        )

    def _check(self, batch: Batch, place: int, item: Document | Row) -> None:
        try:
            document = self._writer.check(item.document if isinstance(item, Row) else item)
        except DocumentError as error:
            batch.rejected.append((place, reject(item, kinds.NOT_STORABLE, message_without_index(error))))
        else:
            batch.waiting.append(Waiting(place, item, document))

    def _drop_repeated(self, batch: Batch) -> None:
        holders = self._ledger.claim([(row.place, row.document.id) for row in batch.waiting])
        for index in reversed(range(len(holders))):
            holder = holders[index]
            if holder is not None:
                batch.drop_row(index, kinds.DUPLICATE, f"duplicate id: row {holder + 1:,} of the corpus has it already")

    def _compare(self, batch: Batch) -> None:
        """With what the store holds: drop what is unchanged, and note passages that will be left over."""
        found = self._writer.look_up([row.document for row in batch.waiting])
        batch.outdated = found.outdated
        for index in reversed(range(len(batch.waiting))):
            if fault := found.faults.get(batch.waiting[index].document.id):
                batch.drop_row(index, kinds.NOT_STORABLE, fault)
        if not self._skip_unchanged:
            return
        hashes = {id: content_hash(document) for id, document in found.documents.items()}
        fresh = [row for row in batch.waiting if hashes.get(row.document.id) != content_hash(row.document)]
        kept = {row.place for row in fresh}
        batch.unchanged = [row.document.id for row in batch.waiting if row.place not in kept]
        batch.waiting = fresh


class Encoder:
    """An embedding function in two steps, so that texts are tokenized while others are encoded.

    Args:
        embed: any; one that does not work in two steps does everything in the second.
    """

    def __init__(self, embed: Embedder) -> None:
        self._embed = embed
        self._two_step = embed if isinstance(embed, TwoStep) else None
        self._identity = embed.identity
        self._max_length: int | None = getattr(embed, "max_length", None)

    def cost(self, item: Item) -> int:
        """Bytes that an item may take, vectors included, from above."""
        if isinstance(item, Rejected):
            return len(item.row or "")
        document = item.document if isinstance(item, Row) else item
        texts: tuple[object, ...] = (document.text, document.title)
        characters = sum(len(one) for one in texts if isinstance(one, str))  # what is not text is rejected later
        tokens = characters if self._max_length is None else min(characters, self._max_length)
        floats = self._identity.dense_dim + (tokens + 2) * (self._identity.multi_vector_dim + 2)
        return 4 * floats + characters + (len(item.row or "") if isinstance(item, Row) else 0)

    def tokenize(self, batch: Batch) -> None:
        """The first step, of documents that were checked; those that may not be cut and are too long are rejected."""
        embed = self._two_step
        if embed is None or not batch.waiting:
            return
        tokens = embed.tokenizer.encode(batch.texts, max_length=embed.max_length, mcls_every=embed.mcls_every)
        if embed.on_truncate == "error" and tokens.truncated.any():
            for i in _last_first(tokens.truncated):
                reason = f"longer than {embed.max_length} tokens: split the text, or pass on_truncate='ignore'"
                batch.drop_row(i, kinds.NOT_ENCODABLE, reason)
            lengths, kept = np.diff(tokens.offsets), ~tokens.truncated
            offsets: OffsetArray = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
            tokens = TokenBatch(tokens.ids[np.repeat(kept, lengths)], offsets, tokens.truncated[kept])
        batch.tokens = tokens

    def encode(self, batch: Batch, passed: Callable[[int, int], None] | None = None) -> None:
        """The second step; rows of which the model makes no vectors are rejected.

        Args:
            batch: tokenized.
            passed: called with rows and tokens after each forward pass.
        """
        tokens, batch.tokens = batch.tokens, None
        if self._two_step is None or tokens is None:
            self._encode_texts(batch)
            return
        embeddings, failed = self._two_step.encode_usable(tokens, passed=passed)
        for i in _last_first(failed):
            batch.drop_row(i, kinds.MODEL_OUTPUT, message_without_index(not_finite_error(i, int(tokens.lengths[i]))))
        batch.embeddings = replace(embeddings[~failed], stats=embeddings.stats) if failed.any() else embeddings

    def _encode_texts(self, batch: Batch) -> None:
        """In one step; an embedding function that fails on a text is called again for the others."""
        while batch.waiting:
            try:
                batch.embeddings = self._embed.encode_documents(batch.texts)
            except ItemError as error:
                kind = kinds.MODEL_OUTPUT if isinstance(error, ModelOutputError) else kinds.NOT_ENCODABLE
                batch.drop_row(error.index, kind, message_without_index(error))
                continue
            return


def _last_first(rows: NDArray[np.bool_]) -> list[int]:
    """Which rows are True, the last one first: each can be dropped without moving those that follow."""
    return [int(i) for i in np.flatnonzero(rows)[::-1]]
