"""The threads of a run: read → prepare → encode → store, joined by queues of two batches; several may store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.errors import StoreError
from m3_vdb.ingest.batch import Batch, Item
from m3_vdb.ingest.channel import Channel
from m3_vdb.ingest.encoder import Encoder
from m3_vdb.ingest.engine import Engine, Spent, Work
from m3_vdb.ingest.prepare import Preparer
from m3_vdb.ingest.report import IngestReport, Measured, Progress
from m3_vdb.ingest.retry import Patience, Retry, passes
from m3_vdb.ingest.settle import Settler, refuse
from m3_vdb.ingest.upload import store_batch
from m3_vdb.stores.base import VectorStore
from m3_vdb.writer import Writer

_QUEUED: Final = 2
_TICK: Final = 0.1


class Run:
    """The threads of one run.

    Args:
        report: times are written here.
        stop: the caller's wish to end.
        retry: for the store.
        uploaders: threads that will store.
        long_documents: what becomes of documents with more rows than the store takes.
    """

    def __init__(
        self,
        report: IngestReport,
        stop: threading.Event,
        retry: Retry,
        *,
        uploaders: int = 1,
        long_documents: LongDocuments = REFUSE,
    ) -> None:
        self._report = report
        self._uploading = uploaders
        self._stop = stop
        self._halt = threading.Event()  # the caller's wish, or a failure
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self.patience = Patience(retry, self._halt)
        self._items: Channel[list[Item]] = Channel(_QUEUED)
        self._prepared: Channel[Batch] = Channel(_QUEUED)
        self._encoded: Channel[Batch] = Channel(_QUEUED)
        self._told: Channel[Progress] = Channel(64)
        self._state = Progress(0, 0, 0.0)
        self._begun = 0.0
        self._total: int | None = None
        self._encoded_rows = self._encoded_tokens = 0
        self._encoder_done = 0.0
        self._spent: Spent | None = None
        self._retry = retry
        self._long_documents = long_documents

    def go(self, steps: list[Callable[[], None]], progress: Callable[[Progress], None] | None) -> None:
        """Run all steps until the corpus is done, the caller stops the run, or a step fails.

        Raises:
            BaseException: what a step failed with, or what ``progress`` or Ctrl-C raised here.
        """
        begun = self._begun = time.perf_counter()
        threads = [threading.Thread(target=self._guarded, args=(step,), daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        try:
            self._watch(progress)
        except BaseException:
            if not self._report.interrupted:  # else this is the second Ctrl-C, and there is no more waiting
                self._interrupt()
                self._watch(None)
            raise
        finally:
            self._measure(begun)
        for thread in threads[1:]:  # not the reader: it may wait for input that never comes
            thread.join()
        if self._failure is not None and not self._is_moot(self._failure):
            raise self._failure

    def read(self, batches: Iterable[list[Item]], source: Measured | None = None) -> None:
        """First step. If reading fails, what was read is still stored.

        Args:
            batches: of the corpus.
            source: the corpus itself, if it says how much of it was read.
        """
        rows = 0
        try:
            for batch in batches:
                rows += len(batch)
                if source is not None and source.total_bytes and source.bytes_read:
                    self._total = max(rows, round(rows * source.total_bytes / source.bytes_read))
                if self._halt.is_set() or not self._items.put(batch):
                    return
            self._total = rows
        except BaseException as error:  # raised again by ``go``
            self._note(error)
        finally:
            self._items.close()

    def prepare(self, preparer: Preparer, *, strict: bool) -> None:
        """Second step."""
        try:
            while (items := self._items.get()) is not None and not self._halt.is_set():
                batch = preparer.prepare(items)
                if batch is None:
                    continue
                if strict and batch.rejected:
                    refuse(batch)
                if not self._prepared.put(batch):
                    return
            if not self._halt.is_set() and self._failure is None:
                preparer.finish()
        finally:
            self._items.abandon()
            self._prepared.close()

    def encode(self, encoder: Encoder) -> None:
        """Third step. A batch that is being encoded is finished whatever happens; those behind it are not begun."""
        times = self._report.encoder
        try:
            while (batch := self._prepared.get()) is not None and not self._halt.is_set():
                begun = time.perf_counter()
                encoder.encode(batch, self._passed)
                times.busy += time.perf_counter() - begun
                self._encoded_rows = batch.stop
                if not self._encoded.put(batch):
                    return
        finally:
            self._encoder_done = time.perf_counter()
            self._prepared.abandon()
            self._encoded.close()

    def encode_elsewhere(self, engine: Engine, store: VectorStore, settler: Settler, *, writers: int) -> None:
        """Third step, and the work of the fourth where a server can be written to from elsewhere."""
        work = Work(
            prepared=self._prepared,
            encoded=self._encoded,
            halt=self._halt,
            identity=store.identity,
            retry=self._retry,
            long_documents=self._long_documents,
            writers=writers if store.is_server else 0,
            settled=lambda: settler.settled,
            retried=self.patience.add,
        )
        try:
            self._spent = engine.encode(work)
        finally:
            self._encoder_done = time.perf_counter()
            self._prepared.abandon()
            self._encoded.close()

    def upload(self, writer: Writer, settler: Settler) -> None:
        """Fourth step, in one thread or several. What is encoded is stored, also when the run is to end."""
        done = False
        try:
            while (batch := self._encoded.get()) is not None:
                stored = batch.stored or store_batch(writer, batch)
                batch.embeddings = None  # it may have to wait for an earlier one
                settler.settle(batch, stored, self._tell)
            done = True
        finally:
            if not done:
                self._encoded.abandon()
                settler.give_up()
            with self._lock:
                self._uploading -= 1
                last = not self._uploading
            if last:
                self._told.close()

    def _passed(self, rows: int, tokens: int) -> None:
        """A forward pass is done."""
        self._encoded_rows += rows
        self._encoded_tokens += tokens
        self._tell(self._state)

    def _tell(self, state: Progress) -> None:
        self._state = state
        self._encoded_rows = max(self._encoded_rows, state.rows)  # where they are encoded elsewhere
        self._told.put(
            replace(
                state,
                seconds=time.perf_counter() - self._begun,
                encoded_rows=self._encoded_rows,
                encoded_tokens=max(self._encoded_tokens, state.tokens),
                total_rows=self._total,
                resumed=self._report.resumed,
            )
        )

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # raised again by ``go``
            self._note(error)
            self._end()

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error

    def _end(self) -> None:
        self._halt.set()
        self._items.abandon()

    def _interrupt(self) -> None:
        self._report.interrupted = True
        self._end()

    def _is_moot(self, failure: BaseException) -> bool:
        """A store that was waited for when the caller ended the run: the checkpoint is right, and that is all."""
        return self._report.interrupted and isinstance(failure, StoreError) and passes(failure)

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Tell progress, and see the caller's wish to end, until the last batch is stored."""
        while True:
            with suppress(TimeoutError):
                state = self._told.get(timeout=_TICK)
                if state is None:
                    return
                if progress is not None:
                    progress(state)
            if self._stop.is_set() and not self._report.interrupted:
                self._interrupt()

    def _measure(self, begun: float) -> None:
        ended, times = time.perf_counter(), self._report.encoder
        self._report.seconds = ended - begun
        self._report.retries = self.patience.retries
        times.waiting_for_store = self._encoded.put_seconds + max(0.0, ended - (self._encoder_done or ended))
        if self._spent is not None:
            times.busy = min(self._spent.busy, self._report.seconds)
            idle = self._report.seconds - times.busy
            times.waiting_for_store += self._spent.storing
            times.waiting_for_store = min(times.waiting_for_store, max(0.0, idle - self._spent.waiting_for_input))
        times.waiting_for_input = max(0.0, self._report.seconds - times.busy - times.waiting_for_store)
