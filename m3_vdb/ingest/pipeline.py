"""Documents → encoded → stored, in one pass and bounded memory. A bad document costs itself, never the run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import InputError, ModelOutputError
from m3_vdb.ingest.readers import Rejected
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document

BATCH_DOCUMENTS: Final = 256
"""Documents encoded together: enough for the packing to find neighbours of like length."""


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run, after each batch.

    Attributes:
        documents: documents stored.
        tokens: tokens encoded.
        seconds: since the start.
    """

    documents: int
    tokens: int
    seconds: float


@dataclass(slots=True)
class IngestReport:
    """What a run did.

    Attributes:
        documents: documents stored (a repeated id counts each time).
        tokens: tokens encoded.
        padded_tokens: tokens computed, padding included.
        truncated: documents that were longer than the model's maximum.
        seconds: wall time.
        rejected: items that were not stored, with reasons.
    """

    documents: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)


def ingest(
    items: Iterable[Document | Rejected],
    embed: M3EmbeddingFunction,
    store: VectorStore,
    *,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Encode and store documents.

    Args:
        items: documents, and rows that a reader already rejected; read once, a batch at a time.
        embed: makes the vectors.
        store: keeps them.
        batch_documents: documents encoded together.
        progress: called after each batch.

    Returns:
        Counts, and every rejected item.

    Raises:
        StoreError: the database failed; batches before it are stored.
    """
    report = IngestReport()
    begun = time.perf_counter()
    source = iter(items)
    while batch := list(islice(source, batch_documents)):
        report.rejected += [item for item in batch if isinstance(item, Rejected)]
        _store([item for item in batch if isinstance(item, Document)], embed, store, report)
        report.seconds = time.perf_counter() - begun
        if progress is not None:
            progress(Progress(report.documents, report.tokens, report.seconds))
    return report


def _store(documents: list[Document], embed: M3EmbeddingFunction, store: VectorStore, report: IngestReport) -> None:
    """Store a batch, setting bad documents aside one by one until the rest goes through."""
    while documents:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # truncation is counted in the report
                embeddings = embed.encode_documents([document.content for document in documents])
            store.upsert(documents, embeddings)
        except (InputError, ModelOutputError) as error:
            report.rejected.append(Rejected(documents[error.index].id, str(error)))
            documents = [*documents[: error.index], *documents[error.index + 1 :]]
            continue
        report.documents += len(documents)
        report.tokens += embeddings.stats.real_tokens
        report.padded_tokens += embeddings.stats.padded_tokens
        report.truncated += int(embeddings.truncated.sum())
        return
