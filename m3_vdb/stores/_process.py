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
    """What only the process that made it may use; a forked child leaves it alone.

    Args:
        folder: where it has files open.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._process = os.getpid()
        self._open_folder = folder and folder.resolve()
        _OPENED.add(self)

    @property
    def _is_ours(self) -> bool:
        """Whether this process made it."""
        return os.getpid() == self._process

    def __reduce__(self) -> NoReturn:
        raise StoreError(
            f"a {type(self).__name__} is open in process {self._process} and cannot be pickled or copied: open it in "
            f"the worker"
        )


def free_once(owner: object, free: Callable[..., None], *args: object) -> Callable[[], object]:
    """A function that frees what ``owner`` holds; also called when nothing refers to the owner, and at the end.

    Args:
        owner: must not be reachable from the arguments that follow.
        free: called once, and in this process only.
        args: of ``free``.
    """
    return weakref.finalize(owner, _free_here, os.getpid(), free, args)


def _free_here(process: int, free: Callable[..., None], args: tuple[object, ...]) -> None:
    if os.getpid() == process:
        free(*args)


def _leave_to_parent() -> None:
    """In a forked child: never free what the parent has open, and hold none of its locks."""
    folders = []
    for one in list(_OPENED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))  # so no destructor of a client or engine ever runs here
        if one._open_folder is not None:
            folders.append(one._open_folder)
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
