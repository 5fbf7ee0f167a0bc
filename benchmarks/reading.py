"""Memory of reading a collection back: peak of a process that scrolls through it, beyond what it had before.

``python -m benchmarks.reading --documents 64 --rows 4000`` fills a stub of a Qdrant server and a folder with
documents of that many rows, then reads each in a process of its own. Memory is the client's, so a stub shows it;
time is not a server's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores import open_store
from m3_vdb.stores.points import make_points
from m3_vdb.types import Document, M3Embeddings


def main() -> None:
    """Fill the stores, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--rows", type=int, default=4000, help="multi-vector rows per document")
    parser.add_argument("--width", type=int, default=96, help="numbers per row")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(_read(args.read)))
        return
    from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
    from benchmarks.stubs.qdrant_rest_stub import RestStub
    from m3_vdb.stores.qdrant.edge_values import to_point

    identity = ModelIdentity(name="random", fingerprint="0", dense_dim=args.width, multi_vector_dim=args.width)
    with tempfile.TemporaryDirectory() as folder:
        rest = RestStub()
        grpc = GrpcStub(rest.engine)
        server, path = f"qdrant://{rest.address}/notes", str(Path(folder) / "notes.qdrant")
        open_store(server, identity=identity).close()
        with open_store(path, identity=identity) as store:
            for i in range(args.documents):
                documents, embeddings = _documents(i, args.rows, args.width)
                store.upsert(documents, embeddings)
                points = make_points(documents, embeddings, identity=identity, max_rows=None, types={})
                edge = sys.modules["qdrant_edge"]  # past the wire, which would take minutes
                rest.engine.collections["notes"].shards[0].update(
                    edge.UpdateOperation.upsert_points([to_point(point) for point in points])
                )
        print(f"{args.documents} documents, {args.documents * args.rows * args.width * 4 / 2**20:,.0f} MiB as float32")
        for name, url in {"REST": server, "gRPC": f"qdrant+grpc://127.0.0.1:{grpc.port}/notes", "folder": path}.items():
            command = [sys.executable, "-m", "benchmarks.reading", "--read", url]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            assert found["documents"] == args.documents
            print(f"{name:7} {found['mib']:6,.0f} MiB {found['seconds']:6.1f} s")
        grpc.close()
        rest.close()


def _documents(i: int, rows: int, width: int) -> tuple[list[Document], M3Embeddings]:
    """One document, with a word for each row."""
    rng = np.random.default_rng(i)
    numbers = rng.normal(size=(rows + 1, width)).astype(np.float32)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    embeddings = M3Embeddings(
        token_counts=np.array([rows + 1], np.int32),
        truncated=np.zeros(1, np.bool_),
        dense=numbers[:1],
        sparse_ids=np.arange(5, 105, dtype=np.int32),
        sparse_weights=rng.uniform(0.01, 0.4, 100).astype(np.float32),
        sparse_offsets=np.array([0, 100]),
        multi_vector=numbers[1:],
        multi_vector_offsets=np.array([0, rows]),
    )
    return [Document(f"d{i}", "word " * rows)], embeddings


def _read(url: str) -> dict[str, float]:
    with open_store(url, identity=None, create=False) as store:
        before, start = _memory("VmRSS"), time.perf_counter()
        documents = sum(len(found) for found, _ in store.scroll())
        return {
            "documents": documents,
            "seconds": time.perf_counter() - start,
            "mib": (_memory("VmHWM") - before) / 1024,
        }


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
