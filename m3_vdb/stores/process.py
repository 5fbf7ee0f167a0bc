"""The life of an open store: it belongs to the process that opened it, and is freed once.

A fork copies connections, locks and buffers, but not the threads that serve them: used in the child they hang or lose
documents, and merely freed there they write to the parent's files and stop its server.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, TypeVar

from m3_vdb.errors import StoreError

_OPENED: Final[weakref.WeakSet[ProcessBound]] = weakref.WeakSet()
Opened = TypeVar("Opened", bound="ProcessBound")


class ProcessBound(ABC):
    """Base of what only the process that opened it may use, a context manager; a forked child leaves it alone."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._open_folder: Path | None = None
        _OPENED.add(self)

    @property
    @abstractmethod
    def _where(self) -> str:
        """How messages name it."""

    @abstractmethod
    def _close(self) -> None:
        """Write everything out and free what is open; a second call does nothing."""

    def close(self) -> None:
        """Write everything out and free the connection or files; a second call does nothing."""
        if os.getpid() == self._process:
            self._close()

    def _check_process(self) -> None:
        """Refuse to work in a forked child, before a mutex is touched that a thread of the parent may have held.

        Raises:
            StoreError: another process opened the store.
        """
        if os.getpid() != self._process:
            raise StoreError(f"the {self._where} was opened in process {self._process}: open it in the worker")

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._where}>"

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
