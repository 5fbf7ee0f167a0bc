"""``python -m benchmarks.debian.colbert_dim``: how narrow may a multi-vector row be?

Rows are rotated onto the principal directions of a sample of *training* passages and cut to each width, which is what
``python -m train project`` does to the head; then the multi-vector and the hybrid ranking of the test collections are
measured again. One encoding serves all widths. The last line is one JSON object.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Annotated

import ir_measures
import numpy as np
import torch
import typer
from ir_measures import nDCG
from numpy.typing import NDArray

from benchmarks.debian.quality import load, rank
from m3_vdb import M3EmbeddingFunction, M3Embeddings
from train.project import principal_directions


def narrowed(embeddings: M3Embeddings, basis: NDArray[np.float32]) -> M3Embeddings:
    """The same embeddings with multi-vector rows projected onto ``basis`` [dim, m] and normalised again."""
    assert embeddings.multi_vector is not None
    rows = embeddings.multi_vector @ basis.T
    return dataclasses.replace(embeddings, multi_vector=rows / np.linalg.norm(rows, axis=1, keepdims=True))


def main(
    data: Annotated[Path, typer.Option(help="Folder that the builder wrote.")] = Path("data/debian"),
    languages: Annotated[str, typer.Option(help="Comma-separated.")] = "de,ja,tr,zh-cn",
    widths: Annotated[str, typer.Option(help="Comma-separated.")] = "128,96,64,48,32",
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    sample: Annotated[int, typer.Option(help="Training passages that give the directions.")] = 400,
    max_documents: Annotated[int, typer.Option(help="Documents kept of a language.")] = 400,
    max_queries: Annotated[int, typer.Option(help="Queries kept of a language.")] = 100,
) -> None:
    """Print nDCG@10 of multi-vector and hybrid for every width."""
    embed = M3EmbeddingFunction(model, runtime=runtime, on_truncate="ignore")
    with (data / "train.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["pos"][0] for line in itertools.islice(lines, sample)]  # the file is shuffled
    rows = embed.encode_documents(texts, dense=False, sparse=False).multi_vector
    assert rows is not None
    basis = principal_directions(torch.from_numpy(rows), rows.shape[1]).numpy()
    found: dict[int, dict[str, list[float]]] = {int(width): {} for width in widths.split(",")}
    for language in languages.split(","):
        collection = load(data / "same_language" / language, max_documents=max_documents, max_queries=max_queries)
        passages = embed.encode_documents(list(collection.documents.values()))
        queries = embed.encode_queries(list(collection.queries.values()))
        names = list(collection.documents)
        for width, values in found.items():
            narrow = [narrowed(part, basis[:width]) for part in (queries, passages)]
            rankings = [rank(narrow[0], i, narrow[1]) for i in range(len(queries))]
            for mode in ("multi_vector", "all"):
                run = [
                    ir_measures.ScoredDoc(query_id, names[doc], score)
                    for query_id, ranking in zip(collection.queries, rankings, strict=True)
                    for doc, score in ranking[mode]
                ]
                value = ir_measures.calc_aggregate([nDCG @ 10], collection.qrels, run)[nDCG @ 10]
                values.setdefault(mode, []).append(round(float(value), 4))
    typer.echo(f"{'width':>6} {'multi_vector':>13} {'all':>7}   {languages}")
    for width, values in found.items():
        typer.echo(f"{width:6} {np.mean(values['multi_vector']):13.4f} {np.mean(values['all']):7.4f}   {values['all']}")
    typer.echo(json.dumps({"languages": languages.split(","), "ndcg@10": found}))


if __name__ == "__main__":
    typer.run(main)
