"""Encoded batches → the store: failed requests are repeated, and refusals cost single documents.

A batch is handed over in pieces of bounded size; what the store refuses is narrowed down to the documents to blame.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from m3_vdb.errors import ConfigError, DocumentError, StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.rows import message_without_index, reject
from m3_vdb.types import M3Embeddings
from m3_vdb.writer import Writer

T = TypeVar("T")
PIECE_BYTES: Final = 4 * 1024 * 1024
"""Vectors and texts handed to the store at once: what is sent again when a request fails."""
PIECE_DOCUMENTS: Final = 256
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABOUT_CONTENT: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and after which pauses a request to the store is repeated.

    The n-th pause is drawn from 0 … min(longest, first · 2ⁿ): full jitter, so that writers that failed together do not
    return together. A store that says when to come back (``Retry-After``) is given that time, and the draw on top.

    Attributes:
        attempts: requests in all, the first included; 10 last some two minutes.
        first: seconds.
        longest: seconds.
    """

    attempts: int = 10
    first: float = 0.5
    longest: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first < 0 or self.longest < 0:
            raise ConfigError(f"{self}: expected at least one attempt and pauses of 0 seconds or more")

    def pause(self, failures: int, error: StoreError) -> float:
        """Seconds to wait after N failures in a row."""
        return retry_after(error) + random.uniform(0, min(self.longest, self.first * 2**failures))


class Retrier:
    """Makes requests, and repeats those that fail in a way that may pass.

    Args:
        retry: how often and how long.
        stop: set when the run is to end: no more waiting.
    """

    def __init__(self, retry: Retry, stop: threading.Event) -> None:
        self._retry = retry
        self._stop = stop
        self._lock = threading.Lock()
        self.retries = 0

    def add(self, retries: int) -> None:
        """Count requests that were made again elsewhere."""
        with self._lock:
            self.retries += retries

    def call(self, request: Callable[..., T], /, *arguments: Any) -> T:  # noqa: ANN401 - those of the request
        """The request's result.

        Raises:
            StoreError: the last failure, or the first that no waiting mends.
        """
        for failures in range(1, self._retry.attempts):
            try:
                return request(*arguments)
            except StoreError as error:
                if not is_transient(error) or self._stop.wait(self._retry.pause(failures, error)):
                    raise
            self.add(1)
        return request(*arguments)


def is_transient(error: StoreError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, StoreConnectionError) or status(error) in _TRANSIENT


def about_content(error: StoreError) -> bool:
    """Whether a refusal is about what was sent, so that less of it may be accepted."""
    return status(error) in _ABOUT_CONTENT


def retry_after(error: StoreError) -> float:
    """Seconds that the store asked for; 0 if it did not."""
    return error.retry_after or 0.0 if isinstance(error, (StoreConnectionError, StoreRequestError)) else 0.0


def status(error: StoreError) -> int | None:
    """The HTTP status of a refusal, if it has one."""
    return error.status if isinstance(error, StoreRequestError) else None


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
        documents, vectors = [row.document for row in rows[start:stop]], embeddings[start:stop]
        try:
            long = writer.write(documents, vectors, batch.outdated)
        except DocumentError as error:
            bad = start + error.index
            batch.rejected.append(
                (rows[bad].place, reject(rows[bad].source, kinds.NOT_STORABLE, message_without_index(error)))
            )
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
    for i, (row, vectors) in enumerate(zip(batch.waiting, _vector_bytes(embeddings), strict=True)):
        bytes_of_row = vectors + len(row.document.text) + len(row.document.title)
        if i > start and (size + bytes_of_row > PIECE_BYTES or i - start == PIECE_DOCUMENTS):
            yield start, i
            start, size = i, 0
        size += bytes_of_row
    yield start, len(batch.waiting)


def _vector_bytes(embeddings: M3Embeddings) -> list[int]:
    """Bytes of each text's three vectors."""
    sizes = np.zeros(len(embeddings), np.int64)
    if embeddings.dense is not None:
        sizes += embeddings.dense.nbytes // max(1, len(embeddings.dense))
    if embeddings.sparse_offsets is not None:
        sizes += 8 * np.diff(embeddings.sparse_offsets)
    if embeddings.multi_vector is not None and embeddings.multi_vector_offsets is not None:
        row_bytes = embeddings.multi_vector.nbytes // max(1, len(embeddings.multi_vector))
        sizes += row_bytes * np.diff(embeddings.multi_vector_offsets)
    return [int(size) for size in sizes]
