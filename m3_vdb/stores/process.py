"""A store belongs to the process that opened it.

A fork copies connections, locks and buffers, but not the threads that serve them: used in the child they hang or lose
documents, and merely freed there they write to the parent's files and stop its server.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from m3_vdb.errors import StoreError

_OPENED: Final[weakref.WeakSet[ProcessBound]] = weakref.WeakSet()


class ProcessBound:
    """Base of objects that only the process that made them may use; a forked child leaves them alone."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open_folder: Path | None = None
        _OPENED.add(self)

    @property
    def _is_ours(self) -> bool:
        """Whether this process made it."""
        return os.getpid() == self._process

    def _own(self, free: Callable[[], object], *, folder: Path | None = None) -> None:
        """Have something freed by ``_free``, or when nothing refers to this object any more, or at the end.

        Args:
            free: called once, and in this process only; must not refer to this object.
            folder: where files are open until then.
        """
        self._kept = free  # so that what a child keeps of this object keeps the rest
        self._free_now = weakref.finalize(self, _free_here, self._process, free)
        self._open_folder = folder and folder.resolve()

    def _free(self) -> None:
        """Free what is owned; a second call does nothing."""
        self._open_folder = None
        self._free_now()

    def __reduce__(self) -> NoReturn:
        raise StoreError(
            f"a {type(self).__name__} is open in process {self._process} and cannot be pickled or copied: open it in "
            f"the worker"
        )


def is_open_here(folder: Path) -> bool:
    """Whether this process has a folder open."""
    real = folder.resolve()
    return any(one._open_folder == real for one in list(_OPENED))


def _free_here(process: int, free: Callable[[], object]) -> None:
    if os.getpid() == process:
        free()


def _leave_to_parent() -> None:
    """In a forked child: never free what the parent has open, and hold none of its locks."""
    folders = []
    for one in list(_OPENED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))  # so no destructor of a client or engine ever runs here
        if one._open_folder is not None:
            folders.append(one._open_folder)
            one._open_folder = None
    descriptors = Path("/proc/self/fd")
    if not folders or not descriptors.is_dir():
        return
    for link in list(descriptors.iterdir()):
        # An open file locks the folder for as long as any process has it open, however the parent ends.
        target = Path(os.path.realpath(link))
        if any(target.is_relative_to(folder) for folder in folders):
            os.close(int(link.name))


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)
