"""What runs on the machines of a Ray cluster: encoders, and writers to a server.

An exception never leaves a worker: it comes back as a value, as what the same fault raises without Ray.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import EngineError, M3Error, StoreConnectionError, StoreRequestError
from m3_vdb.ingest.batch import Batch
from m3_vdb.ingest.prepare import Encoder
from m3_vdb.retry import Retrier, Retry
from m3_vdb.stores.base import VectorStore
from m3_vdb.writer import Writer


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker says of a batch, beside the batch.

    Attributes:
        failure: why it is not done.
        seconds: of encoding, or of storing.
        retries: requests to the store that were made again.
    """

    failure: M3Error | None = None
    seconds: float = 0.0
    retries: int = 0


def _failure(error: Exception, where: str) -> M3Error:
    """The error to raise in the driver for one that was just caught here; what a store says survives whole."""
    if isinstance(error, (StoreConnectionError, StoreRequestError)):
        return error
    if isinstance(error, M3Error):
        return EngineError(f"{where}: {error}")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return EngineError(f"{where}: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})")


class EncodeWorker:
    """An encoder on a worker; two threads call it, so that one text is tokenized while another is encoded."""

    def __init__(self, make: Callable[[], Embedder], identity: ModelIdentity) -> None:
        self._lock = threading.Lock()
        self._failure: M3Error | None = None
        try:
            embed = make()
            embed.identity.require_same(identity, where="the driver's model")
            self._encoder = Encoder(embed)
        except Exception as error:
            self._failure = _failure(error, "a worker cannot open the model")

    def work(self, batch: Batch) -> tuple[Done, Batch]:
        """Encode one batch."""
        if self._failure is not None:
            return Done(self._failure), batch
        try:
            self._encoder.tokenize(batch)
            with self._lock:
                begun = time.perf_counter()
                self._encoder.encode(batch)
                return Done(seconds=time.perf_counter() - begun), batch
        except Exception as error:
            return Done(_failure(error, "a worker cannot encode a batch")), batch


class StoreWorker:
    """A connection to the store on a worker; ``halt`` is called while it works."""

    def __init__(self, open_store: Callable[[], VectorStore], retry: Retry, long_documents: LongDocuments) -> None:
        self._open = open_store
        self._long_documents = long_documents
        self._halt = threading.Event()
        self._retrier = Retrier(retry, self._halt)
        self._writer: Writer | None = None
        self._lock = threading.Lock()

    def halt(self) -> None:
        """The run is to end: no more waiting for a store that is away."""
        self._halt.set()

    def work(self, batch: Batch) -> tuple[Done, Batch]:
        """Store one batch; its vectors and texts stay here."""
        with self._lock:
            begun, before = time.perf_counter(), self._retrier.retries
            try:
                if self._writer is None:  # here, where a server that is away is waited for
                    store = self._retrier.call(self._open)
                    self._writer = Writer(store, long_documents=self._long_documents, retrier=self._retrier)
                if batch.embeddings is not None:
                    batch.set_stored(
                        self._writer.write(batch.documents, batch.embeddings, batch.outdated, refuse=batch.refuse)
                    )
            except Exception as error:
                return Done(_failure(error, "a worker cannot store a batch")), Batch(stop=0)
            done = Done(seconds=time.perf_counter() - begun, retries=self._retrier.retries - before)
            return done, replace(batch, waiting=[])
