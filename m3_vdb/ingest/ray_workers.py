"""The stages of a Ray Data job: actors that encode, and actors that store. What they pass on is pickled, one row each.

An exception never leaves a stage: Ray would end the job with its own words for it. It travels to the driver as a
``Failure``, which raises what the same fault raises without Ray.
"""

from __future__ import annotations

import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa  # type: ignore[import-untyped]
import ray

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import EngineError, M3Error, StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.ingest.batch import Batch, Stored, Waiting
from m3_vdb.ingest.encoder import Encoder
from m3_vdb.ingest.ray_feed import DATA, GONE, NUMBER, Halted, message
from m3_vdb.ingest.retry import Patience, Retry, retry_after, status
from m3_vdb.ingest.upload import store_batch
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document, M3Embeddings
from m3_vdb.writer import Writer

if TYPE_CHECKING:
    from ray.actor import ActorHandle

DEATHS: Final = 5
"""A batch that kills its worker so often ends the run; Ray would give it to another one for ever."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that no document is to blame for, fit to travel.

    Attributes:
        message: its own words.
        kind: "connection" and "request" for those of a store, else "other".
        status: HTTP status of a refusal.
        retry_after: seconds that the store asked for.
    """

    message: str
    kind: str = "other"
    status: int | None = None
    retry_after: float = 0.0

    @classmethod
    def of(cls, error: Exception, where: str) -> Failure:
        """The failure behind an exception.

        Args:
            error: just caught.
            where: what failed, in words.
        """
        if isinstance(error, StoreConnectionError):
            return cls(str(error), "connection", retry_after=retry_after(error))
        if isinstance(error, StoreRequestError):
            return cls(str(error), "request", status(error), retry_after(error))
        if isinstance(error, M3Error):
            return cls(f"{where}: {error}")
        last = traceback.extract_tb(error.__traceback__)[-1]
        return cls(f"{where}: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})")

    def error(self) -> StoreError | EngineError:
        """The exception to raise."""
        if self.kind == "connection":
            return StoreConnectionError(self.message, retry_after=self.retry_after)
        if self.kind == "request":
            return StoreRequestError(self.message, status=self.status, retry_after=self.retry_after)
        return EngineError(self.message)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch so far.

    Attributes:
        rows: (place, document) that are encoded and not stored.
        outdated: id of a row → passages of its older version that the new one has not.
        embeddings: of these.
        rejected: (place, kind, reason) of others.
        stored: what the store said, once it has.
        failure: why there is nothing else here.
        skipped: the run is to end, and the batch was not begun.
        encoding: seconds.
        storing: seconds.
        retries: requests to the store that were made again.
    """

    rows: tuple[tuple[int, Document], ...] = ()
    outdated: Mapping[str, list[str]] = field(default_factory=dict)
    embeddings: M3Embeddings | None = None
    rejected: tuple[tuple[int, str, str], ...] = ()
    stored: Stored | None = None
    failure: Failure | None = None
    skipped: bool = False
    encoding: float = 0.0
    storing: float = 0.0
    retries: int = 0


def pack(batch: Batch) -> bytes:
    """A prepared batch, as the first stage takes it."""
    return pickle.dumps(([(row.place, row.document) for row in batch.waiting], batch.outdated))


def unpack(table: pa.Table) -> tuple[int, Outcome | None]:
    """(number, outcome) of a row of the last stage; None if the batch was done before."""
    number, data = _row(table)
    return number, None if data == GONE else cast("Outcome", pickle.loads(data))


class EncodeStage:
    """An encoder on a worker.

    Calls come from two threads: one text is tokenized while another is encoded.

    Args:
        make: makes the embedding function.
        identity: the model that it must be.
        feed: handle of the feed.
        keep: whether documents travel on, to be stored by the next stage.
    """

    def __init__(
        self, make: Callable[[], Embedder], identity: ModelIdentity, feed: ActorHandle[Any], *, keep: bool
    ) -> None:
        self._feed = feed
        self._keep = keep
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        try:
            embed = make()
            embed.identity.require_same(identity, where="the driver's model")
            self._encoder = Encoder(embed)
        except Exception as error:
            self._failure = Failure.of(error, "a worker cannot open the model")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Encode one batch."""
        number, data = _row(table)
        if data == GONE:
            return message(number, GONE)
        rows, outdated = pickle.loads(data)
        return message(number, pickle.dumps(self._encode(number, rows, outdated)))

    def _encode(self, number: int, rows: list[tuple[int, Document]], outdated: dict[str, list[str]]) -> Outcome:
        if self._failure is not None:
            return Outcome(failure=self._failure)
        times = ray.get(self._feed.begin.remote("encode", number))
        if times == 0:
            return Outcome(skipped=True)
        if times > DEATHS:
            return Outcome(failure=Failure(_deadly("encoded", rows)))
        batch = _batch(rows)
        try:
            self._encoder.tokenize(batch)
            with self._lock:
                begun = time.perf_counter()
                self._encoder.encode(batch)
                seconds = time.perf_counter() - begun
        except Exception as error:
            return Outcome(failure=Failure.of(error, "a worker cannot encode a batch"))
        kept = tuple((row.place, row.document) for row in batch.waiting) if self._keep else ()
        return Outcome(kept, outdated, batch.embeddings, _rejected(batch), encoding=seconds)


class StoreStage:
    """A connection to the store on a worker.

    Args:
        open_store: opens the collection.
        feed: handle of the feed.
        retry: how often the store is asked again.
        long_documents: what becomes of documents with more rows than the store takes.
    """

    def __init__(
        self,
        open_store: Callable[[], VectorStore],
        feed: ActorHandle[Any],
        retry: Retry,
        long_documents: LongDocuments,
    ) -> None:
        self._long_documents = long_documents
        self._open = open_store
        self._feed = feed
        self._store: VectorStore | None = None
        self._patience = Patience(retry, Halted(feed))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Store one batch."""
        number, data = _row(table)
        if data == GONE:
            return message(number, GONE)
        outcome = cast("Outcome", pickle.loads(data))
        if outcome.failure is None and not outcome.skipped:
            times = ray.get(self._feed.begin.remote("store", number))
            deadly = times > DEATHS and outcome.rows
            outcome = Outcome(failure=Failure(_deadly("stored", outcome.rows))) if deadly else self._write(outcome)
        return message(number, pickle.dumps(outcome))

    def _write(self, outcome: Outcome) -> Outcome:
        begun, before = time.perf_counter(), self._patience.retries
        batch = _batch(outcome.rows)
        batch.embeddings, batch.outdated = outcome.embeddings, dict(outcome.outdated)
        try:
            if self._store is None:  # here, where a server that is away is waited for
                self._store = self._patience.call(self._open)
            request = self._patience.call
            stored = store_batch(Writer(self._store, long_documents=self._long_documents, request=request), batch)
        except Exception as error:
            return Outcome(failure=Failure.of(error, "a worker cannot store a batch"))
        return replace(
            outcome,
            rows=(),
            outdated={},
            embeddings=None,
            rejected=(*outcome.rejected, *_rejected(batch)),
            stored=stored,
            storing=time.perf_counter() - begun,
            retries=self._patience.retries - before,
        )


def _deadly(done: str, rows: Sequence[tuple[int, Document]]) -> str:
    return (
        f"{DEATHS} workers died while they {done} a batch that begins with document {rows[0][1].id!r}: not enough "
        f"memory? Ask for fewer documents in a batch, or for encoders of more CPUs"
    )


def _row(table: pa.Table) -> tuple[int, bytes]:
    return table[NUMBER][0].as_py(), table[DATA][0].as_buffer().to_pybytes()


def _batch(rows: Sequence[tuple[int, Document]]) -> Batch:
    return Batch(stop=0, waiting=[Waiting(place, document, document) for place, document in rows])


def _rejected(batch: Batch) -> tuple[tuple[int, str, str], ...]:
    return tuple((place, one.kind, one.reason) for place, one in batch.rejected)
