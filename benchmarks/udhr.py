"""``python -m benchmarks.udhr CHECKPOINT``: does training lose languages that the base had?

Thirty English articles of the Universal Declaration of Human Rights are searched with the same articles in some 400
languages (``python -m benchmarks.debian`` builds the collection). Accuracy@1 of each language for the base as it is and
for a bundle, dense alone and all three scores with the paper's weights, exact. Thirty queries a language: a difference
of one or two is none. The last line is one JSON object.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated, Final

import typer

from benchmarks._cosine_search import NAME, search
from benchmarks._mean_pooled import Choice, MeanPooled
from benchmarks._table import text_table
from benchmarks._udhr_tables import BASE, MODES, SYSTEMS, markdown, rows, summarise
from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import PROTOCOLS, Collection, open_collections
from m3_vdb.evaluation.metrics import Run, import_ir_measures, per_query
from m3_vdb.scoring import hybrid_score, score

ACCURACY: Final = "Success@1"
BLOCK: Final = 512
"""Queries that are encoded together."""


def bundle_runs(embed: M3EmbeddingFunction, collection: Collection) -> dict[str, dict[str, dict[str, float]]]:
    """Mode → query → document → exact score, of every pair."""
    documents = list(collection.documents)
    passages = list(embed.encode_documents([document.content for document in documents]))
    runs: dict[str, dict[str, dict[str, float]]] = {mode: {} for mode in MODES}
    names = iter(collection.queries)
    while block := list(islice(names, BLOCK)):
        for name, query in zip(
            block, embed.encode_queries([collection.queries[name].text for name in block]), strict=True
        ):
            parts = {document.id: score(query, one) for document, one in zip(documents, passages, strict=True)}
            for mode in MODES:
                weights = PROTOCOLS["paper"].weights_of(mode)
                runs[mode][name] = {document: hybrid_score(of_pair, weights) for document, of_pair in parts.items()}
    return runs


def accuracy(run: Run, collection: Collection) -> dict[str, float]:
    """Language → share of its queries whose first document is the right one."""
    hits = per_query(run, collection.qrels, [ACCURACY])[ACCURACY]
    return {lang: fmean(hits[name] for name in names) for lang, names in collection.by_language().items()}


def main(
    checkpoint: Annotated[Path, typer.Argument(help="The base: what python -m train import-base wrote.")],
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    collection: Annotated[Path, typer.Option(help="The collection.")] = Path("data/debian/udhr"),
    languages: Annotated[str | None, typer.Option(help="Only these: sw,th. Default: all.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens kept of an article, for both.")] = 128,
    runtime: Annotated[str, typer.Option(help="Of the bundle: auto, onnxruntime or openvino.")] = "auto",
    dtype: Annotated[Choice, typer.Option(help="Of the base. auto: bfloat16 where the processor has it.")] = "auto",
    file: Annotated[Path | None, typer.Option("--markdown", help="Write the summary as Markdown tables.")] = None,
) -> None:
    """Search with the base, with the bundle, compare."""
    import_ir_measures()
    found = open_collections(collection, lang=languages.split(",") if languages else None)
    if len(found) > 1:
        raise ConfigError(f"--collection {collection}: {len(found)} collections, expected the one of the articles")
    embed = M3EmbeddingFunction(model, runtime=runtime, max_length=max_length, on_truncate="ignore")
    encoder = MeanPooled.load(checkpoint, dtype=dtype)
    before = search(encoder, found[0], max_length=max_length).runs[NAME]
    runs: dict[str, Run] = {BASE: before, **bundle_runs(embed, found[0])}
    by_system = {system: accuracy(run, found[0]) for system, run in runs.items()}
    figures = {lang: {system: by_system[system][lang] for system in SYSTEMS} for lang in by_system[BASE]}
    summary = summarise(figures)
    print(text_table(rows(figures)))
    for key, value in summary.items():
        print(f"{key}: {value}")
    if file is not None:
        file.write_text(markdown(figures), encoding="utf-8")
    about = {"checkpoint": str(checkpoint), "dtype": encoder.dtype, "bundle": embed.bundle.name}
    about |= {"fingerprint": embed.identity.fingerprint, "runtime": embed.session.description}
    print(json.dumps({**about, "max_length": max_length, **summary, "by_language": figures}, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
