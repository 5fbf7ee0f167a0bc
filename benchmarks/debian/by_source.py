"""``python -m benchmarks.debian.by_source FOLDER COLLECTION...``: figures of ``m3-vdb eval`` by source of the texts.

FOLDER is the ``--out`` of ``m3-vdb eval`` on the same collections. Every language counts once in the mean of a source
(ddtp, gnome, handbook, lo), so that domains that were kept out of training can be read apart. The last line is one JSON
object.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Final

import typer

from benchmarks.common import text_table
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import open_collections
from m3_vdb.evaluation.metrics import per_query, read_run

MEASURE: Final = "nDCG@10"
MODES: Final = ("bm25", "dense", "sparse", "multi_vector", "dense_sparse", "all")


def source_of(query: str) -> str:
    """The source in a query's id: "q-gnome/gnome-help/power-status" is from gnome."""
    return query.removeprefix("q-").split("/", 1)[0]


def by_source(folder: Path, places: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Source → mode → nDCG@10 (mean over collections of the mean over queries), and source → number of queries.

    Raises:
        ConfigError: the folder has no run of a collection.
    """
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    queries: dict[str, int] = defaultdict(int)
    for collection in (one for place in places for one in open_collections(place)):
        paths = {mode: folder / collection.name / f"{mode}.trec" for mode in MODES}
        runs = {mode: read_run(path) for mode, path in paths.items() if path.is_file()}
        if not runs:
            raise ConfigError(f"{folder / collection.name}: no run files; expected the --out of m3-vdb eval")
        asked = set().union(*runs.values())  # eval may have taken a sub-sample
        qrels = {query: grades for query, grades in collection.qrels.items() if query in asked}
        found = {mode: per_query(run, qrels, [MEASURE])[MEASURE] for mode, run in runs.items()}
        for source in sorted({source_of(query) for query in qrels}):
            names = [query for query in qrels if source_of(query) == source]
            queries[source] += len(names)
            for mode, of_query in found.items():
                values[source, mode].append(fmean(of_query[query] for query in names))
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for (source, mode), of_collections in values.items():
        means[source][mode] = fmean(of_collections)
    return dict(means), dict(queries)


def main(
    folder: Annotated[Path, typer.Argument(help="The --out of m3-vdb eval.")],
    collections: Annotated[list[str], typer.Argument(help="The collections it measured.")],
) -> None:
    """nDCG@10 of every mode by source of the texts."""
    means, queries = by_source(folder, collections)
    modes = [mode for mode in MODES if any(mode in found for found in means.values())]
    lines = [[name, f"{queries[name]:,}", *(f"{found[mode]:.3f}" for mode in modes)] for name, found in means.items()]
    print(text_table([["source", "queries", *modes], *lines]))
    print(json.dumps({"measure": MEASURE, "queries": queries, "means": means}))


if __name__ == "__main__":
    typer.run(main)
