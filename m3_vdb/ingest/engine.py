"""What encodes a run elsewhere than in this process: the seam that ``RayEngine`` fills."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.ingest.batch import Batch
from m3_vdb.ingest.channel import Channel
from m3_vdb.ingest.retry import Retry


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
        settled: the number of batches that are done; the engine keeps less than its ``window`` beyond.
        retried: is told of requests to the store that were made again.
    """

    prepared: Channel[Batch]
    encoded: Channel[Batch]
    halt: threading.Event
    identity: ModelIdentity
    retry: Retry
    long_documents: LongDocuments
    writers: int
    settled: Callable[[], int]
    retried: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Spent:
    """Where an engine's time went, in seconds.

    Attributes:
        busy: encoding, on the average of the encoders.
        waiting_for_input: until the workers were there, and with nothing prepared.
        storing: storing elsewhere, on the average of the writers.
    """

    busy: float
    waiting_for_input: float
    storing: float


class Engine(Protocol):
    """Encodes batches elsewhere."""

    @property
    def window(self) -> int:
        """Batches between being prepared and being settled, at most."""
        ...

    def encode(self, work: Work) -> Spent:
        """Encode everything that is prepared; returns when the last batch is handed on.

        Raises:
            StoreError: the store failed, where it is written to from elsewhere.
            EngineError: a worker, or all of them, failed.
        """
        ...
