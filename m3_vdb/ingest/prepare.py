"""Rows → a batch to encode: bad documents, repeated ids and what is done already are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Item, Waiting
from m3_vdb.ingest.content import chained, content_hash, row_hash
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.retry import Patience
from m3_vdb.ingest.rows import Rejected, Row, reject, words
from m3_vdb.passages import outdated_passages, replaced_fault
from m3_vdb.stores import VectorStore, check_documents
from m3_vdb.stores.checks import check_types
from m3_vdb.types import Document


class Preparer:
    """Turns rows into a batch: finds bad documents, repeated ids, and what the store holds already.

    Args:
        tokenize: the last step of preparing; may reject rows.
        store: asked what it holds.
        ledger: knows the ids of the corpus, and how many rows are done.
        patience: for the store.
        encoding: how documents are encoded, "" for the model's own way.
        long_documents: says what is done to long ones, which is part of how they are encoded.
        ask: whether to ask the store at all.
        skip_unchanged: leave out what the store holds already.
    """

    def __init__(
        self,
        tokenize: Callable[[Batch], None],
        store: VectorStore,
        ledger: Ledger,
        patience: Patience,
        *,
        encoding: str,
        long_documents: LongDocuments = REFUSE,
        ask: bool,
        skip_unchanged: bool = True,
    ) -> None:
        self._tokenize = tokenize
        self._store = store
        self._ledger = ledger
        self._patience = patience
        self._encoding = encoding
        self._long_documents = long_documents
        self._ask = ask
        self._skip_unchanged = skip_unchanged
        self._types = store.field_types
        self._place = 0
        self._number = 0
        self._digest = b""
        self._done = ledger.settled.rows
        self._expected = ledger.settled.digest

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
            raise ConfigError(self._other(f"it has only {self._place:,} rows"))

    def _next(self, item: Item) -> int | None:
        """The place of an item, None if it is done."""
        place = self._place
        self._place += 1
        if self._ledger.path is not None:
            self._digest = chained(self._digest, row_hash(item))
        if place >= self._done:
            return place
        if self._place == self._done and self._digest.hex() != self._expected:
            raise ConfigError(self._other("these rows have changed"))
        return None

    def _other(self, why: str) -> str:
        return (
            f"{self._ledger.path} says that the first {self._done:,} rows of the corpus are done, but {why}: run "
            f"without resuming (what is stored unchanged is not encoded again)"
        )

    def _check(self, batch: Batch, place: int, item: Document | Row) -> None:
        given = item.document if isinstance(item, Row) else item
        try:
            document = check_documents([given])[0]
            check_types([document], self._types)
            document = self._long_documents.marked(document, self._store.max_rows, text=self._encoding)
        except DocumentError as error:
            batch.rejected.append((place, reject(item, kinds.NOT_STORABLE, words(error))))
        else:
            batch.waiting.append(Waiting(place, item, document))

    def _drop_repeated(self, batch: Batch) -> None:
        holders = self._ledger.claim([(row.place, row.document.id) for row in batch.waiting])
        for index in reversed(range(len(holders))):
            holder = holders[index]
            if holder is not None:
                batch.drop(index, kinds.DUPLICATE, f"duplicate id: row {holder + 1:,} of the corpus has it already")

    def _compare(self, batch: Batch) -> None:
        """With what the store holds: drop what is unchanged, and note passages that will be left over."""
        waiting = {row.document.id: row.document for row in batch.waiting}
        found = self._patience.call(lambda: self._store.get(list(waiting))) if waiting else []
        stored = {document.id: document for document in found}
        for index in reversed(range(len(batch.waiting))):
            new = batch.waiting[index].document
            fault = new.id in stored and replaced_fault(stored[new.id], new)
            if fault:
                batch.drop(index, kinds.NOT_STORABLE, fault)
        batch.outdated = self._patience.call(lambda: outdated_passages(self._store, found, waiting))
        if not self._skip_unchanged:
            return
        hashes = {document.id: content_hash(document) for document in found}
        fresh = [row for row in batch.waiting if hashes.get(row.document.id) != content_hash(row.document)]
        kept = {row.place for row in fresh}
        batch.unchanged = [row.document.id for row in batch.waiting if row.place not in kept]
        batch.waiting = fresh
