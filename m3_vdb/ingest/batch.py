"""Rows that travel together from the corpus to the store, and how a corpus is cut into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import DocumentError
from m3_vdb.ingest.rows import WRONG_TYPE, Rejected, Row, reject, words
from m3_vdb.inputs import DocumentLike, many_documents, read_document
from m3_vdb.types import Document, M3Embeddings

Item = Document | Row | Rejected
BATCH_BYTES: Final = 128 * 1024 * 1024
"""Vectors that a batch may grow to, estimated from above by its characters: with long texts a batch has fewer rows."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row on its way: its place in the corpus, as it was read, and as it will be stored."""

    place: int
    source: Document | Row
    document: Document


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch at the store.

    Attributes:
        ids: documents that were acknowledged, in the order of the batch.
        tokens: tokens encoded for the batch.
        padded_tokens: tokens computed for it, padding included.
        truncated: documents among ``ids`` that were longer than the model's maximum.
        shortened: documents among ``ids`` of which fewer rows are stored than they had, by the plan for long ones.
    """

    ids: tuple[str, ...] = ()
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    shortened: int = 0


@dataclass(slots=True)
class Batch:
    """Rows that travel together.

    Attributes:
        stop: rows of the corpus up to the end of this batch.
        number: its place among the batches of this run, from 0.
        digest: of all these rows.
        waiting: rows to encode and store.
        rejected: (place, rejection) of the others.
        unchanged: ids that the store holds already.
        outdated: id of a waiting row → passages of its older version that the new one has not.
        tokens: of the waiting rows, where the embedding function is ours.
        embeddings: of the waiting rows, once they are encoded.
        stored: what the store said of them, once it has.
    """

    stop: int
    number: int = 0
    digest: str = ""
    waiting: list[Waiting] = field(default_factory=list)
    rejected: list[tuple[int, Rejected]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    outdated: dict[str, list[str]] = field(default_factory=dict)
    tokens: TokenBatch | None = None
    embeddings: M3Embeddings | None = None
    stored: Stored | None = None

    def drop(self, index: int, kind: str, reason: str) -> None:
        """Reject a waiting row."""
        row = self.waiting.pop(index)
        self.rejected.append((row.place, reject(row.source, kind, reason)))

    @property
    def texts(self) -> list[str]:
        """What is encoded."""
        return [row.document.content for row in self.waiting]


def read_items(items: Iterable[Item | DocumentLike]) -> Iterator[Item]:
    """What is to be ingested: rows, documents, and dicts with their fields; anything else becomes a rejection.

    Raises:
        ConfigError: at once; ``items`` is one document, or nothing that holds documents.
    """
    given = many_documents(items)
    return (one if isinstance(one, (Row, Rejected)) else _read(one, index) for index, one in enumerate(given))


def _read(item: DocumentLike, index: int) -> Document | Rejected:
    try:
        return read_document(item, index)
    except DocumentError as error:
        return Rejected(f"item {index}", words(error), WRONG_TYPE)


def cut(items: Iterable[Item], *, documents: int, cost: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items in lists of so many, or of fewer that reach ``BATCH_BYTES``; a list is given out as soon as it is full."""
    batch: list[Item] = []
    size = 0
    try:
        for item in items:
            batch.append(item)
            size += cost(item)
            if len(batch) == documents or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        if batch:
            yield batch  # what the source gave before it failed
        raise
    if batch:
        yield batch
