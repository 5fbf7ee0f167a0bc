"""``python -m benchmarks.token_pooling COLLECTION``: fewer multi-vector rows, and what it does to quality.

Documents are encoded once; then every document's rows are pooled (``m3_vdb.token_pooling``) or cut to the same number,
and the queries' dense top 200 are scored again. nDCG@10 of the multi-vector score alone and of the weighted sum of all
three. The last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from m3_vdb import M3EmbeddingFunction, Weights
from m3_vdb.evaluation.collection import Qrels, thin
from m3_vdb.evaluation.metrics import measure
from m3_vdb.evaluation.readers import open_collections
from m3_vdb.scoring import dense_scores, hybrid_score, score
from m3_vdb.stores._points import pack
from m3_vdb.token_pooling import WINDOW, row_counts, rows_to_keep, with_rows
from m3_vdb.types import M3Embeddings

CANDIDATES = 200
MODES: Mapping[str, Weights] = {"multi_vector": Weights(0, 0, 1), "all": Weights()}


def quality(
    queries: M3Embeddings, documents: M3Embeddings, names: tuple[list[str], list[str]], qrels: Qrels
) -> dict[str, float]:
    """Mode → nDCG@10 over the dense top 200."""
    runs: dict[str, dict[str, dict[str, float]]] = {mode: {} for mode in MODES}
    assert documents.dense is not None
    passages = list(documents)
    for name, query in zip(names[0], queries, strict=True):
        assert query.dense is not None
        best = np.argsort(-dense_scores(query.dense, documents.dense))[:CANDIDATES]
        parts = {names[1][i]: score(query, passages[i]) for i in best}
        for mode, weights in MODES.items():
            runs[mode][name] = {document: hybrid_score(part, weights) for document, part in parts.items()}
    return {mode: round(measure(run, qrels, ["nDCG@10"])["nDCG@10"], 4) for mode, run in runs.items()}


def main(
    collection: Annotated[Path, typer.Argument(help="A folder with queries and qrels, as m3-vdb eval takes.")],
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    documents: Annotated[int, typer.Option(help="Documents, those of the queries among them.")] = 2000,
    queries: Annotated[int, typer.Option(help="Queries.")] = 300,
    factors: Annotated[str, typer.Option(help="Pool factors.")] = "1,1.5,2,3,4,6,8",
    threads: Annotated[int | None, typer.Option(help="Threads of one forward pass.")] = None,
) -> None:
    """Encode, shrink, score, report."""
    whole = thin(open_collections(collection)[0], max_documents=documents, max_queries=queries)
    embed = M3EmbeddingFunction(model, threads=threads, on_truncate="ignore")
    texts = list(whole.documents)
    names = ([*whole.queries], [document.id for document in texts])
    asked = embed.encode_queries([query.text for query in whole.queries.values()])
    parts = [embed.encode_documents([one.content for one in texts[i : i + 256]]) for i in range(0, len(texts), 256)]
    encoded = pack([embedding for part in parts for embedding in part])
    counts = row_counts(encoded)
    curve = []
    for factor in map(float, factors.split(",")):
        keep = rows_to_keep(counts, factor=factor)
        begun = time.perf_counter()
        pooled = with_rows(encoded, keep, pool=True)
        seconds = time.perf_counter() - begun
        line = {
            "factor": factor,
            "rows": round(float(keep.mean()), 1),
            "bytes": round(float(keep.mean()) * 4 * embed.dim["multi_vector"]),
            "pooled": quality(asked, pooled, names, whole.qrels),
            "cut": quality(asked, with_rows(encoded, keep, pool=False), names, whole.qrels),
            "documents_per_s": round(len(texts) / seconds, 1) if factor > 1 else None,
        }
        curve.append(line)
        print(line, flush=True)
    summary = {"collection": str(collection), "documents": len(texts), "queries": len(names[0]), "window": WINDOW}
    print(json.dumps(summary | {"curve": curve}))


if __name__ == "__main__":
    typer.run(main)
