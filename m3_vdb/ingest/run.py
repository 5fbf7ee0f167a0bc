"""The threads of a run: read → prepare → encode → store, joined by channels of two batches; several may store.

Encoding, and storing on a server, may happen elsewhere (``RayEngine``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import StoreError
from m3_vdb.ingest.batch import Batch, Item, Stored
from m3_vdb.ingest.commit import OrderedCommitter, refuse
from m3_vdb.ingest.prepare import Encoder, Preparer
from m3_vdb.ingest.report import IngestReport, Measured, Progress
from m3_vdb.retry import Retrier, Retry, is_transient
from m3_vdb.writer import Writer

T = TypeVar("T")
_QUEUED: Final = 2
_TICK: Final = 0.1


class Channel(Generic[T]):
    """Items in order, from one thread to another: bounded, closed by either end, and it knows who waited.

    Args:
        size: items held; ``put`` waits beyond.

    Attributes:
        put_seconds: time spent in waiting to put.
        get_seconds: time spent in waiting to get.
    """

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._changed = threading.Condition()
        self._closed = False
        self.put_seconds = 0.0
        self.get_seconds = 0.0

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False if the channel is closed: nobody will take it."""
        with self._changed:
            begun = time.perf_counter()
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            self.put_seconds += time.perf_counter() - begun
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self, timeout: float | None = None) -> T | None:
        """The next item, waiting for it; None if the channel is closed and empty.

        Raises:
            TimeoutError: nothing happened for ``timeout`` seconds.
        """
        with self._changed:
            begun = time.perf_counter()
            happened = self._changed.wait_for(lambda: self._closed or bool(self._items), timeout)
            self.get_seconds += time.perf_counter() - begun
            if not happened:
                raise TimeoutError
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """No more items; those inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more items, and those inside are dropped."""
        with self._changed:
            self._items.clear()
            self.close()


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is given, and where it leaves what is done.

    Attributes:
        prepared: batches in order, their rows checked; not tokenized.
        encoded: takes each batch, in any order, with ``embeddings`` (to be stored here) or ``stored``.
        halt: set when the run is to end: no further batch is begun, those that are begun are finished.
        identity: the model that the vectors must be of.
        retry: for a store that is written to from elsewhere.
        long_documents: likewise.
        writers: batches stored at the same time elsewhere; 0: the store is written to here.
        committed: the number of batches that are done; an engine keeps less than its window beyond.
        retried: called with the number of requests to the store that were repeated.
    """

    prepared: Channel[Batch]
    encoded: Channel[Batch]
    halt: threading.Event
    identity: ModelIdentity
    retry: Retry
    long_documents: LongDocuments
    writers: int
    committed: Callable[[], int]
    retried: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """Where an engine's time went, in seconds.

    Attributes:
        busy: encoding, on the average of the encoders.
        waiting_for_input: until the workers were there, and with nothing prepared.
        storing: storing elsewhere, on the average of the writers.
    """

    busy: float
    waiting_for_input: float
    storing: float


class Run:
    """The threads of one run.

    Args:
        report: times are written here.
        stop: the caller's wish to end.
        retry: for the store.
        uploaders: threads that will store.
    """

    def __init__(self, report: IngestReport, stop: threading.Event, retry: Retry, *, uploaders: int = 1) -> None:
        self._report = report
        self._uploading = uploaders
        self._stop = stop
        self._halt = threading.Event()  # the caller's wish, or a failure
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._retry = retry
        self.retrier = Retrier(retry, self._halt)
        self._items: Channel[list[Item]] = Channel(_QUEUED)
        self._prepared: Channel[Batch] = Channel(_QUEUED)
        self._encoded: Channel[Batch] = Channel(_QUEUED)
        self._states: Channel[Progress] = Channel(64)
        self._state = Progress(0, 0, 0.0)
        self._begun = 0.0
        self._total: int | None = None
        self._encoded_rows = self._encoded_tokens = 0
        self._encoder_done = 0.0
        self._timings: EngineTimings | None = None

    def go(self, steps: Sequence[Callable[[], None]], progress: Callable[[Progress], None] | None) -> None:
        """Run all steps until the corpus is done, the caller stops the run, or a step fails.

        Args:
            steps: the methods below, each for a thread; that of ``read`` is the first.
            progress: called here with each state.

        Raises:
            BaseException: what a step failed with, or what ``progress`` or Ctrl-C raised here.
        """
        self._begun = time.perf_counter()
        threads = [threading.Thread(target=step, daemon=True) for step in steps]
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
            self._measure()
        for thread in threads[1:]:  # not the reader: it may wait for input that never comes
            thread.join()
        if self._failure is not None and not self._ignorable_after_interrupt(self._failure):
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
        with self._guarded(self._items, self._prepared):
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

    def encode(self, encoder: Encoder) -> None:
        """Third step. A batch that is being encoded is finished whatever happens; those behind it are not begun."""
        times = self._report.encoder
        with self._guarded(self._prepared, self._encoded):
            while (batch := self._prepared.get()) is not None and not self._halt.is_set():
                begun = time.perf_counter()
                encoder.encode(batch, self._passed)
                times.busy += time.perf_counter() - begun
                self._encoded_rows = batch.stop
                if not self._encoded.put(batch):
                    return

    def encode_with(
        self,
        engine: Callable[[Work], EngineTimings],
        committer: OrderedCommitter,
        *,
        identity: ModelIdentity,
        long_documents: LongDocuments,
        writers: int,
    ) -> None:
        """Third step, and the work of the fourth where a server can be written to from elsewhere."""
        work = Work(
            prepared=self._prepared,
            encoded=self._encoded,
            halt=self._halt,
            identity=identity,
            retry=self._retry,
            long_documents=long_documents,
            writers=writers,
            committed=lambda: committer.committed,
            retried=self.retrier.add,
        )
        with self._guarded(self._prepared, self._encoded):
            self._timings = engine(work)

    def upload(self, writer: Writer, committer: OrderedCommitter) -> None:
        """Fourth step, in one thread or several. What is encoded is stored, also when the run is to end."""
        try:
            while (batch := self._encoded.get()) is not None:
                if batch.embeddings is not None:
                    batch.set_stored(
                        writer.write(batch.documents, batch.embeddings, batch.outdated, refuse=batch.refuse)
                    )
                committer.commit(batch, batch.stored or Stored(), self._tell)
        except BaseException as error:  # raised again by ``go``
            self._fail(error)
            self._encoded.abandon()
            committer.give_up()
        finally:
            with self._lock:
                self._uploading -= 1
                last = not self._uploading
            if last:
                self._states.close()

    @contextmanager
    def _guarded(self, taken: Channel[T], given: Channel[Batch]) -> Iterator[None]:
        """A step between two channels: its failure ends the run, and its end is that of both."""
        try:
            yield
        except BaseException as error:  # raised again by ``go``
            self._fail(error)
        finally:
            if given is self._encoded:
                self._encoder_done = time.perf_counter()
            taken.abandon()
            given.close()

    def _passed(self, rows: int, tokens: int) -> None:
        """A forward pass is done."""
        self._encoded_rows += rows
        self._encoded_tokens += tokens
        self._tell(self._state)

    def _tell(self, state: Progress) -> None:
        self._state = state
        self._encoded_rows = max(self._encoded_rows, state.rows)  # where they are encoded elsewhere
        self._states.put(
            replace(
                state,
                seconds=time.perf_counter() - self._begun,
                encoded_rows=self._encoded_rows,
                encoded_tokens=max(self._encoded_tokens, state.tokens),
                total_rows=self._total,
                resumed=self._report.resumed,
            )
        )

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error

    def _fail(self, error: BaseException) -> None:
        self._note(error)
        self._end()

    def _end(self) -> None:
        self._halt.set()
        self._items.abandon()

    def _interrupt(self) -> None:
        self._report.interrupted = True
        self._end()

    def _ignorable_after_interrupt(self, failure: BaseException) -> bool:
        """Whether it is a store that was waited for when the caller ended the run: the checkpoint is right."""
        return self._report.interrupted and isinstance(failure, StoreError) and is_transient(failure)

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Tell progress, and see the caller's wish to end, until the last batch is stored."""
        while True:
            with suppress(TimeoutError):
                state = self._states.get(timeout=_TICK)
                if state is None:
                    return
                if progress is not None:
                    progress(state)
            if self._stop.is_set() and not self._report.interrupted:
                self._interrupt()

    def _measure(self) -> None:
        ended, times = time.perf_counter(), self._report.encoder
        seconds = self._report.seconds = ended - self._begun
        self._report.retries = self.retrier.retries
        times.waiting_for_store = self._encoded.put_seconds + max(0.0, ended - (self._encoder_done or ended))
        if self._timings is not None:
            times.busy = min(self._timings.busy, seconds)
            times.waiting_for_store = min(
                times.waiting_for_store + self._timings.storing,
                max(0.0, seconds - times.busy - self._timings.waiting_for_input),
            )
        times.waiting_for_input = max(0.0, seconds - times.busy - times.waiting_for_store)
