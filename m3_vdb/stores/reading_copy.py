"""A collection in a folder, read without writing there: the engine gets a copy, which goes when it is closed.

Both engines write into a folder as soon as they open it, and take it for themselves. So whoever only reads works on a
copy: a folder that cannot be written opens, and any number of processes read one folder. The copy is made while no
other process writes (a shared lock), so it is whole; what is written later is not in it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from m3_vdb.errors import StoreError
from m3_vdb.stores.folder import IDENTITY_FILE, LOCK_FILE, locker, mapped_os_errors

MILVUS_LOCK: Final = "LOCK"
_LOCKS: Final = (LOCK_FILE, MILVUS_LOCK)
_COLLECTIONS: Final = frozenset({IDENTITY_FILE, "collections"})
"""One of these lies in a collection's folder."""


def is_unwritable(folder: Path) -> bool:
    """Whether a folder holds a collection that no engine can open there: it, or what lies in it, cannot be written."""
    try:
        inside = list(folder.iterdir())
    except OSError:  # the store says why
        return False
    is_collection = not _COLLECTIONS.isdisjoint(path.name for path in inside)
    return is_collection and not all(os.access(path, os.W_OK) for path in (folder, *inside))


@contextmanager
def reading_copy(folder: Path) -> Iterator[Path]:
    """A copy of a collection's folder, in the folder for temporary files (``TMPDIR``); removed at the end.

    Raises:
        StoreError: another process has it open for writing, there is no room for the copy, or it cannot be read.
    """
    with mapped_os_errors(f"collection in {folder}"):
        made = Path(tempfile.mkdtemp(prefix="m3-read-"))
    try:
        with mapped_os_errors(f"collection in {folder}"), _unwritten(folder):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            free = shutil.disk_usage(made).free
            if size > free:
                raise StoreError(
                    f"{folder} has {size:,} bytes, and for the copy that a reader needs {made.parent} has {free:,} "
                    f"free: make room, or name another folder in TMPDIR"
                )
            copy = made / (folder.name or "collection")
            # Contents alone: a copy that is as unwritable as its original would not open.
            shutil.copytree(
                folder, copy, copy_function=shutil.copyfile, ignore=lambda _, names: [n for n in names if n in _LOCKS]
            )
            for one in (copy, *copy.rglob("*")):
                one.chmod(0o700 if one.is_dir() else 0o600)
        yield copy
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _unwritten(folder: Path) -> Iterator[None]:
    """While no other process has the folder open.

    Raises:
        StoreError: one has.
    """
    path = next((folder / name for name in _LOCKS if (folder / name).is_file()), None)
    if path is None:  # a copy without its lock file, which nobody can have open
        yield
        return
    with path.open("rb") as file:
        try:
            _share(file.fileno())
        except OSError:
            process = locker(path)
            holder = "another process" if process is None else f"process {process}"
            raise StoreError(
                f"{folder} is open for writing in {holder}: close it there, or search through that process "
                f"(m3-vdb serve); readers share a folder only while nobody writes"
            ) from None
        yield


if sys.platform == "win32":

    def _share(_descriptor: int) -> None:
        """Nothing: Windows has no shared locks of this kind, and refuses to copy a file that is locked."""
else:
    import fcntl

    def _share(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
