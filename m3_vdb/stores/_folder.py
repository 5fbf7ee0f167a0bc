"""A store's folder on disk: who holds it (``m3.lock``) and which model made it (``m3.json``).

The lock is the operating system's and goes when its process does, however that ends; the file stays and means nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any, Final

from m3_vdb.errors import CollectionMismatchError, StoreError

IDENTITY_FILE: Final = "m3.json"
_LOCK_FILE: Final = "m3.lock"

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
    """Exclusive hold on a folder, across processes and within one.

    Args:
        folder: an existing folder.

    Raises:
        StoreError: another store has it open.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] | None = (folder / _LOCK_FILE).open("ab")
        try:
            _lock(self._file)
        except OSError:
            self._file.close()
            raise StoreError(
                f"{folder} is open already, in this process or another one, and one at a time may use it: close that "
                f"one first, or serve the collection from a Qdrant server"
            ) from None

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._file is not None:
            _unlock(self._file)
            self._file.close()
            self._file = None


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """What ``m3.json`` says, or None if there is none.

    Raises:
        CollectionMismatchError: the file is damaged.
    """
    try:
        metadata = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise CollectionMismatchError(f"{folder / IDENTITY_FILE} cannot be read: {error}") from None
    return dict(metadata) if isinstance(metadata, dict) else {}


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``m3.json`` whole or not at all."""
    temporary = folder / f"{IDENTITY_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / IDENTITY_FILE)
