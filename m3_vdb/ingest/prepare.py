"""Rows → a batch to encode: bad documents, repeated ids and what is done already are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Item, Waiting
from m3_vdb.ingest.content import chained, content_hash, row_hash
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.rows import Rejected, Row, reject, words
from m3_vdb.types import Document
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
        try:
            document = self._writer.check(item.document if isinstance(item, Row) else item)
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
        stored = self._writer.look_up([row.document for row in batch.waiting])
        batch.outdated = dict(stored.outdated)
        for index in reversed(range(len(batch.waiting))):
            if fault := stored.faults.get(batch.waiting[index].document.id):
                batch.drop(index, kinds.NOT_STORABLE, fault)
        if not self._skip_unchanged:
            return
        hashes = {id: content_hash(document) for id, document in stored.documents.items()}
        fresh = [row for row in batch.waiting if hashes.get(row.document.id) != content_hash(row.document)]
        kept = {row.place for row in fresh}
        batch.unchanged = [row.document.id for row in batch.waiting if row.place not in kept]
        batch.waiting = fresh
