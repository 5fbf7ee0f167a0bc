"""What several benchmarks use: tables, random texts as vectors, and the stores that can be had on this machine.

The random texts have the shapes and overlaps of m3-small's: no model is asked, and everything is seeded. A text is a
draw of tokens from a long-tailed vocabulary around one of 200 topics. Its token rows are keyed by the token (a vector
of the token and some noise), so texts that share tokens share nearly equal rows; its lexical weights are those of its
tokens; its dense vector is near the topic's. On the multilingual texts of the tests, m3-small gives 384 numbers, 101
rows of 96 and 40 tokens per text, dense products of 0.45 to 0.84 between texts, and 5 tokens per query; so do these,
within a few per cent.

Each store is opened empty; servers of your own join by an environment variable. Those that are called stubs
(``benchmarks/stubs``) answer real requests of the real client on a real socket, and behind them is the embedded engine
(Qdrant) or NumPy (Milvus). Their scores are worth comparing, their times are not.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from m3_vdb.stores import CollectionOptions, ModelIdentity, VectorStore, open_store
from m3_vdb.stores.options import IndexType, Storage
from m3_vdb.types import Document, FloatArray, M3Embedding, M3Embeddings

CORPUS: Final = Path("tests/fixtures/multilingual.jsonl")
MACHINE: Final = platform.processor() or platform.machine()

Rows = Sequence[Sequence[str]]
"""Of a table; the first one is the head, and all have one length."""


def text_table(rows: Rows) -> str:
    """Rows for the terminal: the first column is left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Rows) -> str:
    """The same as Markdown, without a line break at the end."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def known(names: Sequence[str], allowed: Mapping[str, object]) -> Sequence[str]:
    """The names that a command line gave.

    Raises:
        typer.BadParameter: one is not among ``allowed``.
    """
    if unknown := set(names) - allowed.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(allowed)}")
    return names


LANGUAGES: Final = ("de", "en", "fr", "ja")
_VOCABULARY: Final = 30_000
_TOPIC_VOCABULARY: Final = 600
_TOPICS: Final = 200
_TOPIC_RANK: Final = 12
"""Dimensions in which topics lie: few, so that some topics are near each other."""
_TOKEN_VECTORS: Final = 4096
_WIDTHS: Final = (384, 96)


def identity(multi_vector_dim: int = _WIDTHS[1]) -> ModelIdentity:
    """A model that does not exist, of m3-small's widths."""
    return ModelIdentity(name="synthetic", fingerprint="0", dense_dim=_WIDTHS[0], multi_vector_dim=multi_vector_dim)


def documents(start: int, stop: int) -> list[Document]:
    """Documents d<start> … d<stop - 1>; their payloads have a keyword, an integer, a bool, a float and a list."""
    return [Document(id=f"d{i}", title=f"title {i}", text=f"text {i}", payload=_payload(i)) for i in range(start, stop)]


def _payload(i: int) -> dict[str, Any]:
    return {
        "lang": LANGUAGES[i % 4],
        "year": 2000 + i % 23,
        "draft": i % 5 == 0,
        "price": i % 4 + 0.5,
        "tags": ["all", f"t{i % 10}"],
    }


def embeddings(n: int, *, seed: int, queries: bool = False, multi_vector_dim: int = _WIDTHS[1]) -> M3Embeddings:
    """Vectors of n texts; the same seed gives the same texts.

    Args:
        n: texts.
        seed: of these texts; topics and token vectors are the same for all seeds.
        queries: short texts, of 3 to 13 rows instead of about 100.
        multi_vector_dim: numbers per row.
    """
    rng, shared = np.random.default_rng([7, seed]), np.random.default_rng(99)
    centre = shared.normal(size=_WIDTHS[0])
    topics = shared.normal(size=(_TOPICS, _TOPIC_RANK)) @ shared.normal(size=(_TOPIC_RANK, _WIDTHS[0]))
    topics /= _TOPIC_RANK**0.5
    token_centre = shared.normal(size=multi_vector_dim)
    token_vectors = shared.normal(size=(_TOKEN_VECTORS, multi_vector_dim))
    rows = rng.integers(3, 14, size=n) if queries else np.clip(rng.normal(100, 30, size=n), 8, 250).astype(int)
    topic = rng.integers(_TOPICS, size=n)
    tokens = _tokens(rng, np.repeat(topic, rows))
    dense = 1.1 * centre + 0.75 * topics[topic] + 0.5 * rng.normal(size=(n, _WIDTHS[0]))
    multi = 0.5 * token_centre + token_vectors[tokens % _TOKEN_VECTORS]
    multi = multi + 0.5 * rng.normal(size=multi.shape)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    # About half of a text's tokens carry a lexical weight; a token counts once.
    ids = [np.unique(tokens[a:b][:: 1 if queries else 2]) for a, b in pairwise(offsets)]
    return M3Embeddings(
        token_counts=(rows + 1).astype(np.int32),
        truncated=np.zeros(n, np.bool_),
        dense=_unit(dense),
        sparse_ids=np.concatenate(ids).astype(np.int32),
        sparse_weights=(0.3 * rng.beta(1.2, 2, size=sum(map(len, ids))) + 1e-3).astype(np.float32),
        sparse_offsets=np.cumsum([0, *map(len, ids)]),
        multi_vector=_unit(multi),
        multi_vector_offsets=offsets,
    )


def queries(n: int, *, multi_vector_dim: int = _WIDTHS[1]) -> list[M3Embedding]:
    """Vectors of n short texts of the same topics and tokens."""
    return list(embeddings(n, seed=1_000_000, queries=True, multi_vector_dim=multi_vector_dim))


def _tokens(rng: np.random.Generator, topic: NDArray[np.int64]) -> NDArray[np.int64]:
    """One token per row, by a long tail: half of them from the whole vocabulary, half from the topic's part of it."""
    own = rng.random(len(topic)) < 0.5
    longest = np.where(own, _TOPIC_VOCABULARY, _VOCABULARY)
    rank = np.exp(rng.random(len(topic)) * np.log(longest)).astype(np.int64)
    return np.where(own, (rank * 31 + topic * 977) % _VOCABULARY, rank) + 4


def _unit(rows: NDArray[np.float64]) -> FloatArray:
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


INDEXES: Final[dict[str, IndexType]] = {"lang": "keyword", "draft": "bool", "year": "integer"}
INDEXED: Final = CollectionOptions(indexes=INDEXES)
SERVERS: Final = {"qdrant server": "M3VDB_TEST_QDRANT_URL", "milvus server": "M3VDB_TEST_MILVUS_URI"}
"""The variables of the tests: ``qdrant://HOST:PORT`` and ``milvus://HOST:PORT``, without a collection."""

Opener = Callable[[ModelIdentity, Path, CollectionOptions], AbstractContextManager[VectorStore]]


@contextmanager
def _folder(
    identity: ModelIdentity,
    folder: Path,
    options: CollectionOptions,
    *,
    storage: Storage = "float32",
    exact: bool = True,
) -> Iterator[VectorStore]:
    made = replace(options, storage=storage)
    with open_store(str(folder / "x.qdrant"), identity=identity, options=made, exact=exact) as store:
        yield store


@contextmanager
def _local(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
    from qdrant_client import QdrantClient

    from m3_vdb.stores.qdrant.server import QdrantStore

    made = replace(options, indexes={})  # local mode has none
    with QdrantStore(QdrantClient(":memory:"), "x", identity=identity, options=made) as store:
        yield store


@contextmanager
def _rest(
    identity: ModelIdentity, folder: Path, options: CollectionOptions, *, shards: int = 1, is_strict: bool = False
) -> Iterator[VectorStore]:
    from qdrant_client import models

    from benchmarks.stubs.qdrant_rest_stub import RestStub

    strict = models.StrictModeConfig(enabled=True, search_allow_exact=False) if is_strict else None
    stub = RestStub(shards=shards, strict=strict)
    try:
        with open_store(f"qdrant://{stub.address}/x", identity=identity, options=options) as store:
            yield store
    finally:
        stub.close()


@contextmanager
def _grpc(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
    from benchmarks.stubs.qdrant_grpc_stub import GrpcStub

    stub = GrpcStub()
    try:
        with open_store(f"qdrant+grpc://127.0.0.1:{stub.port}/x", identity=identity, options=options) as store:
            yield store
    finally:
        stub.close()


@contextmanager
def _milvus_file(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
    with open_store(str(folder / "x.milvus.db"), identity=identity, options=options) as store:
        yield store


@contextmanager
def _milvus_lite_server(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen([*command, "--data-dir", str(folder / "milvus")], stdout=subprocess.DEVNULL)
    try:
        _wait_for(int(port))
        with open_store(f"milvus://127.0.0.1:{port}/x", identity=identity, options=options) as store:
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
def _milvus_stub(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
    from benchmarks.stubs.milvus_stub import MilvusStub

    stub = MilvusStub()
    try:
        with open_store(f"{stub.url}/x", identity=identity, options=options) as store:
            yield store
    finally:
        stub.close()


def _server(variable: str) -> Opener:
    @contextmanager
    def opened(identity: ModelIdentity, folder: Path, options: CollectionOptions) -> Iterator[VectorStore]:
        # A new name each time: the collection stays on the server, to look at.
        url = f"{os.environ[variable]}/benchmark_{uuid.uuid4().hex[:8]}"
        with open_store(url, identity=identity, options=options) as store:
            yield store

    return opened


STORES: Final[dict[str, Opener]] = {
    "qdrant folder": _folder,
    "qdrant folder, half": lambda *given: _folder(*given, storage="half"),
    "qdrant local mode": _local,
    "qdrant REST stub": _rest,
    "qdrant REST stub, strict": lambda *given: _rest(*given, is_strict=True),
    "qdrant REST stub, 3 shards": lambda *given: _rest(*given, shards=3),
    "qdrant gRPC stub": _grpc,
    "milvus-lite file": _milvus_file,
    "milvus-lite server": _milvus_lite_server,
    "milvus gRPC stub": _milvus_stub,
    **{name: _server(variable) for name, variable in SERVERS.items() if os.environ.get(variable)},
}
"""What can be compared: name → opens a new collection, with its files (if any) below a folder."""
APPROXIMATE: Final[dict[str, Opener]] = {"qdrant folder, HNSW": lambda *given: _folder(*given, exact=False)}
"""May lose a candidate, so it is timed and not compared."""
