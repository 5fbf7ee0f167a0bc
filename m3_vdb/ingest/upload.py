"""Encoded batches → the store, in pieces of bounded size, and then into the ledger."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from m3_vdb.errors import DocumentError, StoreRequestError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch
from m3_vdb.ingest.dead_letters import DeadLetters
from m3_vdb.ingest.ledger import Ledger, Settled
from m3_vdb.ingest.packed import part, vector_bytes
from m3_vdb.ingest.report import REJECTED_KEPT, IngestReport, Progress
from m3_vdb.ingest.retry import Patience, about_content, status
from m3_vdb.ingest.rows import Rejected, reject, words
from m3_vdb.long_documents import REFUSE, LongDocuments
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import M3Embeddings

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Vectors and texts handed to the store at once: what is sent again when a request fails."""
PIECE_DOCUMENTS: Final = 256
_WITNESSES: Final = 8


class Uploader:
    """Stores batches in order and settles each when all of it is acknowledged.

    Args:
        store: takes the documents.
        ledger: is told what is done, after it is done.
        letters: takes the rejected rows, before the ledger is told.
        patience: for the store.
        report: counts.
        strict: whether a rejected row ends the run.
        long_documents: what becomes of documents with more rows than the store takes.
    """

    def __init__(
        self,
        store: VectorStore,
        ledger: Ledger,
        letters: DeadLetters,
        patience: Patience,
        report: IngestReport,
        *,
        strict: bool,
        long_documents: LongDocuments = REFUSE,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._letters = letters
        self._patience = patience
        self._report = report
        self._strict = strict
        self._long_documents = long_documents
        self._begun = time.perf_counter()

    def upload(self, batch: Batch) -> Progress:
        """Store a batch and settle it.

        Raises:
            StoreError: the store failed; pieces before it are stored, and the batch is not settled.
            DocumentError: a row was rejected and the run is strict.
            OSError: the dead letters or the ledger cannot be written.
        """
        outdated = [one for row in batch.waiting for one in batch.outdated.get(row.document.id, ())]
        if outdated:  # before the first passage is replaced, which says how many there are
            self._patience.call(lambda: self._store.delete(outdated))
        stored = self._store_pieces(batch)
        batch.rejected.sort(key=lambda pair: pair[0])
        rejected = [one for _, one in batch.rejected]
        if self._strict and rejected:
            refuse(batch)
        self._letters.write(rejected)
        before, seen = self._ledger.settled, [*batch.unchanged, *stored]
        self._ledger.settle(
            Settled(
                rows=batch.stop,
                digest=batch.digest,
                held=before.held + len(seen),
                witnesses=tuple(seen[-_WITNESSES:]) or tuple(before.witnesses),
                rejected_bytes=self._letters.size,
                rejections=dict(Counter(before.rejections) + Counter(one.kind for one in rejected)),
            )
        )
        return self._count(batch, rejected)

    def _count(self, batch: Batch, rejected: list[Rejected]) -> Progress:
        report = self._report
        report.unchanged += len(batch.unchanged)
        report.rejections.update(one.kind for one in rejected)
        room = REJECTED_KEPT - len(report.rejected)
        report.rejected += [kinds.without_row(one) for one in rejected[: max(0, room)]]
        seconds = time.perf_counter() - self._begun
        return Progress(report.documents, report.tokens, seconds, batch.stop, report.unchanged, report.rejected_count)

    def _store_pieces(self, batch: Batch) -> list[str]:
        """Store what is waiting, setting aside what the store cannot hold; the ids that were acknowledged."""
        embeddings, rows = batch.embeddings, batch.waiting
        if embeddings is None or not rows:
            return []
        self._report.tokens += embeddings.stats.real_tokens
        self._report.padded_tokens += embeddings.stats.padded_tokens
        stored: list[str] = []
        pieces = list(_pieces(batch, embeddings))[::-1]
        while pieces:
            start, stop = pieces.pop()
            documents, vectors = [row.document for row in rows[start:stop]], part(embeddings, start, stop)
            try:
                vectors, long = self._long_documents.fit(documents, vectors, self._store.max_rows)
                self._patience.call(lambda d=documents, v=vectors: self._store.upsert(d, v))  # type: ignore[misc]
            except DocumentError as error:
                bad = start + error.index
                batch.rejected.append((rows[bad].place, reject(rows[bad].source, kinds.NOT_STORABLE, words(error))))
                pieces += [(i, j) for i, j in ((bad + 1, stop), (start, bad)) if i < j]
            except StoreRequestError as error:
                if not about_content(error):
                    raise
                middle = (start + stop) // 2
                if middle > start:  # which of them it is about
                    pieces += [(middle, stop), (start, middle)]
                    continue
                kind = kinds.TOO_LARGE if status(error) == 413 else kinds.REFUSED
                batch.rejected.append((rows[start].place, reject(rows[start].source, kind, str(error))))
            else:
                stored += [document.id for document in documents]
                self._report.documents += len(documents)
                self._report.truncated += int(vectors.truncated.sum())
                self._report.long_documents += int(long.sum())
        return stored


def refuse(batch: Batch) -> None:
    """End a strict run over the first rejected row of a batch.

    Raises:
        DocumentError: always.
    """
    place, one = min(batch.rejected, key=lambda pair: pair[0])
    raise DocumentError(f"{one.where}: {one.reason}", index=place)


def _pieces(batch: Batch, embeddings: M3Embeddings) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces below ``PIECE_BYTES``; a larger document travels alone."""
    start, size = 0, 0
    for i, (row, vectors) in enumerate(zip(batch.waiting, vector_bytes(embeddings), strict=True)):
        bytes_of_row = vectors + len(row.document.text) + len(row.document.title)
        if i > start and (size + bytes_of_row > PIECE_BYTES or i - start == PIECE_DOCUMENTS):
            yield start, i
            start, size = i, 0
        size += bytes_of_row
    yield start, len(batch.waiting)
