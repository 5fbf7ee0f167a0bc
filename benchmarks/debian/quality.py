"""``python -m benchmarks.debian.quality``: the model's five rankings beside BM25, language by language.

Reads the same-language collections that ``python -m benchmarks.debian`` builds. Collections can be thinned so that a
CPU finishes in minutes: some queries, all documents judged for them, and other documents chosen by hash; BM25 is
measured on exactly the same documents. Scores are the exact ones of ``m3_vdb.scoring``, by the paper's protocol: dense
and sparse rank every document; multi-vector and the hybrids re-rank the dense top 200.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import ir_measures
import numpy as np
import typer
from ir_measures import R, nDCG

from benchmarks.debian.baseline import read_jsonl, read_qrels
from benchmarks.debian.bm25 import BM25
from m3_vdb import M3EmbeddingFunction, M3Embeddings, Weights
from m3_vdb.fusion import PRESETS
from m3_vdb.scoring import hybrid_score, lexical_score, score
from m3_vdb.types import Scores

CANDIDATES: Final = 200
DEPTH: Final = 100
MEASURES: Final = (nDCG @ 10, R @ 100)
MODES: Final = {
    "dense": Weights(1, 0, 0),
    "sparse": Weights(0, 1, 0),
    "multi_vector": Weights(0, 0, 1),
    "dense_sparse": PRESETS["dense_sparse"],
    "all": PRESETS["default"],
}


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries and judgements of one language."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: list[ir_measures.Qrel]


def load(folder: Path, *, max_documents: int, max_queries: int) -> Collection:
    """Read a collection in BEIR layout and thin it, the same way every time."""
    documents = {row["_id"]: f"{row['title']}\n{row['text']}".strip() for row in read_jsonl(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in read_jsonl(folder / "queries.jsonl")}
    kept_queries = set(_by_hash(queries)[:max_queries])
    qrels = [qrel for qrel in read_qrels(folder / "qrels" / "test.tsv") if qrel.query_id in kept_queries]
    judged = {qrel.doc_id for qrel in qrels}
    others = [name for name in _by_hash(documents) if name not in judged]
    kept = judged | set(others[: max(0, max_documents - len(judged))])
    return Collection(
        {name: text for name, text in documents.items() if name in kept},
        {name: text for name, text in queries.items() if name in kept_queries},
        qrels,
    )


def _by_hash(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha1(name.encode()).hexdigest())


def evaluate(collection: Collection, embed: M3EmbeddingFunction) -> dict[str, dict[str, float]]:
    """nDCG@10 and Recall@100 of every mode and of BM25."""
    names = list(collection.documents)
    passages = embed.encode_documents(list(collection.documents.values()))
    queries = embed.encode_queries(list(collection.queries.values()))
    index = BM25(list(collection.documents.values()))
    runs: dict[str, list[ir_measures.ScoredDoc]] = {mode: [] for mode in ("bm25", *MODES)}
    for i, (query_id, text) in enumerate(collection.queries.items()):
        found = rank(queries, i, passages) | {"bm25": index.search(text, DEPTH)}
        for mode, ranking in found.items():
            runs[mode] += [ir_measures.ScoredDoc(query_id, names[doc], value) for doc, value in ranking]
    return {mode: _measure(collection.qrels, run) for mode, run in runs.items()}


def rank(queries: M3Embeddings, i: int, passages: M3Embeddings) -> dict[str, list[tuple[int, float]]]:
    """(document, score) pairs of every mode for query i, best first."""
    query = queries[i]
    assert query.dense is not None
    assert passages.dense is not None
    dense = passages.dense @ query.dense
    order = np.argsort(-dense, kind="stable")
    candidates = {int(doc): score(query, passages[int(doc)]) for doc in order[:CANDIDATES]}
    rankings = {mode: _best(candidates, weights) for mode, weights in MODES.items()}
    rankings["dense"] = [(int(doc), float(dense[doc])) for doc in order[:DEPTH]]
    lexical = {doc: _lexical(queries, i, passages, doc) for doc in range(len(passages))}
    rankings["sparse"] = _best({doc: Scores(0, value, 0) for doc, value in lexical.items() if value}, MODES["sparse"])
    return rankings


def _lexical(queries: M3Embeddings, i: int, passages: M3Embeddings, doc: int) -> float:
    query, passage = queries[i].sparse, passages[doc].sparse
    assert query is not None
    assert passage is not None
    return lexical_score(query, passage)


def _best(parts: dict[int, Scores], weights: Weights) -> list[tuple[int, float]]:
    scored = [(doc, hybrid_score(part, weights)) for doc, part in parts.items()]
    return sorted(scored, key=lambda pair: -pair[1])[:DEPTH]


def _measure(qrels: list[ir_measures.Qrel], run: list[ir_measures.ScoredDoc]) -> dict[str, float]:
    found = ir_measures.calc_aggregate(MEASURES, qrels, run)
    return {str(measure): round(float(value), 4) for measure, value in found.items()}


def main(
    data: Annotated[Path, typer.Option(help="Folder that the builder wrote.")] = Path("data/debian"),
    languages: Annotated[str, typer.Option(help="Comma-separated; all if empty.")] = "",
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    max_documents: Annotated[int, typer.Option(help="Documents kept of a language.")] = 1000,
    max_queries: Annotated[int, typer.Option(help="Queries kept of a language.")] = 150,
) -> None:
    """Print nDCG@10 of every mode and BM25 per language; the last line is one JSON object with all measures."""
    folders = sorted(path.parent for path in (data / "same_language").glob("*/corpus.jsonl"))
    if languages:
        folders = [folder for folder in folders if folder.name in languages.split(",")]
    if not folders:
        typer.echo(f"error: no such collection under {data}; run `python -m benchmarks.debian` first", err=True)
        raise typer.Exit(1)
    embed = M3EmbeddingFunction(model, runtime=runtime, on_truncate="ignore")
    results: dict[str, dict[str, dict[str, float]]] = {}
    typer.echo(f"{'':7}{'docs':>6}{'queries':>8}" + "".join(f"{mode:>14}" for mode in ("bm25", *MODES)))
    for folder in folders:
        collection = load(folder, max_documents=max_documents, max_queries=max_queries)
        results[folder.name] = evaluate(collection, embed)
        figures = "".join(f"{results[folder.name][mode]['nDCG@10']:14.3f}" for mode in ("bm25", *MODES))
        typer.echo(f"{folder.name:7}{len(collection.documents):6}{len(collection.queries):8}{figures}")
    mean = {
        mode: round(sum(found[mode]["nDCG@10"] for found in results.values()) / len(results), 4)
        for mode in ("bm25", *MODES)
    }
    typer.echo(f"{'mean':7}{'':14}" + "".join(f"{value:14.3f}" for value in mean.values()))
    summary = {"model": embed.bundle.name, "fingerprint": embed.bundle.fingerprint, "mean_ndcg@10": mean}
    typer.echo(json.dumps(summary | {"languages": results}, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
