"""A store's folder on disk: its lock (``m3.lock``), the model that made it (``m3.json``), and the system's errors.

The operating system drops the lock when its process ends, however that happens; the file stays and means nothing.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from m3_vdb.encoding.identity import LAYOUT
from m3_vdb.errors import CollectionMismatchError, StoreError
from m3_vdb.stores.process import is_open_here

IDENTITY_FILE: Final = "m3.json"
PLACE: Final = "files"
"""In ``m3.json`` of a folder whose collection was migrated: the subfolder with the engine's files."""
MOVED_LAYOUT: Final = 2
"""The layout that ``m3.json`` then names: versions that would read the old files refuse it."""
LOCK_FILE: Final = "m3.lock"
_UNFINISHED: Final = f"{IDENTITY_FILE}.tmp"
RUN_FILE: Final = "m3.run.json"
"""The last ingest or sync."""
_UNFINISHED_RUN: Final = f"{RUN_FILE}.tmp"
OUR_FILES: Final = frozenset({IDENTITY_FILE, LOCK_FILE, RUN_FILE, _UNFINISHED, _UNFINISHED_RUN})
RESTORE: Final = "restore the folder from a copy, or ingest into a new one"
"""What to do about an incomplete collection."""
_READ_ONLY: Final = "even to read a collection its engine must write there: make the folder writable, or copy it"
_FULL: Final = "the disk is full: make room there, then repeat what failed"
_ADVICE: Final = {
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: "files of the collection are missing: restore the folder, or delete it and ingest again",
}
_SYSTEM_ERROR: Final = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How Rust and Python write the system's error into their messages."""

Result = TypeVar("Result")

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: IO[bytes]) -> None:
        # Not left to close(): a forked child may still hold the same open file.
        fcntl.flock(file, fcntl.LOCK_UN)


class FolderLock:
    """An exclusive lock on a folder, between processes and within one.

    Args:
        folder: an existing folder.

    Raises:
        StoreError: another store has it open.
    """

    def __init__(self, folder: Path) -> None:
        self._file = hold(lambda: _locked(folder / LOCK_FILE), folder, LOCK_FILE, server="Qdrant", busy=_Busy)

    def release(self) -> None:
        """Unlock the folder; a second call does nothing."""
        if not self._file.closed:
            _unlock(self._file)
            self._file.close()


@contextmanager
def locked_file(path: Path, busy: Callable[[int | None], Exception]) -> Iterator[None]:
    """Hold a lock on a file, which is there only so long.

    Args:
        path: the file; made if there is none.
        busy: makes the error for when it is locked, with the process that has it, if the system tells.
    """
    try:
        file = _locked(path)
        # Between opening and locking it, who had the lock may have removed the file. Not for ever: on a file system
        # whose files have no lasting numbers it would seem so each time.
        for _ in range(1000):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            file.close()
            file = _locked(path)
    except _Busy:
        raise busy(locker(path)) from None
    try:
        yield
    finally:
        with suppress(OSError):
            if sys.platform != "win32":  # there it must be closed first
                path.unlink()
        _unlock(file)
        file.close()
        with suppress(OSError):  # another process may have opened it
            if sys.platform == "win32":
                path.unlink()


class _Busy(Exception):  # noqa: N818 - seen by hold() alone
    pass


def _locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        _lock(file)
    except OSError:
        file.close()
        raise _Busy from None
    return file


def hold(take: Callable[[], Result], folder: Path, lock_file: str, *, server: str, busy: type[Exception]) -> Result:
    """Take a folder that one store at a time may have open.

    Args:
        take: takes it.
        folder: for the message.
        lock_file: in it, the file that is locked.
        server: what serves several processes, for the message.
        busy: raised by ``take`` if the folder is taken.

    Raises:
        StoreError: another store has it open.
    """
    try:
        return take()
    except busy:
        gc.collect()  # a store that nobody can reach any more, in the frames of an exception say, closes now
    try:
        return take()
    except busy:
        process = os.getpid() if is_open_here(folder) else locker(folder / lock_file)
        if process == os.getpid():
            words = "in this process: close that store, or `del` whatever refers to it"
        else:
            words = f"in {'another process' if process is None else f'process {process}'}: close it there"
        raise StoreError(
            f"{folder} is open already {words}; only one store at a time may use it (a {server} server takes many)"
        ) from None


def locker(path: Path) -> int | None:
    """The process that holds a lock on a file, where the system tells."""
    with suppress(OSError, ValueError):
        found = path.stat()
        name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == name:
                return int(fields[4]) or None  # 0: a process of another container
    return None


@contextmanager
def mapped_os_errors(where: str) -> Iterator[None]:
    """Work on files; ``where`` names the collection in messages.

    Raises:
        StoreError: the system refused.
    """
    try:
        yield
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        raise StoreError(f"{where}: {error.strerror or error}{named}{advice(str(error))}") from error


def advice(words: str) -> str:
    """What to do about the system's error that an engine's message holds, to be added to it; "" if it holds none."""
    found = _SYSTEM_ERROR.search(words)
    known = _ADVICE.get(int(found[1] or found[2])) if found else None
    return f"; {known}" if known else ""


def disk_bytes(folder: Path) -> int:
    """Bytes that the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """What ``m3.json`` says; None if it does not exist.

    Raises:
        CollectionMismatchError: the file is damaged.
    """
    try:
        metadata = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise CollectionMismatchError(f"{folder / IDENTITY_FILE} is damaged ({error}): {RESTORE}") from None
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    return {**metadata, "layout": LAYOUT} if metadata.get("layout") == MOVED_LAYOUT and PLACE in metadata else metadata


def read_run(folder: Path) -> dict[str, Any]:
    """The last ingest or sync that was noted; {} for none."""
    try:
        return dict(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Note the last ingest or sync."""
    temporary = folder / _UNFINISHED_RUN
    temporary.write_text(json.dumps(dict(run)), encoding="utf-8")
    temporary.replace(folder / RUN_FILE)


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``m3.json`` completely or not at all."""
    temporary = folder / _UNFINISHED
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / IDENTITY_FILE)
