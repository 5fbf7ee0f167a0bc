"""``python -m benchmarks.debian.baseline``: what BM25 reaches on the built same-language collections.

One line per language, then one line of JSON with the same figures, for a program to read. The measures come from
``ir-measures``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import ir_measures
import typer
from ir_measures import R, nDCG

from .bm25 import BM25

DEPTH = 100


def read_jsonl(path: Path) -> Iterator[dict[str, str]]:
    """Yield the objects of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_qrels(path: Path) -> list[ir_measures.Qrel]:
    """Read a BEIR qrels file (tab-separated, with a header line)."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [ir_measures.Qrel(q, d, int(score)) for q, d, score in (line.split("\t") for line in lines)]


def evaluate(folder: Path) -> dict[str, float]:
    """BM25's nDCG@10 and Recall@100 on one collection in BEIR layout."""
    corpus = list(read_jsonl(folder / "corpus.jsonl"))
    index = BM25([f"{doc['title']} {doc['text']}" for doc in corpus])
    run = [
        ir_measures.ScoredDoc(query["_id"], corpus[position]["_id"], score)
        for query in read_jsonl(folder / "queries.jsonl")
        for position, score in index.search(query["text"], DEPTH)
    ]
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], read_qrels(folder / "qrels" / "test.tsv"), run)
    return {str(measure): round(float(value), 4) for measure, value in found.items()}


def main(
    out: Annotated[Path, typer.Option(help="Folder that the builder wrote.")] = Path("data/debian"),
) -> None:
    """Print BM25's nDCG@10 and R@100 per language; the last line is one JSON object."""
    folders = sorted(path.parent for path in (out / "same_language").glob("*/corpus.jsonl"))
    if not folders:
        typer.echo(f"error: no collection under {out}; run `python -m benchmarks.debian` first", err=True)
        raise typer.Exit(1)
    results: dict[str, dict[str, float]] = {}
    for folder in folders:
        results[folder.name] = evaluate(folder)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in results[folder.name].items())
        typer.echo(f"{folder.name:6} {figures}")
    names = list(results[folders[0].name])
    mean = {name: round(sum(found[name] for found in results.values()) / len(results), 4) for name in names}
    typer.echo(json.dumps({"system": "bm25", "mean": mean, "languages": results}, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
