"""Vector stores behind one contract (``m3_vdb.stores.base``), opened by URL.

A store's client library is imported when such a store is opened and not before: qdrant-client alone costs seconds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from m3_vdb.errors import CollectionNotFoundError, ConfigError, MissingExtraError, StoreUrlError
from m3_vdb.inputs import read_location
from m3_vdb.stores._checks import check_documents
from m3_vdb.stores._folder import IDENTITY_FILE
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.identity import Identified, ModelIdentity, read_identity
from m3_vdb.stores.memory import MemoryStore
from m3_vdb.stores.options import DEFAULT_OPTIONS, CollectionOptions
from m3_vdb.stores.search import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS
from m3_vdb.usage_data import no_usage_data

__all__ = [
    "DEFAULT_CANDIDATES",
    "DEFAULT_WEIGHTS",
    "CollectionOptions",
    "MemoryStore",
    "ModelIdentity",
    "VectorStore",
    "check_documents",
    "open_store",
]

API_KEY_VARIABLE: Final = "QDRANT_API_KEY"
_SCHEMES: Final = {"qdrant": "http", "qdrant+https": "https", "http": "http", "https": "https"}
_DEFAULT_PORT: Final = 6333
_PACKAGES: Final = ("qdrant_client", "qdrant_edge", "grpc", "pymilvus", "milvus_lite")
_MILVUS_SCHEMES: Final = ("milvus", "milvus+https")
_MILVUS_FILE: Final = ".milvus.db"
_FORMS: Final = (
    "memory://, a folder such as ./notes.qdrant or ./notes.milvus.db, or a server as qdrant://HOST:6333/COLLECTION or "
    "milvus://HOST:19530/COLLECTION (qdrant+https://, milvus+https:// for TLS)"
)


def open_store(
    url: str | os.PathLike[str],
    *,
    identity: ModelIdentity | Identified | None,
    create: bool = True,
    exact: bool | None = None,
    options: CollectionOptions = DEFAULT_OPTIONS,
    api_key: str | None = None,
    prefer_grpc: bool = False,
    grpc_port: int = 6334,
    timeout: int = 60,
) -> VectorStore:
    """Open the collection that a URL names.

    Args:
        url: ``memory://``; a folder (``./notes.qdrant``, ``file:notes``, or any existing collection folder, and
            ``./notes.milvus.db`` for milvus-lite); or a server (``qdrant://host:6333/collection``, ``qdrant+https://…``,
            ``http(s)://…``, or ``milvus://host:19530/collection``, ``milvus+https://…``, with a Milvus database as
            ``milvus://host:19530/database/collection``).
        identity: the model at hand, or the embedding function that has it; None opens an existing collection whatever
            its model.
        create: make the collection if there is none.
        exact: pick candidates by a full scan (True), by HNSW where there is one (False), or as is natural (None): a
            folder by full scan, a server by HNSW. Milvus decides this when a collection is made.
        options: how a new collection is made: storage, payload indexes, …
        api_key: for a server; if None, the environment variable ``QDRANT_API_KEY`` or ``MILVUS_TOKEN``.
        prefer_grpc: talk gRPC to a Qdrant server.
        grpc_port: the port for that; host, TLS, key and timeout are those of the URL and the arguments.
        timeout: seconds to wait for a server's answer.

    Raises:
        StoreUrlError: the URL has none of these forms.
        CollectionNotFoundError: no such collection, and none may be made.
        CollectionMismatchError: the collection belongs to another model.
        ConfigError: an option that the store does not have, or an argument of another type.
        MissingExtraError: the store's packages are not installed.
        StoreConnectionError: the server did not answer.
    """
    url, identity = read_location(url), read_identity(identity)
    if not isinstance(options, CollectionOptions):
        raise ConfigError(f"options={options!r}: expected CollectionOptions(…)")
    if url == "memory://":
        if identity is None or not create:
            raise CollectionNotFoundError("memory:// holds no collection until one is made: give a model's identity")
        options.require_only(where="memory://")
        return MemoryStore(identity)
    folder = _folder(url)
    if folder is not None and folder.name.endswith(_MILVUS_FILE):
        return _open_milvus(
            folder, identity, create=create, exact=exact, options=options, token=api_key, timeout=timeout
        )
    if urlsplit(url).scheme in _MILVUS_SCHEMES:
        return _open_milvus(url, identity, create=create, exact=exact, options=options, token=api_key, timeout=timeout)
    if folder is not None:
        return _open_folder(folder, identity, create=create, exact=exact is not False, options=options)
    if urlsplit(url).scheme not in _SCHEMES:
        raise StoreUrlError(f"{url!r} names no store; expected {_FORMS}")
    server, collection = _server(url)
    client_options = {
        "url": server,
        "api_key": api_key or os.environ.get(API_KEY_VARIABLE),
        "prefer_grpc": prefer_grpc,
        "grpc_port": grpc_port,
        "timeout": timeout,
        "check_compatibility": False,  # it would warn on a terminal; what matters is checked when a collection opens
    }
    return _open_server(client_options, collection, identity, create=create, exact=bool(exact), options=options)


def _open_server(
    client_options: dict[str, Any],
    collection: str,
    identity: ModelIdentity | None,
    *,
    create: bool,
    exact: bool,
    options: CollectionOptions,
) -> VectorStore:
    try:
        with no_usage_data():  # it imports fastembed where that is installed, and fastembed imports onnxruntime
            from qdrant_client import QdrantClient  # noqa: PLC0415 - seconds to import, and optional

        from m3_vdb.stores.qdrant import QdrantStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing(error, "a Qdrant server", extra="qdrant") from error
    client = QdrantClient(**client_options)
    try:
        return QdrantStore(client, collection, identity=identity, create=create, exact=exact, options=options)
    except BaseException:
        client.close()
        raise


def _folder(url: str) -> Path | None:
    """The folder that a URL names, or None if it names something else."""
    if url.startswith("file:"):
        path = unquote(urlsplit(url).path)
        if urlsplit(url).netloc not in ("", "localhost") or not path:
            raise StoreUrlError(f"{url!r}: expected file:relative/path or file:///absolute/path")
        return Path(path)
    if re.match(r"[a-z][a-z0-9+]*://", url):
        return None
    if url.endswith((".qdrant", _MILVUS_FILE)) or (Path(url) / IDENTITY_FILE).is_file():
        return Path(url)
    return None


def _open_folder(
    folder: Path, identity: ModelIdentity | None, *, create: bool, exact: bool, options: CollectionOptions
) -> VectorStore:
    try:
        from m3_vdb.stores.qdrant_edge import QdrantEdgeStore  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise _missing(error, "a store in a folder", extra="qdrant") from error
    return QdrantEdgeStore(folder, identity=identity, create=create, exact=exact, options=options)


def _open_milvus(
    where: Path | str,
    identity: ModelIdentity | None,
    *,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    token: str | None,
    timeout: int,
) -> VectorStore:
    """A store in a file of milvus-lite (a path) or on a Milvus server (a URL)."""
    try:
        from m3_vdb.stores._milvus_connect import open_file, open_server  # noqa: PLC0415 - optional

        if isinstance(where, Path):
            return open_file(where, identity=identity, create=create, exact=exact, options=options, timeout=timeout)
    except ModuleNotFoundError as error:
        raise _missing(error, "a Milvus store", extra="milvus") from error
    return open_server(
        where, identity=identity, create=create, exact=exact, options=options, token=token, timeout=timeout
    )


def _server(url: str) -> tuple[str, str]:
    """(URL of the server, name of the collection); a path before the last part stays with the server."""
    parts = urlsplit(url)
    prefix, _, collection = parts.path.rpartition("/")
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        port = 0
    if not parts.hostname or not collection or not port or parts.query or parts.fragment or parts.username:
        raise StoreUrlError(
            f"{url!r}: expected {parts.scheme}://HOST:PORT/COLLECTION (a key goes to api_key= or {API_KEY_VARIABLE})"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{_SCHEMES[parts.scheme]}://{host}:{port}{prefix}", unquote(collection)


def _missing(error: ModuleNotFoundError, feature: str, *, extra: str) -> Exception:
    if error.name is not None and error.name.split(".")[0] in _PACKAGES:
        return MissingExtraError(feature, extra=extra)
    return error
