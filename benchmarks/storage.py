"""``python -m benchmarks.storage``: what the storage presets do to scores and rankings, against float32 in memory.

Random documents of m3-small's shape, and of wider token rows; all candidates of every query are compared, under the
default weights. float16 is what ``half`` means on a Qdrant server before 1.20 (here: the REST stub, which
says it is 1.19) and, in a file of milvus-lite, for Milvus. The last line is one JSON object.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks import common
from m3_vdb.stores import CollectionOptions, MemoryStore, ModelIdentity, VectorStore, open_store
from m3_vdb.stores.options import STORAGES, Storage
from m3_vdb.types import M3Embedding

CANDIDATES: Final = 200
TOP: Final = 10
FLOAT16: Final = "half, Qdrant before 1.20 (float16)"
MILVUS: Final = "half, Milvus (float16)"


@contextmanager
def opened(name: str, identity: ModelIdentity) -> Iterator[VectorStore]:
    """A new collection of one kind of storage."""
    with tempfile.TemporaryDirectory(prefix="m3-storage-") as folder:
        if name == FLOAT16:
            from benchmarks.stubs.qdrant_rest_stub import RestStub

            stub = RestStub(version="1.19.0")
            try:
                half = CollectionOptions(storage="half")
                with open_store(f"qdrant://{stub.address}/x", identity=identity, options=half) as store:
                    yield store
            finally:
                stub.close()
            return
        file = "x.milvus.db" if name == MILVUS else "x.qdrant"
        storage: Storage = next(one for one in STORAGES if name.startswith(one))
        options = CollectionOptions(storage=storage)
        with open_store(str(Path(folder) / file), identity=identity, options=options) as store:
            yield store


def compare(
    store: VectorStore, queries: Sequence[M3Embedding], truth: Sequence[list[tuple[str, float]]]
) -> dict[str, float]:
    """Errors of the scores, and what became of the order.

    Returns:
        Largest and relative error of a fused score; share of the true top 10 that is kept; share of queries whose top
        10 has the same order; the largest true difference between two neighbours of a top 10 that changed places.
    """
    worst = relative = swapped = 0.0
    kept = same = 0
    for query, true in zip(queries, truth, strict=True):
        scores, got = dict(true), store.rank(query, limit=CANDIDATES, source="dense")
        errors = [(abs(score - scores[name]), abs(scores[name])) for name, score in got]
        worst = max([worst, *(error for error, _ in errors)])
        relative = max([relative, *(error / size for error, size in errors)])
        first, true_first = [name for name, _ in got[:TOP]], [name for name, _ in true[:TOP]]
        kept += len(set(first) & set(true_first))
        same += first == true_first
        swapped = max([swapped, *(scores[b] - scores[a] for a, b in pairwise(first))])
    n = len(queries)
    return {
        "largest_error": worst,
        "largest_relative_error": relative,
        "top10_kept": kept / (TOP * n),
        "same_top10_order": same / n,
        "largest_swap": swapped,
    }


def main(
    documents: Annotated[int, typer.Option(help="Documents.")] = 600,
    queries: Annotated[int, typer.Option(help="Queries.")] = 100,
    widths: Annotated[list[int] | None, typer.Option("--width", help="Numbers per token row.")] = None,
) -> None:
    """Compare the presets."""
    results: list[dict[str, Any]] = []
    typer.echo(
        f"{'storage':36} {'width':>5} {'largest':>9} {'relative':>9} {'top 10':>7} {'same order':>10} {'swap':>8}"
    )
    for width in widths or [96, 384, 1024]:
        identity = common.identity(width)
        asked = common.queries(queries, multi_vector_dim=width)
        vectors = common.embeddings(documents, seed=0, multi_vector_dim=width)
        with MemoryStore(identity) as oracle:
            oracle.upsert(common.documents(0, documents), vectors)
            truth = [oracle.rank(query, limit=CANDIDATES, source="dense") for query in asked]
        for name in (*STORAGES, FLOAT16, MILVUS):
            with opened(name, identity) as store:
                store.upsert(common.documents(0, documents), vectors)
                found = compare(store, asked, truth)
            typer.echo(
                f"{name:36} {width:5} {found['largest_error']:9.1e} {found['largest_relative_error']:9.1e} "
                f"{found['top10_kept']:7.1%} {found['same_top10_order']:10.1%} {found['largest_swap']:8.1e}"
            )
            results.append({"storage": name, "width": width, **found})
    typer.echo(json.dumps({"documents": documents, "queries": queries, "candidates": CANDIDATES, "results": results}))


if __name__ == "__main__":
    typer.run(main)
