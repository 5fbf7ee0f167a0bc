from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from m3_vdb.stores import VectorStore, open_store
from tests._soak import soak
from tests.stores._corpus import IDENTITY, SHARED, make_documents, make_embeddings


@dataclass(frozen=True)
class Backend:
    """One way to keep a collection; ``open`` may be called again for the same collection."""

    name: str
    open: Callable[..., VectorStore]  # identity, then options of open_store
    keeps: bool = True  # the collection outlives close()
    strict_types: bool = True  # filters tell True from 1; qdrant-client's local mode compares with ==
    over_grpc: str = ""  # the URL, if gRPC is used
    options: dict[str, Any] = field(default_factory=dict)


SERVERS = {"milvus": "M3VDB_TEST_MILVUS_URI", "qdrant": "M3VDB_TEST_QDRANT_URL"}
"""Servers of your own that join if a variable names one, as milvus://HOST:PORT and qdrant://HOST:PORT (qdrant+grpc://HOST:PORT)."""
BACKENDS = ["memory", "local", "rest", "grpc", "edge", "milvus-lite", "milvus-stub"]
BACKENDS += soak(
    ["rest-strict", "rest-shards", "milvus-lite-server"]
)  # their scores: test_oracle.py, test_qdrant_forms.py
BACKENDS += [name for name, variable in SERVERS.items() if os.environ.get(variable)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with _backend(request, tmp_path) as made:
        yield made


@pytest.fixture
def store(backend: Backend) -> Iterator[VectorStore]:
    with backend.open(IDENTITY) as opened:
        yield opened


@pytest.fixture(scope="module", params=BACKENDS)
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One for all tests of a file."""
    with _backend(request, tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="module")
def shared(shared_backend: Backend) -> Iterator[VectorStore]:
    """A store with 150 documents (``_corpus.SHARED``) for all tests of a file: do not change it."""
    with shared_backend.open(IDENTITY) as opened:
        opened.upsert(make_documents(SHARED), make_embeddings(SHARED))
        yield opened


@contextmanager
def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param.startswith("milvus"):
        yield from _milvus(request.param, request, tmp_path)
    elif request.param == "memory":
        yield Backend(
            "memory", lambda identity, **options: open_store("memory://", identity or IDENTITY, **options), keeps=False
        )
    elif request.param == "edge":
        yield Backend("edge", functools.partial(open_store, str(tmp_path / "c.qdrant")))
    elif request.param == "qdrant":
        url = f"{os.environ[SERVERS['qdrant']]}/test_{uuid.uuid4().hex}"
        # All over REST, unless the URL is one for gRPC.
        yield Backend("qdrant", functools.partial(open_store, url, prefer_grpc=False))
        _drop_qdrant(url)
    elif request.param.startswith("rest"):
        from qdrant_client import models

        from benchmarks.stubs.qdrant_rest_stub import RestStub

        strict = models.StrictModeConfig(enabled=True, search_allow_exact=False, search_max_batchsize=2)
        stub = {
            "rest": RestStub,
            "rest-strict": lambda: RestStub(strict=strict),  # every search is a batch
            "rest-shards": lambda: RestStub(shards=3),  # every search takes two steps
        }[request.param]()
        url = f"qdrant://{stub.address}/notes"
        yield Backend(request.param, functools.partial(open_store, url))
        stub.close()
    elif request.param == "grpc":
        from benchmarks.stubs.qdrant_grpc_stub import GrpcStub

        server = GrpcStub()
        url, options = "qdrant://127.0.0.1:1/notes", {"prefer_grpc": True, "grpc_port": server.port}
        yield Backend("grpc", functools.partial(open_store, url, **options), over_grpc=url, options=options)
        server.close()
    else:
        from qdrant_client import QdrantClient

        from m3_vdb.stores.qdrant.server import QdrantStore

        client = QdrantClient(":memory:")
        close = client.close
        client.close = lambda *_args, **_kwargs: None  # a closed local client forgets everything
        yield Backend(
            "local",
            lambda identity, **options: QdrantStore(client, "notes", identity=identity, **options),
            strict_types=False,
        )
        close()


def _milvus(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if name == "milvus-lite":
        path = str(tmp_path / "c.milvus.db")
        yield Backend(name, functools.partial(open_store, path), over_grpc=path)
        return
    server = os.environ[SERVERS[name]] if name in SERVERS else request.getfixturevalue(name.replace("-", "_"))
    collection = f"test_{uuid.uuid4().hex}"
    url = f"{server}/{collection}"
    yield Backend(name, functools.partial(open_store, url), over_grpc=url)
    _drop_milvus(url)


def _drop_qdrant(url: str) -> None:
    from m3_vdb.stores.names import read_name
    from m3_vdb.stores.qdrant.client import connect

    place = read_name(url)
    client = connect(place, api_key=None, timeout=60)
    client.delete_collection(place.collection)
    client.close()


def _drop_milvus(url: str) -> None:
    from pymilvus import MilvusClient

    from m3_vdb.stores.names import KEY_VARIABLES, read_name

    place = read_name(url)
    token = os.environ.get(KEY_VARIABLES["milvus"], "")
    client = MilvusClient(place.url, token=token, db_name=place.database, dedicated=True)
    client.drop_collection(place.collection)
    client.close()


@pytest.fixture(scope="session")
def milvus_stub() -> Iterator[str]:
    """The interface of a Milvus server that has arrays of structs, over NumPy."""
    from benchmarks.stubs.milvus_stub import MilvusStub

    stub = MilvusStub()
    yield stub.url
    stub.close()


@pytest.fixture(scope="session")
def milvus_lite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """milvus-lite as a server of its own, over gRPC."""
    folder = tmp_path_factory.mktemp("milvus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--data-dir", str(folder)], stdout=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"milvus://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
