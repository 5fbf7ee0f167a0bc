"""Cost of an upload in the client's process: its processor time per document, and bytes on the wire.

``python -m benchmarks.upload`` writes documents of 100 rows to stubs of a Qdrant server (REST, gRPC) and of a Milvus
server. The stubs run in a process of their own, read each request with the official classes and store nothing, so
what is measured is the client's. "Plain" is the plain client of the same library, given the same points in its own
request models (Qdrant: ``PointStruct`` with lists; Milvus: rows). Both write the same batches in turns. The raw
arrays are the vectors as float32, the token ids as 32 bits, and the payload as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks import common
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores import open_store
from m3_vdb.stores.points import Point, make_points
from m3_vdb.types import Document, M3Embeddings

ROWS: Final = 100
TOKENS: Final = 60
"""Lexical weights of a document."""
WIRES: Final = {"REST": "qdrant://{}/x", "gRPC": "qdrant+grpc://{}/x", "Milvus": "milvus://{}/x"}
BATCH: Final = {1024: 8, 384: 16, 96: 48}
"""Documents per upsert: as JSON less than the 32 MiB that a Qdrant server takes."""

Write = Callable[[list[Document], M3Embeddings], None]


def identity(width: int) -> ModelIdentity:
    """A model that does not exist; its dense vectors are as wide as BGE-M3's beside wide rows, or as m3-small's."""
    return ModelIdentity(name="random", fingerprint="0", dense_dim=max(width, 384), multi_vector_dim=width)


def documents(n: int, width: int) -> tuple[list[Document], M3Embeddings]:
    """Texts of 100 words with random vectors of unit length."""
    rng, model = np.random.default_rng(width), identity(width)
    rows = rng.normal(size=(n * ROWS, width)).astype(np.float32)
    dense = rng.normal(size=(n, model.dense_dim)).astype(np.float32)
    return [Document(f"d{i}", "word " * ROWS, payload={"lang": "en", "year": 2000}) for i in range(n)], M3Embeddings(
        token_counts=np.full(n, ROWS + 1, np.int32),
        truncated=np.zeros(n, np.bool_),
        dense=dense / np.linalg.norm(dense, axis=1, keepdims=True),
        sparse_ids=np.concatenate([np.sort(rng.choice(250_000, TOKENS, replace=False)) for _ in range(n)]).astype(
            np.int32
        ),
        sparse_weights=rng.uniform(0.01, 0.4, n * TOKENS).astype(np.float32),
        sparse_offsets=np.arange(n + 1) * TOKENS,
        multi_vector=rows / np.linalg.norm(rows, axis=1, keepdims=True),
        multi_vector_offsets=np.arange(n + 1) * ROWS,
    )


def points_of(documents: list[Document], embeddings: M3Embeddings, model: ModelIdentity) -> list[Point]:
    """The points that a store makes of documents."""
    return make_points(documents, embeddings, identity=model, max_rows=None, types={})


def raw_bytes(point: Point) -> int:
    """Of a point's arrays and payload."""
    return 4 * point.floats + point.payload_bytes


def _serve(wire: str, pipe: Connection) -> None:
    """A stub that reads what is written and counts its bytes, until the pipe ends."""
    counted: deque[int] = deque()
    if wire == "REST":
        from qdrant_client import models

        from benchmarks.stubs.qdrant_rest_stub import RestStub

        answer_others = RestStub._in_collection

        def answer(self: Any, route: str, found: Any, body: Any) -> Any:  # noqa: ANN401 - as the stub's
            if route != "PUT points":
                return answer_others(self, route, found, body)
            assert models.PointsList.model_validate(body).points
            counted.append(self.bodies[-1][2])
            return {"operation_id": 0, "status": "completed"}

        RestStub._in_collection = answer
        rest = RestStub()
        rest.bodies = deque(maxlen=1)
        pipe.send(rest.address)
    elif wire == "gRPC":
        from qdrant_client import grpc as q

        from benchmarks.stubs import qdrant_grpc_stub

        def upsert(_self: Any, request: Any) -> Any:  # noqa: ANN401 - as the stub's
            assert request.points[0].vectors.vectors.vectors["multi_vector"].multi_dense.vectors[0].data
            counted.append(request.ByteSize())
            return q.PointsOperationResponse(result=q.UpdateResult(status=q.UpdateStatus.Completed))

        qdrant_grpc_stub._Points.Upsert = upsert
        pipe.send(f"127.0.0.1:{qdrant_grpc_stub.GrpcStub().port}")
    else:
        from pymilvus.grpc_gen import milvus_pb2

        from benchmarks.stubs.milvus_stub import MilvusStub

        insert = MilvusStub.Upsert

        def upsert_rows(self: Any, request: Any) -> Any:  # noqa: ANN401 - as the stub's
            if "probe" in request.collection_name:
                return insert(self, request)
            counted.append(request.ByteSize())
            return milvus_pb2.MutationResult(upsert_cnt=request.num_rows)

        MilvusStub.Upsert = upsert_rows
        milvus = MilvusStub()
        milvus.calls = deque(maxlen=1)
        pipe.send(f"127.0.0.1:{milvus.port}")
    while pipe.recv() == "bytes":
        pipe.send(sum(counted))
        counted.clear()


@contextmanager
def served(wire: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """A stub's address, and what tells how many bytes were written since it was last asked."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(wire, its), daemon=True)
    process.start()
    its.close()

    def asked() -> int:
        ours.send("bytes")
        return int(ours.recv())

    try:
        yield str(ours.recv()), asked
    finally:
        ours.send("end")
        process.terminate()
        process.join()


@contextmanager
def plain_client(wire: str, address: str, width: int) -> Iterator[Write]:
    """What writes documents with nothing but the library's own client and request models."""
    model = identity(width)
    if wire == "Milvus":
        from pymilvus import MilvusClient

        from m3_vdb.stores.milvus.filters import numbers, terms
        from m3_vdb.stores.milvus.rows import to_row
        from m3_vdb.stores.milvus.wire import STRUCT_ROW
        from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE

        milvus = MilvusClient(uri=f"http://{address}", dedicated=True)

        def write_rows(documents: list[Document], embeddings: M3Embeddings) -> None:
            rows = [
                {
                    **to_row(one, terms(payload), numbers(payload), struct=True, half=False),
                    "payload": payload,
                    "numbers": numbers(payload),
                    DENSE: one.dense,
                    SPARSE: one.sparse.as_dict(),
                    MULTI_VECTOR: [{STRUCT_ROW: row} for row in one.multi_vector],
                }
                for one in points_of(documents, embeddings, model)
                for payload in [one.payload["payload"]]
            ]
            milvus.upsert("x", rows)

        yield write_rows
        milvus.close()
        return
    from qdrant_client import QdrantClient, models

    host, port = address.split(":")
    client = QdrantClient(
        host=host, port=int(port), grpc_port=int(port), prefer_grpc=wire == "gRPC", check_compatibility=False,
        timeout=600,
    )  # fmt: skip

    def write_points(documents: list[Document], embeddings: M3Embeddings) -> None:
        structs = [
            models.PointStruct(id=one.id, payload=one.payload, vector=one.embedding.to_qdrant())
            for one in points_of(documents, embeddings, model)
        ]
        client.upsert("x", structs, wait=True)

    yield write_points
    client.close()


def measure(wire: str, width: int, rounds: int) -> dict[str, Any]:
    """Write the same documents by the store and by the plain client, in turns."""
    some, vectors = documents(BATCH[width], width)
    raw = sum(map(raw_bytes, points_of(some, vectors, identity(width)))) / len(some)
    with (
        served(wire) as (address, count),
        open_store(WIRES[wire].format(address), identity=identity(width)) as store,
        plain_client(wire, address, width) as plain,
    ):
        writers: dict[str, Write] = {"store": store.upsert, "plain": plain}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
        sent: dict[str, float] = {}
        count()
        for turn in range(rounds + 1):  # the first one warms up
            for name in list(writers)[:: 1 if turn % 2 else -1]:
                cpu, wall = time.process_time(), time.perf_counter()
                writers[name](some, vectors)
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
                sent[name] = count() / len(some)
    found: dict[str, Any] = {"wire": wire, "width": width, "rows": ROWS, "raw_bytes": round(raw)}
    for name in writers:
        cpu, wall = np.median(np.array(taken[name][1:]), axis=0) * 1000 / len(some)
        found[name] = {"cpu_ms": round(cpu, 3), "wall_ms": round(wall, 2), "bytes": round(sent[name])}
    found["times_less_cpu"] = round(found["plain"]["cpu_ms"] / found["store"]["cpu_ms"], 2)
    found["bytes_of_raw"] = round(found["store"]["bytes"] / raw, 3)
    return found


def table(results: Sequence[dict[str, Any]]) -> common.Rows:
    """Milliseconds and bytes per document."""
    head = ["wire, numbers a row", "plain CPU ms", "CPU ms", "times less", "plain wall ms", "wall ms", "bytes / raw"]
    return [head] + [
        [
            f"{one['wire']}, {one['width']}",
            *(f"{value:.2f}" for value in (one["plain"]["cpu_ms"], one["store"]["cpu_ms"], one["times_less_cpu"])),
            *(f"{value:.1f}" for value in (one["plain"]["wall_ms"], one["store"]["wall_ms"])),
            f"{one['bytes_of_raw']:.2f}",
        ]
        for one in results
    ]


def main(
    wires: Annotated[list[str] | None, typer.Option("--wire", help=f"{', '.join(WIRES)}. Default: all.")] = None,
    widths: Annotated[
        list[int] | None, typer.Option("--width", help="Numbers per row. Default: 96, 384, 1024.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Uploads that are measured, of each writer.")] = 15,
) -> None:
    """Measure the client's part of an upload."""
    chosen = common.known(wires or list(WIRES), WIRES)
    results = [measure(wire, width, rounds) for wire in chosen for width in widths or sorted(BATCH)]
    typer.echo(common.text_table(table(results)))
    typer.echo(json.dumps({"machine": common.MACHINE, "results": results}))


if __name__ == "__main__":
    typer.run(main)
