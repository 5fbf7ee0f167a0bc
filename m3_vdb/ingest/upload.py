"""Encoded batches → the store, in pieces of bounded size; what it refuses is narrowed down to single documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from m3_vdb.errors import DocumentError, StoreRequestError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.packed import part, vector_bytes
from m3_vdb.ingest.retry import about_content, status
from m3_vdb.ingest.rows import reject, words
from m3_vdb.types import M3Embeddings
from m3_vdb.writer import Writer

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Vectors and texts handed to the store at once: what is sent again when a request fails."""
PIECE_DOCUMENTS: Final = 256


def store_batch(writer: Writer, batch: Batch) -> Stored:
    """Store what is waiting in a batch; what the store cannot hold is added to ``batch.rejected``.

    Of a batch, one thread stores piece after piece; several batches may be stored at the same time.

    Args:
        writer: of the store.
        batch: encoded.

    Raises:
        StoreError: the store failed; pieces before it are stored.
    """
    embeddings, rows = batch.embeddings, batch.waiting
    if embeddings is None or not rows:
        return Stored()
    ids: list[str] = []
    truncated = shortened = 0
    pieces = list(_pieces(batch, embeddings))[::-1]
    while pieces:
        start, stop = pieces.pop()
        documents, vectors = [row.document for row in rows[start:stop]], part(embeddings, start, stop)
        try:
            long = writer.write(documents, vectors, batch.outdated)
        except DocumentError as error:
            bad = start + error.index
            batch.rejected.append((rows[bad].place, reject(rows[bad].source, kinds.NOT_STORABLE, words(error))))
            middle = (bad + 1 + stop) // 2  # many bad ones in a row must not each cost a check of all that follow
            pieces += [(i, j) for i, j in ((middle, stop), (bad + 1, middle), (start, bad)) if i < j]
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
            ids += [document.id for document in documents]
            truncated += int(vectors.truncated.sum())
            shortened += int(long.sum())
    stats = embeddings.stats
    return Stored(tuple(ids), stats.real_tokens, stats.padded_tokens, truncated, shortened)


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
