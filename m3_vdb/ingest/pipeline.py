"""Documents → encoded → stored, in one pass and bounded memory. A bad document costs itself, never the run.

One thread reads, one prepares (repeated ids, what is stored already, tokens), one encodes, one or more store (``run``).
Batches are settled in order, so that one number says how far a run is: the first so many rows of the corpus are done,
that is acknowledged by the store or written to the dead letters. Within a run no id is stored twice, so no two writers
ever have versions of the same document.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments, text_encoding
from m3_vdb.encoding.splitter import make_splitter
from m3_vdb.ingest.batch import Batch, Item, cut, read_items
from m3_vdb.ingest.corpus import Corpus
from m3_vdb.ingest.dead_letters import DeadLetters, letters_length
from m3_vdb.ingest.encoder import Encoder
from m3_vdb.ingest.engine import Engine
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.prepare import Preparer
from m3_vdb.ingest.report import IngestReport, Measured, Progress
from m3_vdb.ingest.retry import Retry
from m3_vdb.ingest.run import Run
from m3_vdb.ingest.settle import AHEAD, Settler
from m3_vdb.ingest.splitting import split_rows
from m3_vdb.inputs import DocumentLike, read_path, whole_number
from m3_vdb.stores.base import VectorStore
from m3_vdb.writer import Writer, check_parts

BATCH_DOCUMENTS: Final = 256
"""Documents encoded together: enough for the packing to find neighbours of like length."""
SERVER_UPLOADS: Final = 2
"""Batches stored at the same time on a server: one travels while the other is worked on."""
_DEFAULT_RETRY: Final = Retry()


def ingest(
    items: Iterable[Item | DocumentLike],
    embed: Embedder,
    store: VectorStore,
    *,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    skip_unchanged: bool = True,
    encoding: str | None = None,
    strict: bool = False,
    rejected: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ties: Mapping[str, str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    engine: Engine | None = None,
    long_documents: LongDocuments = REFUSE,
    stop: threading.Event | None = None,
) -> IngestReport:
    """Encode and store documents.

    Args:
        items: documents, dicts with their fields (``HybridIndex.add``), or rows (``Corpus``), and rows that a reader
            already rejected; read once, in a thread of its own. Of rows with the same id the first is stored, and the
            others are rejected.
        embed: makes the vectors.
        store: keeps them.
        batch_documents: documents encoded together.
        progress: called after each forward pass and each batch, in the caller's thread.
        skip_unchanged: leave out documents that the store holds already, with the same title, text, payload and
            encoding (the model is the collection's).
        encoding: how texts are encoded, kept as ``Document.encoding``; None says it where that is not the model's own
            way (a smaller ``max_length``), "" never does.
        strict: end the run at the first row that cannot be stored.
        rejected: file for such rows (JSON lines); those of earlier runs stay in it.
        checkpoint: file that says how far the run is; removed when the corpus is done.
        resume: go on from the checkpoint, if there is one. The corpus must be the same up to there.
        ties: what else must be the same then, name → value; the model and the encoding always must.
        retry: how often a failing store is asked again.
        upload_workers: batches stored at the same time; None: two for a server, one for a store in this process.
        engine: encodes elsewhere, and stores from there if the store is a server (``RayEngine``); ``embed`` is then
            asked for identity and marks only. None encodes here.
        long_documents: what becomes of documents with more tokens than the store takes rows. Where they are split,
            passages count as documents and as rows of the corpus.
        stop: when set, the run ends after the batches that are encoded, with a report that says ``interrupted``.
            Ctrl-C does the same and is raised again.

    Returns:
        Counts, and the rejected rows.

    Raises:
        StoreError: the database failed and asking again did not help; batches before it are stored.
        ConfigError: an argument is out of range, the checkpoint belongs to another run, or a file to write to is one
            of the corpus or of somebody else.
        DocumentError: a row was rejected and the run is strict.
        EngineError: the engine failed; batches before it are stored.
        OSError: checkpoint or dead letters cannot be written.
    """
    check_parts(embed, store)
    batch_documents = whole_number("batch_documents", batch_documents, least=1)
    uploaders = upload_workers if upload_workers is not None else SERVER_UPLOADS if store.is_server else 1
    uploaders = whole_number("upload_workers", uploaders, least=1)
    rejected = rejected if rejected is None else read_path("rejected", rejected)
    checkpoint = checkpoint if checkpoint is None else read_path("checkpoint", checkpoint)
    source = items if isinstance(items, Measured) else None
    if isinstance(items, Corpus):
        items.leave_out(*(path for path in (checkpoint, rejected) if path is not None))
        items.field_types = store.field_types
    rows: Iterable[Item] = read_items(items)
    writers, uploaders = uploaders, uploaders if engine is None or not store.is_server else 1
    encoder = Encoder(embed)
    encoding = text_encoding(embed) if encoding is None else encoding
    known = {"model": embed.identity.fingerprint, "encoding": encoding, **(ties or {})}
    if long_documents != REFUSE:
        known["long documents"] = repr(long_documents)
    splitter = make_splitter(embed, long_documents, store.max_rows)
    report = IngestReport()
    rows = rows if splitter is None else split_rows(rows, splitter, report)
    ledger = Ledger(checkpoint, ties=known, resume=resume, rejected_before=letters_length(rejected))
    letters = None
    try:
        run = Run(report, stop or threading.Event(), retry, uploaders=uploaders, long_documents=long_documents)
        if ledger.settled.rows and not run.patience.call(lambda: _still_there(store, ledger)):
            ledger.restart()
            report.restarted = True
        report.resumed = ledger.settled.rows
        report.rejections.update(ledger.settled.rejections)
        letters = DeadLetters(rejected, keep=ledger.settled.rejected_bytes, before=ledger.settled.rejected_before)
        writer = Writer(store, long_documents=long_documents, encoding=encoding, request=run.patience.call)
        preparer = Preparer(
            encoder.tokenize if engine is None else _leave,
            writer,
            ledger,
            ask=run.patience.call(store.count) > 0,
            skip_unchanged=skip_unchanged,
        )
        settler = Settler(ledger, letters, report, strict=strict, ahead=AHEAD if engine is None else engine.window)
        run.go(
            [
                lambda: run.read(cut(rows, documents=batch_documents, cost=encoder.cost), source),
                lambda: run.prepare(preparer, strict=strict),
                lambda: (
                    run.encode(encoder)
                    if engine is None
                    else run.encode_elsewhere(engine, store, settler, writers=writers)
                ),
                *[lambda: run.upload(writer, settler)] * uploaders,
            ],
            progress,
        )
        ledger.close(done=not report.interrupted)
    finally:
        ledger.close(done=not ledger.settled.rows)  # a checkpoint that says nothing is none
        if letters is not None:
            letters.close()
    return report


def _leave(batch: Batch) -> None:
    """Tokenizing is the engine's."""


def _still_there(store: VectorStore, ledger: Ledger) -> bool:
    """Whether the store holds what the ledger says was done; a restored or emptied one does not."""
    settled = ledger.settled
    return store.count() >= settled.held and len(store.get(list(settled.witnesses))) == len(settled.witnesses)
