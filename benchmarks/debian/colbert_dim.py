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
from typing import Annotated, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from m3_vdb import M3EmbeddingFunction, M3Embeddings
from m3_vdb.evaluation import PROTOCOLS, Mode, open_collections, thin
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.metrics import measure
from m3_vdb.evaluation.search import search
from m3_vdb.stores import MemoryStore
from train.project import principal_directions

MODES: Final[tuple[Mode, ...]] = ("multi_vector", "all")
MEASURE: Final = "nDCG@10"


def narrowed(embeddings: M3Embeddings, basis: NDArray[np.float32]) -> M3Embeddings:
    """The same embeddings with multi-vector rows projected onto ``basis`` [dim, m] and normalised again."""
    assert embeddings.multi_vector is not None
    rows = embeddings.multi_vector @ basis.T
    return dataclasses.replace(embeddings, multi_vector=rows / np.linalg.norm(rows, axis=1, keepdims=True))


def evaluate(
    collection: Collection, embed: M3EmbeddingFunction, basis: NDArray[np.float32], widths: list[int]
) -> dict[int, dict[str, float]]:
    """Width → mode → nDCG@10."""
    documents = list(collection.documents)
    passages = embed.encode_documents([document.content for document in documents])
    queries = embed.encode_queries([query.text for query in collection.queries.values()])
    found: dict[int, dict[str, float]] = {}
    for width in widths:
        identity = dataclasses.replace(embed.identity, multi_vector_dim=width)
        asked = list(zip(collection.queries, narrowed(queries, basis[:width]), strict=True))
        with MemoryStore(identity) as store:
            store.upsert(documents, narrowed(passages, basis[:width]))
            runs = {mode: search(store, asked, PROTOCOLS["paper"].request(mode)) for mode in MODES}
        found[width] = {mode: measure(run, collection.qrels, [MEASURE])[MEASURE] for mode, run in runs.items()}
    return found


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
    cuts = [int(width) for width in widths.split(",")]
    by_language = {}
    for language in languages.split(","):
        (collection,) = open_collections(data / "same_language" / language)
        thinned = thin(collection, max_documents=max_documents, max_queries=max_queries)
        by_language[language] = evaluate(thinned, embed, basis, cuts)
    typer.echo(f"{'width':>6}" + "".join(f"{mode:>14}" for mode in MODES) + f"   all: {languages}")
    for width in cuts:
        means = [np.mean([found[width][mode] for found in by_language.values()]) for mode in MODES]
        each = "  ".join(f"{found[width]['all']:.4f}" for found in by_language.values())
        typer.echo(f"{width:6}" + "".join(f"{value:14.4f}" for value in means) + f"   {each}")
    typer.echo(json.dumps({"measure": MEASURE, "languages": by_language}))


if __name__ == "__main__":
    typer.run(main)
