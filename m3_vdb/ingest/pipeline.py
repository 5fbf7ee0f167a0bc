"""Documents → encoded → stored, in one pass and bounded memory. A bad document costs itself, never the run.

One thread reads, one prepares (repeated ids, what is stored already, tokens), one encodes, one or more store (``run``).
Batches are committed in order, so that one number describes the state of a run: how many rows from the beginning are
done, that is acknowledged by the store or written to the dead letters. Within a run no id is stored twice, so no two
writers ever have versions of the same document.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as WaitedEnough
from functools import partial
from typing import Final, TypeVar

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments, text_encoding
from m3_vdb.encoding.splitter import make_splitter
from m3_vdb.ingest.batch import Batch, Item, cut_batches, read_items, split_rows
from m3_vdb.ingest.collections import SourceCollection
from m3_vdb.ingest.commit import MAX_AHEAD, DeadLetters, OrderedCommitter, letters_length
from m3_vdb.ingest.corpus import Corpus
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.ingest.prepare import Encoder, Preparer
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.ingest.report import IngestReport, Measured, Progress, note_run
from m3_vdb.ingest.run import Run
from m3_vdb.inputs import DocumentLike, read_path, whole_number
from m3_vdb.retry import Retry
from m3_vdb.stores.base import VectorStore
from m3_vdb.writer import Writer, check_parts

T = TypeVar("T")
BATCH_DOCUMENTS: Final = 256
"""Documents encoded together: enough for the packing to find neighbours of like length."""
SERVER_UPLOADS: Final = 2
"""Batches stored at the same time on a server: one travels while the other is worked on."""
_DEFAULT_RETRY: Final = Retry()
_TICK: Final = 0.1
_END: Final = object()


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
    run_key: Mapping[str, str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    engine: RayEngine | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
    stop: threading.Event | None = None,
) -> IngestReport:
    """Encode and store documents.

    Args:
        items: documents, dicts with their fields (``HybridIndex.add``), files (``Corpus``), a collection of a database
            (``SourceCollection``), and rows that a reader already rejected; read once, in a thread of its own. An id
            occurs once: of rows with the same id the first is stored, and the others are rejected ("duplicate id").
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
        checkpoint: checkpoint file; removed when the corpus is done.
        resume: resume from the checkpoint, if there is one. The corpus must be the same up to there.
        run_key: what else must be the same then, name → value; the model, the encoding, and the URL and fields of a
            ``SourceCollection`` always must.
        retry: how often a failed request to the store is repeated.
        upload_workers: batches stored at the same time; None: two for a server, one for a store in this process.
        engine: encodes elsewhere, and stores from there if the store is a server; ``embed`` then gives identity,
            tokenizer and limits only. None encodes here.
        long_documents: what becomes of documents with more tokens than the store takes rows. Where they are split,
            passages count as documents and as rows of the corpus.
        stop: when set, the run ends after the batches that are encoded, with a report that says ``interrupted``.
            Ctrl-C does the same and is raised again.

    Returns:
        Counts, and the rejected rows.

    Raises:
        StoreError: the database failed, repeatedly where that could help; batches before it are stored.
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
    rejected = None if rejected is None else read_path("rejected", rejected)
    checkpoint = None if checkpoint is None else read_path("checkpoint", checkpoint)
    if isinstance(items, Corpus):
        items.leave_out(*(path for path in (checkpoint, rejected) if path is not None))
        items.field_types = store.field_types
    encoding = text_encoding(embed) if encoding is None else encoding
    known = {"model": embed.identity.fingerprint, "encoding": encoding}
    if isinstance(items, SourceCollection):
        known |= {"source": items.url, "fields": repr(items.fields)}
    known |= run_key or {}
    if long_documents != DEFAULT_POLICY:
        known["long documents"] = repr(long_documents)
    splitter = make_splitter(embed, long_documents, store.max_rows)
    writers = uploaders if engine is not None and store.is_server else 0  # elsewhere
    uploaders = 1 if writers else uploaders
    report = IngestReport()
    rows: Iterable[Item] = read_items(items)
    rows = rows if splitter is None else split_rows(rows, splitter, report)
    encoder = Encoder(embed)
    ledger = Ledger(checkpoint, run_key=known, resume=resume, rejected_before=letters_length(rejected))
    letters = None
    try:
        run = Run(report, stop or threading.Event(), retry, uploaders=uploaders)
        if ledger.checkpoint.rows and not run.retrier.call(_still_there, store, ledger):
            ledger.restart()
            report.restarted = True
        done = ledger.checkpoint
        report.resumed = done.rows
        report.rejections.update(done.rejections)
        letters = DeadLetters(rejected, keep=done.rejected_bytes, before=done.rejected_before)
        writer = Writer(store, long_documents=long_documents, encoding=encoding, retrier=run.retrier)
        preparer = Preparer(
            encoder.tokenize if engine is None else _skip_tokenizing,
            writer,
            ledger,
            ask=run.retrier.call(store.count) > 0,
            skip_unchanged=skip_unchanged,
        )
        window = MAX_AHEAD if engine is None else engine.window
        committer = OrderedCommitter(ledger, letters, report, strict=strict, ahead=window)
        batches = cut_batches(rows, documents=batch_documents, cost=encoder.cost)
        encode = (
            partial(run.encode, encoder)
            if engine is None
            else partial(
                run.encode_with,
                engine.encode,
                committer,
                identity=store.identity,
                long_documents=long_documents,
                writers=writers,
            )
        )
        run.go(
            [
                partial(run.read, batches, items if isinstance(items, Measured) else None),
                partial(run.prepare, preparer, strict=strict),
                encode,
                *[partial(run.upload, writer, committer)] * uploaders,
            ],
            progress,
        )
        ledger.close(done=not report.interrupted)
        note_run(store, "ingest", report, interrupted=report.interrupted)
    finally:
        ledger.close(done=not ledger.checkpoint.rows)  # a checkpoint that says nothing is none
        if letters is not None:
            letters.close()
    return report


def _skip_tokenizing(batch: Batch) -> None:
    """It is the engine's."""


def _still_there(store: VectorStore, ledger: Ledger) -> bool:
    """Whether the store holds what the ledger says was done; a restored or emptied one does not."""
    done = ledger.checkpoint
    return store.count() >= done.stored_count and len(store.get(list(done.last_ids))) == len(done.last_ids)


async def async_ingest(
    items: Iterable[Item | DocumentLike] | AsyncIterable[Item | DocumentLike],
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
    run_key: Mapping[str, str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    engine: RayEngine | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
) -> IngestReport:
    """``ingest`` in a thread, with its arguments and errors; the event loop stays free.

    ``items`` may also be asynchronous, and is then read in the event loop; ``progress`` is called there. Cancelling the
    task ends the run like Ctrl-C: what is encoded is stored, the checkpoint is written, and only then the task is
    cancelled.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    source = _bridge(aiter(items), loop, stop) if isinstance(items, AsyncIterable) else items

    def tell(state: Progress) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, state)

    run = partial(
        ingest,
        source,
        embed,
        store,
        batch_documents=batch_documents,
        progress=tell,
        skip_unchanged=skip_unchanged,
        encoding=encoding,
        strict=strict,
        rejected=rejected,
        checkpoint=checkpoint,
        resume=resume,
        run_key=run_key,
        retry=retry,
        upload_workers=upload_workers,
        engine=engine,
        long_documents=long_documents,
        stop=stop,
    )
    return await awaited(run, stop)


async def awaited(run: Callable[[], T], stop: threading.Event) -> T:
    """A run in a thread; cancelling the task sets ``stop``, and the task is cancelled when the run has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        raise


def _bridge(
    items: AsyncIterator[Item | DocumentLike], loop: asyncio.AbstractEventLoop, stop: threading.Event
) -> Iterator[Item | DocumentLike]:
    """An asynchronous iterator, read from another thread."""

    async def following() -> object:
        return await anext(items, _END)

    while not stop.is_set():
        future = asyncio.run_coroutine_threadsafe(following(), loop)
        while True:
            try:
                item = future.result(timeout=_TICK)
                break
            except WaitedEnough:
                if future.done():  # the source itself raised a TimeoutError
                    raise
                if stop.is_set():
                    future.cancel()
                    return
        if item is _END:
            return
        yield item  # type: ignore[misc]  # following() gives items or _END
