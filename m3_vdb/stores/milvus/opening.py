"""Opens a collection by its place: on a server, or in a file."""

from __future__ import annotations

from contextlib import ExitStack

from pymilvus import MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores.base import new_identity
from m3_vdb.stores.milvus.client import (
    COLLECTION_IN_FILE,
    LIVE_IN_FILE,
    Calls,
    LiteServer,
    alias_target,
    connect,
    is_database,
    mapped_errors,
)
from m3_vdb.stores.milvus.store import MilvusStore
from m3_vdb.stores.milvus.wire import Wire
from m3_vdb.stores.names import Folder, Server, read_key
from m3_vdb.stores.options import CollectionOptions
from m3_vdb.stores.reading_copy import reading_copy


def open_milvus(
    place: Folder | Server,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    token: str | None,
    timeout: float,
    read_only: bool = False,
) -> MilvusStore:
    """Open a collection; see ``m3_vdb.stores.open_store``.

    Raises:
        StoreConnectionError: the server did not answer.
        StoreError: the folder is open already.
    """
    opened = ExitStack()
    try:
        path = None
        if isinstance(place, Folder):
            path, where = place.path, f"collection in {place.path}"
            if not path.is_file() and not is_database(path):
                new_identity(identity, create=create and not read_only, where=where)
            lite = LiteServer(opened.enter_context(reading_copy(path)) if read_only and path.is_dir() else path)
            opened.callback(lite.stop)
            with mapped_errors(where):
                client = MilvusClient(uri=lite.uri, dedicated=True)
                opened.callback(client.close)
                is_migrated = alias_target(Calls(client, timeout), LIVE_IN_FILE) is not None
            name = LIVE_IN_FILE if is_migrated else COLLECTION_IN_FILE
            wire = Wire(lite.uri, timeout=timeout)
        else:
            client, name = connect(place, token=token, timeout=timeout), place.collection
            opened.callback(client.close)
            wire = Wire(place.url, token=read_key(token, place) or "", database=place.database, timeout=timeout)
        opened.callback(wire.close)
        return MilvusStore(
            client,
            wire,
            name,
            identity=identity,
            close=opened.close,
            create=create,
            exact=exact,
            options=options,
            timeout=timeout,
            path=path,
            server="" if isinstance(place, Folder) else place.url,
            read_only=read_only,
        )
    except BaseException:
        opened.close()
        raise
