"""Connections to Milvus: a server's client, milvus-lite in this process, and their errors as errors of m3-vdb.

pymilvus starts milvus-lite by itself for a path, on a TCP port of 127.0.0.1 that every user of the machine can reach,
and never stops it before the process ends. So it is started here: behind a socket in a private folder where the system
has such sockets, and stopped when the store is closed.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from pymilvus import MilvusClient
from pymilvus.exceptions import (
    ConnectError,
    ConnectionConfigException,
    ConnectionNotExistException,
    ErrorCode,
    MilvusException,
    MilvusUnavailableException,
)

from m3_vdb.errors import CollectionMismatchError, StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.imports import log_handlers_kept
from m3_vdb.stores.folder import advice, hold, mapped_os_errors
from m3_vdb.stores.markers import MARKER_KEY
from m3_vdb.stores.names import KEY_VARIABLES, Server, read_key
from m3_vdb.stores.refusals import NO_ANSWER, TOO_MANY, from_grpc, http_status, key_advice

_KEY_VARIABLE: Final = KEY_VARIABLES["milvus"]

_CONNECTION: Final = (
    ConnectError,
    ConnectionConfigException,
    ConnectionNotExistException,
    MilvusUnavailableException,
)
_CONNECT_FAILED: Final = 2
"""pymilvus' own code for a server that it cannot reach (``pymilvus.client.types.Status``)."""
NOT_FOUND: Final = 404
_STATUS: Final = {
    4: TOO_MANY,  # too many concurrent requests
    int(ErrorCode.RATE_LIMIT): TOO_MANY,
    12: 503,  # resource insufficient
    1400: 401,  # privilege not authenticated
    1401: 403,  # privilege not permitted
    int(ErrorCode.COLLECTION_NOT_FOUND): NOT_FOUND,
    1600: NOT_FOUND,  # alias not found
    1100: 400,  # parameter invalid
}
"""HTTP status per code of a Milvus server (pkg/util/merr/errors.go); 1 is also pymilvus' own default."""


_calling: Final = ContextVar("m3_vdb_calls_pymilvus", default=False)
# pymilvus logs a traceback of every refused request; our error says the same in one line. Calls of others are theirs.
logging.getLogger("pymilvus.decorators").addFilter(lambda record: not _calling.get())


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Run calls of pymilvus; ``where`` names the collection in messages.

    Raises:
        StoreConnectionError: the server did not answer, or not in time.
        StoreRequestError: the server, or pymilvus in its place, refused; its message is part of ours.
    """
    before = _calling.get()
    _calling.set(True)
    try:
        yield
    except MilvusException as error:
        code = error.code() if callable(error.code) else error.code  # pymilvus 2 keeps the method of gRPC's error
        if isinstance(error, _CONNECTION) or code == _CONNECT_FAILED or code in NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({error.message}); is the server running there?") from error
        status = _status(error, code)
        words = f"{where}: the server refused: {code} {error.message}{advice(error.message)}"
        raise StoreRequestError(f"{words}{key_advice(status, _KEY_VARIABLE)}", status=status) from error
    except grpc.FutureTimeoutError as error:
        raise StoreConnectionError(f"{where}: no answer in time; is the server running there?") from error
    except grpc.RpcError as error:
        raise from_grpc(error, where, _KEY_VARIABLE) from error
    finally:
        _calling.set(before)


def _status(error: MilvusException, code: object) -> int | None:
    """The HTTP status that a refusal would have; a Milvus server does not say when to retry."""
    if isinstance(code, grpc.StatusCode):
        return http_status(code, error.message)
    if isinstance(code, int) and code in _STATUS:
        return _STATUS[code]
    if getattr(error, "retriable", False):  # pymilvus 3 hands on what the server says of its own error
        return 503
    return 400 if getattr(error, "is_input_error", False) else None


def connect(place: Server, *, token: str | None, timeout: float) -> MilvusClient:
    """A connected client.

    Raises:
        ConfigError: the token cannot be sent.
        StoreConnectionError: the server did not answer.
    """
    key = read_key(token, place)
    with mapped_errors(f"Milvus server {place.url}"):
        return MilvusClient(
            uri=place.url,
            token=key or "",
            db_name=place.database,
            timeout=timeout,
            dedicated=True,  # pymilvus shares connections by default, and closing one would close all
        )


class Calls:
    """The methods of a client, each with a time limit: without one, pymilvus tries 75 times to reach a dead server.

    Args:
        client: a connected client.
        timeout: seconds per request, for calls that give none of their own.
    """

    def __init__(self, client: MilvusClient, timeout: float) -> None:
        self.timeout = timeout
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(getattr(self._client, name), timeout=self.timeout)


def alias_target(client: Calls, name: str) -> str | None:
    """The collection behind an alias; None if there is no such alias."""
    try:
        return str(client.describe_alias(name)["collection_name"])
    except MilvusException as error:
        if _STATUS.get(error.code) != NOT_FOUND:
            raise
        return None


def read_marker(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The marker (``m3_vdb.stores.markers``) in a server's description of a collection."""
    text = (description.get("properties") or {}).get(MARKER_KEY)
    return dict(json.loads(text)) if text else {}


COLLECTION_IN_FILE: Final = "m3"
"""A file holds one collection, as a folder of Qdrant's engine does,"""
LIVE_IN_FILE: Final = "m3_live"
"""or, once it was migrated, also its successor: this alias names the one that is served."""
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
        path: the database, a folder in spite of its name; made if it does not exist.

    Raises:
        CollectionMismatchError: the path is a file, as older versions of milvus-lite wrote, or another folder.
        StoreError: the database is open already.
    """

    def __init__(self, path: Path) -> None:
        with log_handlers_kept():
            from milvus_lite.adapter.grpc.server import start_server_in_thread  # noqa: PLC0415 - not for a server
            from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError  # noqa: PLC0415

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
        """Write everything out and close the database; a second call does nothing."""
        if self._server is not None:
            # Not without end: the garbage collector may call this in a thread of the server's own.
            self._server.stop(grace=_STOP_SECONDS).wait(2 * _STOP_SECONDS)
            self._database.close()
            self._server = None
            self._remove_socket()

    def _remove_socket(self) -> None:
        if self._socket is not None:
            shutil.rmtree(self._socket, ignore_errors=True)
