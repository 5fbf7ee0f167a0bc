"""Aliases and markers of Milvus, for ``m3_vdb.stores.succession``; markers are properties of a collection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from pymilvus import MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, StoreRequestError
from m3_vdb.stores.markers import MARKER_KEY
from m3_vdb.stores.milvus.client import (
    COLLECTION_IN_FILE,
    LIVE_IN_FILE,
    NOT_FOUND,
    Calls,
    LiteServer,
    alias_target,
    connect,
    is_database,
    mapped_errors,
    read_marker,
)
from m3_vdb.stores.milvus.store import MilvusStore
from m3_vdb.stores.milvus.wire import Wire
from m3_vdb.stores.names import Server
from m3_vdb.stores.options import DEFAULT_OPTIONS, CollectionOptions

_SECONDS: Final = 60


class MilvusAliases:
    """``Aliases`` of a Milvus server.

    Args:
        client: connected; closed by ``close``.
        where: the server, for messages.
        timeout: seconds per request.
    """

    joint = "__"
    is_shared = True

    def __init__(self, client: MilvusClient, where: str, timeout: float) -> None:
        self._client = client
        self._calls = Calls(client, timeout)
        self._where = where

    @classmethod
    def of(cls, place: Server, *, api_key: str | None, timeout: int) -> MilvusAliases:
        """Those of the server of a collection."""
        return cls(connect(place, token=api_key, timeout=timeout), f"Milvus server {place.url}", timeout)

    def target(self, name: str) -> str | None:
        """The collection behind an alias; None if there is no such alias."""
        with mapped_errors(self._where):
            return alias_target(self._calls, name)

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection; not by an alias."""
        if self.target(collection) is not None:
            return False
        with mapped_errors(self._where):
            return bool(self._calls.has_collection(collection))

    def marker(self, collection: str) -> Mapping[str, Any]:
        """What is marked on a collection; {} if there is none."""
        try:
            with mapped_errors(self._where):
                return read_marker(self._calls.describe_collection(collection))
        except StoreRequestError as error:
            if error.status != NOT_FOUND:
                raise
            return {}

    def mark(self, collection: str, marker: Mapping[str, Any]) -> None:
        """Replace the marker."""
        with mapped_errors(self._where):
            self._calls.alter_collection_properties(collection, {MARKER_KEY: json.dumps(dict(marker))})

    def point(self, alias: str, collection: str) -> None:
        """Make or move an alias, in one step."""
        move = self._calls.create_alias if self.target(alias) is None else self._calls.alter_alias
        with mapped_errors(self._where):
            move(collection, alias)

    def drop(self, collection: str) -> None:
        """Delete a collection, if there is one."""
        with mapped_errors(self._where):
            self._calls.drop_collection(collection)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class FileAliases(MilvusAliases):
    """``Aliases`` of a file of milvus-lite, which this process has open until ``close``.

    Args:
        path: the file.

    Raises:
        CollectionNotFoundError: there is none.
        StoreError: the file is open already.
    """

    alias = LIVE_IN_FILE
    is_shared = False

    def __init__(self, path: Path) -> None:
        if not path.is_file() and not is_database(path):
            raise CollectionNotFoundError(f"there is no collection in {path}: check the name")
        self._path = path
        self._lite = LiteServer(path)
        try:
            super().__init__(self._connect(), f"collection in {path}", _SECONDS)
        except BaseException:
            self._lite.stop()
            raise

    def _connect(self) -> MilvusClient:
        with mapped_errors(f"collection in {self._path}"):
            return MilvusClient(uri=self._lite.uri, dedicated=True)

    def name(self) -> str:
        """What names the collection that is served: the alias, or before the first migration its own name."""
        return self.alias if self.target(self.alias) is not None else COLLECTION_IN_FILE

    def open(
        self,
        name: str,
        identity: ModelIdentity | None = None,
        *,
        create: bool = True,
        options: CollectionOptions = DEFAULT_OPTIONS,
        exact: bool | None = None,
    ) -> MilvusStore:
        """One of the file's collections; several may be open at once."""
        with ExitStack() as opened:
            client, wire = self._connect(), Wire(self._lite.uri, timeout=_SECONDS)
            opened.callback(client.close)
            opened.callback(wire.close)
            return MilvusStore(
                client,
                wire,
                name,
                identity=identity,
                close=opened.pop_all().close,
                create=create,
                exact=exact,
                options=options,
                path=self._path,
            )

    def drop(self, collection: str) -> None:
        """Delete a collection; m3-vdb 0.1.0, which looks for one name, finds by it the one that is served."""
        super().drop(collection)
        served = self.target(self.alias)
        if served not in (None, COLLECTION_IN_FILE) and not self.exists(COLLECTION_IN_FILE):
            self.point(COLLECTION_IN_FILE, str(served))

    def close(self) -> None:
        """Close the client and the file."""
        with suppress(Exception):
            super().close()
        self._lite.stop()
