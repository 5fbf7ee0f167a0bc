"""Vector stores behind one contract (``m3_vdb.stores.base``), opened by URL.

A store's client library is imported when such a store is opened and not before: qdrant-client alone costs seconds.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from m3_vdb.encoding.identity import Identified, ModelIdentity, read_identity
from m3_vdb.errors import CollectionNotFoundError, ConfigError, MissingExtraError
from m3_vdb.imports import log_handlers_kept, no_usage_data
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.checks import check_documents
from m3_vdb.stores.description import CollectionDescription, describe
from m3_vdb.stores.memory import MemoryStore
from m3_vdb.stores.names import Folder, Memory, Server, read_name
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_OPTIONS, DEFAULT_WEIGHTS, CollectionOptions
from m3_vdb.stores.reading_copy import is_unwritable

__all__ = [
    "DEFAULT_CANDIDATES",
    "DEFAULT_WEIGHTS",
    "CollectionDescription",
    "CollectionOptions",
    "MemoryStore",
    "ModelIdentity",
    "VectorStore",
    "check_documents",
    "describe",
    "open_store",
]

_PACKAGES: Final = ("qdrant_client", "orjson", "qdrant_edge", "grpc", "pymilvus", "milvus_lite")


def open_store(
    url: str | os.PathLike[str],
    identity: ModelIdentity | Identified | None = None,
    *,
    create: bool = True,
    exact: bool | None = None,
    options: CollectionOptions = DEFAULT_OPTIONS,
    api_key: str | None = None,
    prefer_grpc: bool | None = None,
    grpc_port: int | None = None,
    timeout: int = 60,
    read_only: bool = False,
) -> VectorStore:
    """Open the collection that a URL names.

    Args:
        url: ``memory://``; a folder (``./notes.qdrant``, ``file:notes``, or any existing collection folder, and
            ``./notes.milvus.db`` for milvus-lite); or a server (``qdrant://host:6333/collection``, ``qdrant+https://…``,
            ``http(s)://…``, or over gRPC ``qdrant+grpc://host:6334/collection``, with TLS ``qdrant+grpcs://…``; or
            ``milvus://host:19530/collection``, ``milvus+https://…``, with a Milvus database as
            ``milvus://host:19530/database/collection``). A ``PathLike`` is a folder; ``~`` is the home folder.
        identity: your embedding function, or the identity of its model; None opens an existing collection of any
            model.
        create: make the collection if it does not exist.
        exact: pick candidates by a full scan (True), by HNSW where there is one (False), or by the default (None): a
            folder by full scan, a server by HNSW. Milvus decides this when a collection is made.
        options: how a new collection is made: storage, payload indexes, …
        api_key: for a server; if None, the environment variable ``QDRANT_API_KEY`` or ``MILVUS_TOKEN``.
        prefer_grpc: of a Qdrant server whose URL names REST's port: True sends everything over gRPC, False nothing;
            None sends vectors over gRPC where it answers, which is found out at the first upload. It is always checked
            that both ports are of one server. A URL for gRPC needs no word of it.
        grpc_port: the port for that; None for 6334 beside 6333. Host, TLS, key and timeout are those of the URL and the
            arguments.
        timeout: seconds to wait for a server's answer.
        read_only: write nothing, make nothing, and refuse to. Of a folder, which its engine would take for itself, a
            copy is read, as it is now; any number of processes may do so. A folder that cannot be written is always
            opened so.

    Raises:
        StoreUrlError: unrecognised URL.
        CollectionNotFoundError: the collection does not exist, and create=False.
        CollectionMismatchError: the collection belongs to another model.
        ConfigError: an option that the store does not support, or an argument of the wrong type.
        MissingExtraError: the store's packages are not installed.
        StoreConnectionError: the server did not answer.
        StoreError: a folder is open already.
    """
    place, identity = read_name(url), read_identity(identity)
    if not isinstance(options, CollectionOptions):
        raise ConfigError(f"options={options!r}: expected CollectionOptions(…)")
    if isinstance(place, Memory):
        if identity is None or not create:
            raise CollectionNotFoundError(
                "memory:// holds no collection until one is made: open_store('memory://', embed)"
            )
        options.require_only("bm25", "full_text", where="memory://")
        return MemoryStore(identity, bm25=options.bm25)
    if isinstance(place, Folder):  # engines open files later, too, when the program may be in another folder
        place = replace(place, path=place.path.absolute())
        read_only = read_only or is_unwritable(place.path)
    try:
        if place.engine == "milvus":
            with log_handlers_kept():
                from m3_vdb.stores.milvus import open_milvus  # noqa: PLC0415 - optional

            return open_milvus(
                place,
                identity=identity,
                create=create,
                exact=exact,
                options=options,
                token=api_key,
                timeout=timeout,
                read_only=read_only,
            )
        if isinstance(place, Folder):
            from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore  # noqa: PLC0415 - optional

            return QdrantEdgeStore(
                place.path,
                identity=identity,
                create=create,
                exact=exact is not False,
                options=options,
                read_only=read_only,
            )
        with no_usage_data():  # qdrant-client imports fastembed where that is installed, and fastembed onnxruntime
            from m3_vdb.stores.qdrant.client import connect, one_server, why_rest  # noqa: PLC0415 - seconds to import
            from m3_vdb.stores.qdrant.server import QdrantStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _PACKAGES:
            raise
        what = "a server" if isinstance(place, Server) else "a folder"
        raise MissingExtraError(f"a {place.engine.title()} store ({what})", extra=place.engine) from error
    client = connect(place, api_key=api_key, prefer_grpc=bool(prefer_grpc), grpc_port=grpc_port, timeout=timeout)
    try:
        with one_server(client, place, api_key=api_key):
            return QdrantStore(
                client,
                place.collection,
                identity=identity,
                create=create,
                exact=bool(exact),
                options=options,
                read_only=read_only,
                why_rest=why_rest(place, prefer_grpc=prefer_grpc, grpc_port=grpc_port),
            )
    except BaseException:
        client.close()
        raise
