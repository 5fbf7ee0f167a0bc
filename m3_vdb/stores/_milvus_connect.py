"""From a URL to an open Milvus store: a server, or milvus-lite in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pymilvus import MilvusClient

from m3_vdb.errors import CollectionNotFoundError, StoreUrlError
from m3_vdb.stores._milvus_errors import mapped_errors
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.milvus import MilvusStore
from m3_vdb.stores.options import CollectionOptions

TOKEN_VARIABLE: Final = "MILVUS_TOKEN"

SCHEMES: Final = {"milvus": "http", "milvus+https": "https"}
COLLECTION_IN_FILE: Final = "m3"
"""A file holds one collection, as a folder of Qdrant's engine does."""
_DEFAULT_PORT: Final = 19530


def open_server(
    url: str,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    token: str | None,
    timeout: float,
) -> MilvusStore:
    """Open a collection on a server; see ``m3_vdb.stores.open_store``.

    Raises:
        StoreUrlError: the URL is not of the form ``milvus://HOST:PORT/[DATABASE/]COLLECTION``.
        StoreConnectionError: the server did not answer.
    """
    server, database, collection = split_url(url)
    with mapped_errors(f"Milvus server {server}"):
        client = MilvusClient(
            uri=server,
            token=token or os.environ.get(TOKEN_VARIABLE, ""),
            db_name=database,
            timeout=timeout,
            dedicated=True,  # pymilvus shares connections by default, and closing one would close all
        )
    try:
        return MilvusStore(
            client, collection, identity=identity, create=create, exact=exact, options=options, timeout=timeout
        )
    except BaseException:
        client.close()
        raise


def open_file(
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


def split_url(url: str) -> tuple[str, str, str]:
    """(URI of the server, database or "", collection) of ``milvus://HOST:PORT/[DATABASE/]COLLECTION``."""
    parts = urlsplit(url)
    names = [unquote(name) for name in parts.path.split("/")[1:]]
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        port = 0
    usable = parts.hostname and port and 1 <= len(names) <= 2 and all(names)
    if not usable or parts.query or parts.fragment or parts.username:
        raise StoreUrlError(
            f"{url!r}: expected {parts.scheme}://HOST:PORT/COLLECTION or …/DATABASE/COLLECTION (a token goes to "
            f"api_key= or {TOKEN_VARIABLE})"
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{SCHEMES[parts.scheme]}://{host}:{port}", names[0] if len(names) == 2 else "", names[-1]
