"""From a collection that has dense vectors alone into one that has all three.

The source is read and never written. Its points cannot become ours in place: ours have ids made from the document's id,
a payload of fixed layout, and the model's identity in the collection, which is what ``get``, ``delete``, filters and
the check of the model rest on. So the new collection grows beside the old one, which serves on; an alias then moves.
All three vectors come from one pass of the model, so the dense ones are made again, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.ingest.collections import SourceCollection
from m3_vdb.ingest.pipeline import BATCH_DOCUMENTS, ingest
from m3_vdb.ingest.report import IngestReport, Progress
from m3_vdb.ingest.retry import Retry
from m3_vdb.stores.base import VectorStore

_DEFAULT_RETRY: Final = Retry()


def backfill(
    source: SourceCollection,
    embed: Embedder,
    store: VectorStore,
    *,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    strict: bool = False,
    rejected: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    ties: Mapping[str, str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    long_documents: LongDocuments = REFUSE,
    stop: threading.Event | None = None,
) -> IngestReport:
    """Encode the documents of a collection and store them, with all three vectors, in another.

    It is an ``ingest`` whose corpus is the collection: what the target holds unchanged is not encoded again, and an
    interrupted run goes on from its checkpoint. If points came or went meanwhile before the place where it stopped, the
    checkpoint says so; a run without ``resume`` then only encodes what is missing.

    Args:
        source: what is read.
        embed: makes the vectors.
        store: keeps them.
        batch_documents: see ``ingest``, like all that follow.
        progress: called after each batch.
        strict: end the run at the first point that is no document.
        rejected: file for such points.
        checkpoint: file that says how far the run is.
        resume: go on from the checkpoint.
        ties: what must be the same then, besides the model, the source and its fields.
        retry: how often a failing store is asked again.
        long_documents: what becomes of documents with more tokens than the store takes rows.
        stop: when set, the run ends.

    Returns:
        Counts, and the rejected points.

    Raises:
        M3Error: as ``ingest``, and as ``SourceCollection`` where the source fails.
        OSError: as ``ingest``.
    """
    return ingest(
        source,
        embed,
        store,
        batch_documents=batch_documents,
        progress=progress,
        strict=strict,
        rejected=rejected,
        checkpoint=checkpoint,
        resume=resume,
        ties={"source": source.url, "fields": repr(source.fields), **(ties or {})},
        retry=retry,
        long_documents=long_documents,
        stop=stop,
    )
