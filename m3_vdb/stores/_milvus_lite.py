"""milvus-lite in this process, for a collection in a file. Imported only when such a store is opened.

pymilvus starts milvus-lite by itself for such a path, on a TCP port of 127.0.0.1 that every user of the machine can
reach, and never stops it before the process ends. So it is started here: behind a socket in a private folder where the
system has such sockets, and stopped when the store is closed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from milvus_lite.adapter.grpc.server import start_server_in_thread
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError

from m3_vdb.errors import CollectionMismatchError, StoreError
from m3_vdb.stores._folder import hold, mapped_os_errors

_LOCK_FILE = "LOCK"
_DATA = "collections"
_FILES = {_LOCK_FILE, _DATA, "databases", ".database-staging"}
_STOP_SECONDS = 5.0


def is_database(path: Path) -> bool:
    """Whether milvus-lite has made this folder."""
    return (path / _DATA).is_dir()


class LiteServer:
    """A running milvus-lite.

    Attributes:
        uri: where pymilvus finds it.

    Args:
        path: the database, a folder in spite of its name; made if there is none.

    Raises:
        CollectionMismatchError: the path is a file, as older versions of milvus-lite wrote, or another folder.
        StoreError: the database is open already.
    """

    def __init__(self, path: Path) -> None:
        if path.is_file():
            raise CollectionMismatchError(
                f"{path} is a file; milvus-lite 3 keeps a database in a folder and cannot read those of version 2: "
                f"ingest into a new one"
            )
        foreign = {entry.name for entry in path.iterdir()} - _FILES if path.is_dir() and not is_database(path) else None
        if foreign:
            raise CollectionMismatchError(
                f"{path} is not a database of milvus-lite and holds {', '.join(sorted(foreign)[:3])}: name a new one"
            )
        self._socket = tempfile.mkdtemp(prefix="m3-") if sys.platform != "win32" else None
        # milvus-lite binds "HOST:PORT"; gRPC reads "unix:PATH" with any characters in the path, a colon too.
        host = f"unix:{self._socket}/milvus" if self._socket else "127.0.0.1"
        try:
            with mapped_os_errors(f"collection in {path}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._server, self._database, port = hold(
                    lambda: start_server_in_thread(str(path), host=host, port=0),
                    path,
                    _LOCK_FILE,
                    server="Milvus",
                    busy=DataDirLockedError,
                )
        except BaseException as error:
            self._remove_socket()
            if isinstance(error, MilvusLiteError):
                raise StoreError(f"{path} cannot be opened: {error}") from error
            raise
        self.uri = f"{host}:0" if self._socket else f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """Write everything out and let the database go; a second call does nothing."""
        if self._server is not None:
            # Not without end: the garbage collector may call this in a thread of the server's own.
            self._server.stop(grace=_STOP_SECONDS).wait(2 * _STOP_SECONDS)
            self._database.close()
            self._server = None
            self._remove_socket()

    def _remove_socket(self) -> None:
        if self._socket is not None:
            shutil.rmtree(self._socket, ignore_errors=True)
