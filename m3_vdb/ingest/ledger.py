"""Which rows are done, and which ids are taken: one SQLite file, which neither a kill nor a full disk can corrupt.

The ledger holds every id once (hashed) with the place of the row that claimed it – on disk, since no memory holds the
ids of a large corpus – and how far the corpus is done. Both are committed together, after the store has acknowledged
what they speak of. Without a path it is a private temporary file that finds repeated ids and nothing more.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError

FORMAT: Final = 1
APPLICATION_ID: Final = 0x6D336970
"""SQLite's application_id of a checkpoint: no other database is ever overwritten."""
_IN_FILE: Final = {"stored_count": "held", "last_ids": "witnesses"}
"""Names in the file, which are those of version 0.1.0; there a run's key is "ties", and its checkpoint "settled"."""
_FROM_FILE: Final = {theirs: ours for ours, theirs in _IN_FILE.items()}
_CACHE_KIB: Final = 32 * 1024
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, place INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a corpus is done.

    Attributes:
        rows: rows from the beginning that are done: in the store, or rejected and written to the dead letters.
        digest: of these rows, to recognise the corpus.
        stored_count: documents among them that the store acknowledged or already held.
        last_ids: of the last of these, to recognise the store.
        rejected_bytes: length of the dead-letter file.
        rejected_before: its length when the run began; these are rows of other runs.
        rejections: rejected rows by kind.
    """

    rows: int = 0
    digest: str = ""
    stored_count: int = 0
    last_ids: tuple[str, ...] = ()
    rejected_bytes: int = 0
    rejected_before: int = 0
    rejections: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """An open ledger; for one run at a time.

    Args:
        path: the checkpoint file; None keeps a temporary one.
        run_key: what a resumed run must have in common with the interrupted one: name → value.
        resume: resume from what the file says; otherwise it is begun anew.
        rejected_before: length of the dead-letter file, if this is not a run that resumes.

    Raises:
        ConfigError: the file is in use, is not a checkpoint, or belongs to another run.
        OSError: it cannot be written.

    Attributes:
        checkpoint: as of the last ``commit``.
    """

    def __init__(
        self, path: Path | None, *, run_key: Mapping[str, str], resume: bool, rejected_before: int = 0
    ) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._torn = False
        if path is not None and not resume:
            _discard(path)
        with self._mapped():
            self._db = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False, timeout=0)
        try:
            with self._mapped():
                self._prepare()
            self.checkpoint = self._open(dict(run_key), rejected_before)
        except BaseException:
            self._db.close()
            raise

    def claim(self, rows: Sequence[tuple[int, str]]) -> list[int | None]:
        """Take ids for rows: (place, id) each. Of a row whose id another row has, that row's place; else None.

        Raises:
            OSError: the ledger cannot be written.
        """
        keyed = [(_key(id), place) for place, id in rows]
        with self._mutex, self._mapped():
            self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", keyed)
            holders = [
                self._db.execute("SELECT place FROM claims WHERE key = ?", (key,)).fetchone() for key, _ in keyed
            ]
        return [None if holder[0] == place else holder[0] for (_, place), holder in zip(keyed, holders, strict=True)]

    def commit(self, checkpoint: Checkpoint) -> None:
        """Commit how far the corpus is done.

        Raises:
            OSError: it cannot be written; the ledger still says what it said before.
        """
        if self.path is not None:
            with self._mutex, self._mapped():
                if self._torn:  # the ids of these rows may be lost with the transaction that failed
                    raise OSError(f"{self.path} could not be written before; resume from what it says")
                self._write("settled", {_IN_FILE.get(name, name): value for name, value in asdict(checkpoint).items()})
                self._db.execute("COMMIT")
                self._db.execute("BEGIN")
        self.checkpoint = checkpoint

    def restart(self) -> None:
        """Forget everything but the run key: the store does not hold what this ledger says.

        Raises:
            OSError: the ledger cannot be written.
        """
        with self._mutex, self._mapped():
            self._db.execute("DELETE FROM claims")
        before = self.checkpoint.rejected_before
        self.commit(Checkpoint(rejected_bytes=before, rejected_before=before))

    def close(self, *, done: bool = False) -> None:
        """Close the file; if the corpus is done, also remove it. A second call does nothing."""
        with self._mutex:
            self._db.close()  # rolls back what was claimed and not committed
        if done and self.path is not None:
            _discard(self.path)

    def _prepare(self) -> None:
        execute = self._db.execute
        execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if self.path is None:
            execute("PRAGMA journal_mode = OFF")
            execute("PRAGMA synchronous = OFF")
        else:
            execute("PRAGMA locking_mode = EXCLUSIVE")
            _check_ours(self._db, self.path)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute("PRAGMA journal_mode = WAL")
            # A power cut may take the last commits, never a part of one; those rows are asked of the store again.
            execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        execute("BEGIN IMMEDIATE")

    def _open(self, run_key: dict[str, str], rejected_before: int) -> Checkpoint:
        run_key["format"] = str(FORMAT)
        known = self._read("ties")
        if known is None:
            with self._mapped():
                self._write("ties", run_key)
        elif known != run_key:
            name = next(name for name in {**run_key, **known} if known.get(name) != run_key.get(name))
            raise ConfigError(
                f"{self.path} is the checkpoint of another run: its {name} is {known.get(name)!r}, this one's "
                f"{run_key.get(name)!r}; run without resuming (what is stored unchanged is not encoded again), or name "
                f"another checkpoint"
            )
        written = self._read("settled")
        if written is None:
            checkpoint = Checkpoint(rejected_bytes=rejected_before, rejected_before=rejected_before)
        else:
            checkpoint = Checkpoint(**{_FROM_FILE.get(name, name): value for name, value in written.items()})
        with self._mapped():
            # Rows beyond were claimed and not finished; what they are may have changed.
            self._db.execute("DELETE FROM claims WHERE place >= ?", (checkpoint.rows,))
        self.commit(checkpoint)
        return checkpoint

    def _read(self, name: str) -> dict[str, Any] | None:
        with self._mapped():
            found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if found is None else dict(json.loads(found[0]))

    def _write(self, name: str, value: Mapping[str, object]) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """The one place where errors of SQLite become ours."""
        where = self.path or "the temporary list of ids"
        try:
            yield
        except sqlite3.OperationalError as error:
            self._torn = True
            if "locked" in str(error):
                raise ConfigError(
                    f"{where} is in use by another run: wait for it, or give this one a checkpoint of its own"
                ) from error
            raise OSError(f"{where} cannot be written: {error}; make room, then resume") from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{where} is not a checkpoint of m3-vdb ({error}): remove it, or name another") from error


def _key(id: str) -> bytes:
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _check_ours(db: sqlite3.Connection, path: Path) -> None:
    if (
        db.execute("PRAGMA page_count").fetchone()[0]
        and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID
    ):
        raise ConfigError(f"{path} exists and is not a checkpoint of m3-vdb: name another")


def _discard(path: Path) -> None:
    """Remove a checkpoint and its journal, unless a run has it open.

    Raises:
        ConfigError: a run has it open, or it is something else.
    """
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
            db.execute("BEGIN EXCLUSIVE")
            _check_ours(db, path)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise ConfigError(f"{path} is in use by another run: wait for it, or name another checkpoint") from None
        raise ConfigError(f"{path} exists and is not a checkpoint of m3-vdb ({error}): name another") from None
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        name.unlink(missing_ok=True)
