"""The stores that can be had on this machine, each opened empty; servers of one's own join by an environment variable.

The servers among them are stubs where they say so: real requests of the real client on a real socket, and
behind them the embedded engine (Qdrant) or NumPy (Milvus). Their scores are worth comparing, their times are not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from m3_vdb.stores import CollectionOptions, ModelIdentity, VectorStore, open_store
from m3_vdb.stores.options import IndexType, Storage

INDEXES: Final[dict[str, IndexType]] = {"lang": "keyword", "draft": "bool", "year": "integer"}
SERVERS: Final = {"qdrant server": "M3VDB_TEST_QDRANT_URL", "milvus server": "M3VDB_TEST_MILVUS_URI"}
"""The variables of the tests: ``qdrant://HOST:PORT`` and ``milvus://HOST:PORT``, without a collection."""

Opener = Callable[[ModelIdentity, Path], AbstractContextManager[VectorStore]]


@contextmanager
def _folder(
    identity: ModelIdentity, folder: Path, *, storage: Storage = "float32", exact: bool = True
) -> Iterator[VectorStore]:
    made = CollectionOptions(indexes=INDEXES, storage=storage)
    with open_store(str(folder / "x.qdrant"), identity=identity, options=made, exact=exact) as store:
        yield store


@contextmanager
def _local(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
    from qdrant_client import QdrantClient

    from m3_vdb.stores.qdrant.server import QdrantStore

    with QdrantStore(QdrantClient(":memory:"), "x", identity=identity) as store:
        yield store


@contextmanager
def _rest(identity: ModelIdentity, folder: Path, *, shards: int = 1, is_strict: bool = False) -> Iterator[VectorStore]:
    from qdrant_client import models

    from benchmarks.stubs.qdrant_rest_stub import RestStub

    strict = models.StrictModeConfig(enabled=True, search_allow_exact=False) if is_strict else None
    stub = RestStub(shards=shards, strict=strict)
    try:
        options = CollectionOptions(indexes=INDEXES)
        with open_store(f"qdrant://{stub.address}/x", identity=identity, options=options) as store:
            yield store
    finally:
        stub.close()


@contextmanager
def _grpc(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
    from benchmarks.stubs.qdrant_grpc_stub import GrpcStub

    stub = GrpcStub()
    try:
        url = "qdrant://127.0.0.1:1/x"  # nothing listens on the port of REST
        with open_store(url, identity=identity, prefer_grpc=True, grpc_port=stub.port) as store:
            yield store
    finally:
        stub.close()


@contextmanager
def _milvus_file(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
    with open_store(str(folder / "x.milvus.db"), identity=identity) as store:
        yield store


@contextmanager
def _milvus_lite_server(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen([*command, "--data-dir", str(folder / "milvus")], stdout=subprocess.DEVNULL)
    try:
        _wait_for(int(port))
        with open_store(f"milvus://127.0.0.1:{port}/x", identity=identity) as store:
            yield store
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port} after {seconds:g} s")


@contextmanager
def _milvus_stub(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
    from benchmarks.stubs.milvus_stub import MilvusStub

    stub = MilvusStub()
    try:
        with open_store(f"{stub.url}/x", identity=identity) as store:
            yield store
    finally:
        stub.close()


def _server(variable: str) -> Opener:
    @contextmanager
    def opened(identity: ModelIdentity, folder: Path) -> Iterator[VectorStore]:
        # A new name each time: the collection stays on the server, to look at.
        with open_store(f"{os.environ[variable]}/benchmark_{uuid.uuid4().hex[:8]}", identity=identity) as store:
            yield store

    return opened


STORES: Final[dict[str, Opener]] = {
    "qdrant folder": _folder,
    "qdrant folder, half": lambda identity, folder: _folder(identity, folder, storage="half"),
    "qdrant local mode": _local,
    "qdrant REST stub": _rest,
    "qdrant REST stub, strict": lambda identity, folder: _rest(identity, folder, is_strict=True),
    "qdrant REST stub, 3 shards": lambda identity, folder: _rest(identity, folder, shards=3),
    "qdrant gRPC stub": _grpc,
    "milvus-lite file": _milvus_file,
    "milvus-lite server": _milvus_lite_server,
    "milvus gRPC stub": _milvus_stub,
    **{name: _server(variable) for name, variable in SERVERS.items() if os.environ.get(variable)},
}
"""What can be compared: name → opens a new collection, with its files (if any) below a folder."""
APPROXIMATE: Final[dict[str, Opener]] = {
    "qdrant folder, HNSW": lambda identity, folder: _folder(identity, folder, exact=False)
}
"""May lose a candidate, so it is timed and not compared."""
