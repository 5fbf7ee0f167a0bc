"""``python -m benchmarks.zero_shot CHECKPOINT COLLECTION...``: the base before training, beside ``m3-vdb eval``.

Collections, sub-samples, measures and means are those of ``m3-vdb eval``: the same options give the same queries and
documents. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.base_model import NAME, Choice, MeanPooled, search
from benchmarks.common import text_table
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import Collection, open_collections
from m3_vdb.evaluation.collection import subsample_splits
from m3_vdb.evaluation.evaluate import measure_groups
from m3_vdb.evaluation.metrics import MEASURES, import_ir_measures
from m3_vdb.evaluation.significance import Summary, summarise


def read(
    places: Sequence[str],
    *,
    max_documents: int | None = None,
    max_queries: int | None = None,
    dev_split: str | None = None,
    seed: int = 0,
) -> list[Collection]:
    """The collections as ``m3-vdb eval`` reads and subsamples them.

    Args:
        places: folders of collections, folders of such folders, or patterns.
        max_documents: documents kept of each; judged ones stay.
        max_queries: queries kept of each language of each.
        dev_split: keep what this split judges too, as ``--tune-weights`` does; None looks at no other split.
        seed: of the sub-sample; ``m3-vdb eval`` has 0.

    Raises:
        ConfigError: there is no collection, or one without judgements.
    """
    test = [one for place in places for one in open_collections(place)]
    dev = [one for place in places for one in open_collections(place, split=dev_split)] if dev_split else []
    if unjudged := [one.name for one in test if not one.qrels]:
        raise ConfigError(f"{unjudged[0]}: no judgements, and {', '.join(MEASURES)} need some")
    kept, _ = subsample_splits(test, dev, max_documents=max_documents, max_queries=max_queries, seed=seed)
    return kept


def rows(summary: Summary) -> list[list[str]]:
    """One line per group, then the mean over groups and that over queries."""
    found = [["", "documents", "queries", *MEASURES]]
    for group in summary.groups:
        figures = [f"{group.figures[NAME][measure].value:.3f}" for measure in MEASURES]
        found.append([group.label, f"{group.documents:,}", f"{group.queries:,}", *figures])
    for label, of in (("mean", summary.mean), ("pooled", summary.pooled)):
        found.append([label, "", "", *(f"{of[NAME][measure].value:.3f}" for measure in MEASURES)])
    return found


def main(
    checkpoint: Annotated[Path, typer.Argument(help="What python -m train import-base wrote.")],
    collection: Annotated[list[str], typer.Argument(metavar="COLLECTION", help="As m3-vdb eval takes.")],
    max_documents: Annotated[int | None, typer.Option(help="Documents per collection; judged ones stay.")] = None,
    max_queries: Annotated[int | None, typer.Option(help="Queries per language.")] = None,
    dev_split: Annotated[
        str | None, typer.Option(help="Documents that this split judges stay, as with m3-vdb eval --tune-weights.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens kept of a text, prefix included.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the sub-sample; that of m3-vdb eval is 0.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    dtype: Annotated[Choice, typer.Option(help="auto: bfloat16 where the processor has it.")] = "auto",
) -> None:
    """Encode, rank, measure, report."""
    import_ir_measures()  # now, and not after an hour
    collections = read(collection, max_documents=max_documents, max_queries=max_queries, dev_split=dev_split, seed=seed)
    encoder = MeanPooled.load(checkpoint, device=device, dtype=dtype)
    searched = []
    for one in collections:
        searched.append(search(encoder, one, max_length=max_length))
        cost = searched[-1].cost
        print(f"{one.name}: {cost.documents:,} documents, {cost.ingest_seconds:.0f} s", file=sys.stderr)
    summary = summarise(measure_groups(searched, [NAME], MEASURES), [NAME], MEASURES, NAME)
    print(text_table(rows(summary)))
    result = {
        "checkpoint": str(checkpoint),
        "collections": collection,
        "max_documents": max_documents,
        "max_queries": max_queries,
        "dev_split": dev_split,
        "max_length": min(max_length, encoder.model.max_length),
        "seed": seed,
        "dtype": encoder.dtype,
        "truncated": sum(one.cost.truncated for one in searched),
        "groups": [
            {
                "collection": group.collection,
                "lang": group.lang,
                "documents": group.documents,
                "queries": group.queries,
                **{measure: figure.value for measure, figure in group.figures[NAME].items()},
            }
            for group in summary.groups
        ],
        "mean": {measure: asdict(figure) for measure, figure in summary.mean[NAME].items()},
        "pooled": {measure: asdict(figure) for measure, figure in summary.pooled[NAME].items()},
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
