"""Stored batches → dead letters and ledger, in the order of the corpus, whatever order they were stored in."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from m3_vdb.errors import DocumentError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.dead_letters import DeadLetters
from m3_vdb.ingest.ledger import Ledger, Settled
from m3_vdb.ingest.report import REJECTED_KEPT, IngestReport, Progress
from m3_vdb.ingest.rows import Rejected

AHEAD: Final = 4
_WITNESSES: Final = 8


class Settler:
    """Settles batches in order: a batch that was stored before an earlier one waits here for it.

    Several threads may call it. The ledger always speaks of a beginning of the corpus, as with one writer.
    Batches that wait when a run ends are stored and not settled; a resumed run finds them by asking the store.

    Args:
        ledger: is told what is done, after it is done.
        letters: takes the rejected rows, before the ledger is told.
        report: counts.
        strict: whether a rejected row ends the run.
        ahead: batches that may wait; whoever brings one more is held up, so that memory has a bound.

    Attributes:
        settled: batches that are done: the first so many.
    """

    def __init__(
        self, ledger: Ledger, letters: DeadLetters, report: IngestReport, *, strict: bool, ahead: int = AHEAD
    ) -> None:
        self._ledger = ledger
        self._letters = letters
        self._report = report
        self._strict = strict
        self._begun = time.perf_counter()
        self._ahead = ahead
        self._changed = threading.Condition()
        self._waiting: dict[int, tuple[Batch, Stored]] = {}
        self._broken = self._gone = False
        self.settled = 0

    def settle(self, batch: Batch, stored: Stored, tell: Callable[[Progress], object]) -> None:
        """Take a batch that is stored, and settle it and those behind it, unless an earlier one is missing.

        Args:
            batch: with its ``number``; its rejected rows may be in any order.
            stored: what the store acknowledged of it.
            tell: called after each batch that is settled.

        Raises:
            DocumentError: a row was rejected and the run is strict.
            OSError: the dead letters or the ledger cannot be written.
        """
        with self._changed:
            self._waiting[batch.number] = batch, stored
            while not self._broken and self.settled in self._waiting:
                self._broken = True  # if this one fails, nobody may try again: its dead letters may be written
                progress = self._settle(*self._waiting.pop(self.settled))
                self._broken = False
                self.settled += 1
                tell(progress)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._gone or len(self._waiting) <= self._ahead)

    def give_up(self) -> None:
        """A batch will never come: nothing behind it will be settled, and nobody is held up any more."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _settle(self, batch: Batch, stored: Stored) -> Progress:
        batch.rejected.sort(key=lambda pair: pair[0])
        rejected = [one for _, one in batch.rejected]
        if self._strict and rejected:
            refuse(batch)
        self._letters.write(rejected)
        before, seen = self._ledger.settled, [*batch.unchanged, *stored.ids]
        self._ledger.settle(
            Settled(
                rows=batch.stop,
                digest=batch.digest,
                held=before.held + len(seen),
                witnesses=tuple(seen[-_WITNESSES:]) or tuple(before.witnesses),
                rejected_bytes=self._letters.size,
                rejected_before=before.rejected_before,
                rejections=dict(Counter(before.rejections) + Counter(one.kind for one in rejected)),
            )
        )
        return self._count(batch, stored, rejected)

    def _count(self, batch: Batch, stored: Stored, rejected: list[Rejected]) -> Progress:
        report = self._report
        report.documents += len(stored.ids)
        report.tokens += stored.tokens
        report.padded_tokens += stored.padded_tokens
        report.truncated += stored.truncated
        report.long_documents += stored.shortened
        report.unchanged += len(batch.unchanged)
        report.rejections.update(one.kind for one in rejected)
        room = REJECTED_KEPT - len(report.rejected)
        report.rejected += [kinds.without_row(one) for one in rejected[: max(0, room)]]
        seconds = time.perf_counter() - self._begun
        return Progress(report.documents, report.tokens, seconds, batch.stop, report.unchanged, report.rejected_count)


def refuse(batch: Batch) -> None:
    """End a strict run over the first rejected row of a batch.

    Raises:
        DocumentError: always.
    """
    place, one = min(batch.rejected, key=lambda pair: pair[0])
    raise DocumentError(f"{one.where}: {one.reason}", index=place)
