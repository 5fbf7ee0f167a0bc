"""Stored batches → dead letters and ledger, in the order of the corpus, whatever order they were stored in."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.folder import is_letter
from m3_vdb.ingest.ledger import Checkpoint, Ledger
from m3_vdb.ingest.report import REJECTED_KEPT, IngestReport, Progress
from m3_vdb.ingest.rows import LETTER_FIELDS, Rejected

MAX_AHEAD: Final = 4
"""Stored batches that may wait for an earlier one."""
_LAST_IDS: Final = 8


class OrderedCommitter:
    """Commits batches in the order of the corpus: one that was stored before an earlier one waits here for it.

    Several threads may call it. The ledger always speaks of a beginning of the corpus, as with one writer.
    Batches that wait when a run ends are stored and not committed; a resumed run finds them by asking the store.

    Args:
        ledger: records what is done, after it is done.
        letters: takes the rejected rows, before the ledger records them.
        report: counts.
        strict: whether a rejected row ends the run.
        ahead: batches that may wait; a thread that brings one more waits too, so that memory is bounded.

    Attributes:
        committed: number of batches that are done; they are the first of the corpus.
    """

    def __init__(
        self, ledger: Ledger, letters: DeadLetters, report: IngestReport, *, strict: bool, ahead: int = MAX_AHEAD
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
        self.committed = 0

    def commit(self, batch: Batch, stored: Stored, tell: Callable[[Progress], object]) -> None:
        """Take a batch that is stored, and commit it and those behind it, unless an earlier one is missing.

        Args:
            batch: with its ``number``; its rejected rows may be in any order.
            stored: what the store acknowledged of it.
            tell: called after each batch that is committed.

        Raises:
            DocumentError: a row was rejected and the run is strict.
            OSError: the dead letters or the ledger cannot be written.
        """
        with self._changed:
            self._waiting[batch.number] = batch, stored
            while not self._broken and self.committed in self._waiting:
                self._broken = True  # if this one fails, nobody may try again: its dead letters may be written
                progress = self._commit(*self._waiting.pop(self.committed))
                self._broken = False
                self.committed += 1
                tell(progress)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._gone or len(self._waiting) <= self._ahead)

    def give_up(self) -> None:
        """A batch will never come: nothing after it will be committed, and nobody waits any longer."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _commit(self, batch: Batch, stored: Stored) -> Progress:
        batch.rejected.sort(key=lambda pair: pair[0])
        rejected = [one for _, one in batch.rejected]
        if self._strict and rejected:
            refuse(batch)
        self._letters.write(rejected)
        before, seen = self._ledger.checkpoint, [*batch.unchanged, *stored.ids]
        self._ledger.commit(
            Checkpoint(
                rows=batch.stop,
                digest=batch.digest,
                stored_count=before.stored_count + len(seen),
                last_ids=tuple(seen[-_LAST_IDS:]) or tuple(before.last_ids),
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


class DeadLetters:
    """Rows that were not stored, each with file, line, id, reason and the row itself, so that it can be mended.

    Rows of earlier runs stay until somebody removes the file. Those of this run come behind them, unless they are there
    already, so that running a command again leaves the same file.

    Args:
        path: made when the first row is rejected; None keeps nothing.
        keep: bytes of the file that are rows of earlier runs, or of the interrupted one that resumes; what is beyond
            was not finished and is removed.
        before: bytes that are rows of earlier runs.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path | None, *, keep: int = 0, before: int = 0) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._known: set[bytes] = set()
        self.size = 0
        if path is None or not path.is_file():  # a device such as /dev/null is left alone
            return
        self.size = min(keep, path.stat().st_size)
        os.truncate(path, self.size)
        with path.open("rb") as file:
            while file.tell() < before and (line := file.readline()):
                self._known.add(_digest(line))

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Add rows and hand them to the operating system.

        Raises:
            OSError: they cannot be written.
        """
        lines = [json.dumps(_as_dict(one)).encode() + b"\n" for one in rejected]
        data = b"".join(line for line in lines if not self._known or _digest(line) not in self._known)
        if self._path is None or not data:
            return
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size += len(data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def letters_length(path: Path | None) -> int:
    """Length of the whole lines of a dead-letter file; 0 if there is none.

    Raises:
        ConfigError: there is a file of another kind, which is not written to.
        OSError: it cannot be read.
    """
    if path is None or not path.is_file():
        return 0
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not length and not is_letter(line):
                raise ConfigError(f"{path} exists and does not hold rejected rows of m3-vdb: name another file")
            length += len(line) if line.endswith(b"\n") else 0
    return length


def _digest(line: bytes) -> bytes:
    return blake2b(line, digest_size=8).digest()


def _as_dict(rejected: Rejected) -> dict[str, object]:
    return {name: getattr(rejected, name) for name in LETTER_FIELDS}
