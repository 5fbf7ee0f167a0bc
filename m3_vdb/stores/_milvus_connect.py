"""From a URL to an open Milvus store: a server, or milvus-lite in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pymilvus import MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError
from m3_vdb.stores._milvus_errors import mapped_errors
from m3_vdb.stores._names import KEY_VARIABLES, Folder, Server
from m3_vdb.stores._secrets import read_key
from m3_vdb.stores.milvus import MilvusStore
from m3_vdb.stores.options import CollectionOptions

COLLECTION_IN_FILE: Final = "m3"
"""A file holds one collection, as a folder of Qdrant's engine does."""


def open_milvus(
    place: Folder | Server,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    token: str | None,
    timeout: float,
) -> MilvusStore:
    """Open a collection; see ``m3_vdb.stores.open_store``.

    Raises:
        StoreConnectionError: the server did not answer.
        StoreError: the folder is open already.
    """
    if isinstance(place, Folder):
        return _open_file(place.path, identity=identity, create=create, exact=exact, options=options, timeout=timeout)
    client = connect(place, token=token, timeout=timeout)
    try:
        return MilvusStore(
            client,
            place.collection,
            identity=identity,
            create=create,
            exact=exact,
            options=options,
            timeout=timeout,
            server=place.url,
        )
    except BaseException:
        client.close()
        raise


def connect(place: Server, *, token: str | None, timeout: float) -> MilvusClient:
    """A connected client.

    Raises:
        ConfigError: the token cannot be sent.
        StoreConnectionError: the server did not answer.
    """
    key = read_key(token, KEY_VARIABLES[place.engine])
    with mapped_errors(f"Milvus server {place.url}"):
        return MilvusClient(
            uri=place.url,
            token=key or "",
            db_name=place.database,
            timeout=timeout,
            dedicated=True,  # pymilvus shares connections by default, and closing one would close all
        )


def _open_file(
    path: Path,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    timeout: float,
) -> MilvusStore:
    """Open the collection in a file of milvus-lite; see ``m3_vdb.stores.open_store``.

    Raises:
        CollectionNotFoundError: there is none, and none may be made.
        StoreError: the file is open already.
    """
    from m3_vdb.stores._milvus_lite import LiteServer, is_database  # noqa: PLC0415 - no need of it on a server

    if not path.is_file() and not is_database(path) and (identity is None or not create):
        raise CollectionNotFoundError(f"there is no collection in {path}: check the name, or ingest into it first")
    lite = LiteServer(path)
    try:
        with mapped_errors(f"collection in {path}"):
            client = MilvusClient(uri=lite.uri, dedicated=True)
        try:
            return MilvusStore(
                client,
                COLLECTION_IN_FILE,
                identity=identity,
                create=create,
                exact=exact,
                options=options,
                timeout=timeout,
                path=path,
                on_close=lite.stop,
            )
        except BaseException:
            client.close()
            raise
    except BaseException:
        lite.stop()
        raise
