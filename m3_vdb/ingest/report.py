"""Progress during a run, and the report at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final, Protocol, runtime_checkable

from m3_vdb.ingest.rows import DUPLICATE, Rejected
from m3_vdb.stores import VectorStore

REJECTED_KEPT: Final = 10_000
"""Rejected rows that a report holds itself; all are counted, and all are in the dead-letter file."""


@runtime_checkable
class Measured(Protocol):
    """A corpus that knows how much of it was read.

    Attributes:
        total_bytes: size of the whole, in any unit; None if it is not known.
        bytes_read: how much of it was read.
    """

    total_bytes: int | None
    bytes_read: int


def note_run(store: VectorStore, command: str, report: IngestReport, *, interrupted: bool, **more: str) -> None:
    """Note with a collection the run that ended; not one that was interrupted."""
    if not interrupted:
        numbers = {"documents": report.documents, "rejected": report.rejected_count}
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        store.note_run({"command": command, **more, **numbers, "time": time})


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run, after each forward pass and each batch.

    Attributes:
        documents: documents stored.
        tokens: tokens of the documents stored.
        seconds: since the start.
        rows: rows that are done, whatever became of them.
        unchanged: documents that the store held already.
        rejected: rows that were not stored.
        encoded_rows: rows that are encoded, or need not be; some of them are still to be stored.
        encoded_tokens: tokens encoded.
        total_rows: rows of the corpus, estimated until it is read to its end; None if its size is not known.
        resumed: rows that were done before this run began.
    """

    documents: int
    tokens: int
    seconds: float
    rows: int = 0
    unchanged: int = 0
    rejected: int = 0
    encoded_rows: int = 0
    encoded_tokens: int = 0
    total_rows: int | None = None
    resumed: int = 0

    @property
    def seconds_left(self) -> float | None:
        """Time until everything is encoded, at the rate so far; None if it cannot be said."""
        done = self.encoded_rows - self.resumed
        if self.total_rows is None or done <= 0:
            return None
        return max(0, self.total_rows - self.encoded_rows) * self.seconds / done


@dataclass(slots=True)
class EncoderTime:
    """Where the encoder's time went, in seconds; the three add up to the run.

    Attributes:
        busy: encoding.
        waiting_for_input: nothing to encode: reading, asking the store what it holds, and tokenizing are slower.
        waiting_for_store: nowhere to put it: storing is slower. What is stored after the last text counts here too.
    """

    busy: float = 0.0
    waiting_for_input: float = 0.0
    waiting_for_store: float = 0.0

    @property
    def busy_share(self) -> float:
        """Share of the run in which the encoder worked."""
        total = self.busy + self.waiting_for_input + self.waiting_for_store
        return self.busy / total if total else 0.0

    @property
    def bottleneck(self) -> str:
        """The side that a faster run would need to be faster: "encoder", "input" or "store"."""
        sides = {"encoder": self.busy, "input": self.waiting_for_input, "store": self.waiting_for_store}
        return max(sides, key=lambda side: sides[side])


@dataclass(slots=True)
class IngestReport:
    """What a run did.

    Attributes:
        documents: documents stored; each was acknowledged by the store.
        tokens: tokens encoded.
        padded_tokens: tokens computed, padding included.
        truncated: documents that were longer than the model's maximum.
        long_documents: documents with more tokens than fit as rows, which were pooled, cut or split as planned; of
            those to be split all that were read, whether or not they were stored before.
        seconds: wall time.
        rejected: rows that were not stored, with reasons: the first ten thousand of this run, without the rows' text.
        unchanged: documents that the store held already, encoded in the same way.
        resumed: rows that were done before this run began (``resume``).
        rejections: rejected rows by kind, those before an interruption included.
        retries: requests to the store that were made again.
        encoder: where the encoder's time went.
        interrupted: the run was stopped; what is counted here is stored.
        restarted: the store no longer held what the checkpoint said, so every document was checked again.
    """

    documents: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    long_documents: int = 0
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)
    unchanged: int = 0
    resumed: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    encoder: EncoderTime = field(default_factory=EncoderTime)
    interrupted: bool = False
    restarted: bool = False

    @property
    def rejected_count(self) -> int:
        """Rejected rows, those before an interruption included."""
        return sum(self.rejections.values())

    @property
    def duplicates(self) -> int:
        """Rows that were set aside because an earlier row has their id."""
        return self.rejections[DUPLICATE]

    def as_dict(self) -> dict[str, Any]:
        """Counts and rates as plain JSON values."""
        seconds = max(self.seconds, 1e-9)
        names = ("documents", "unchanged", "resumed", "tokens", "padded_tokens", "truncated", "long_documents")
        return {name: getattr(self, name) for name in (*names, "retries", "interrupted")} | {
            "restarted": self.restarted,
            "rejected": self.rejected_count,
            "rejections": dict(self.rejections),
            "seconds": round(self.seconds, 3),
            "documents_per_s": round(self.documents / seconds, 2),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "encoder_busy": round(self.encoder.busy / seconds, 4),
            "encoder_waiting_for_input": round(self.encoder.waiting_for_input / seconds, 4),
            "encoder_waiting_for_store": round(self.encoder.waiting_for_store / seconds, 4),
            "bottleneck": self.encoder.bottleneck,
        }
