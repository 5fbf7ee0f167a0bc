"""Retrieval quality of a model in every mode, during training and after it.

Collections in BEIR layout, subsamples and measures are those of ``m3_vdb.evaluation``; the ranking is the paper's (see
``train.retrieval.index``): a passage stays in even if its id equals the query's, and a query counts even if nothing was
found for it. In memory are the ids of a corpus, and what ``encode_passages`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final, TypeAlias

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection, choose, subsample
from m3_vdb.evaluation.datasets import CORPUS_FILE, LAYOUTS, find_folders, open_collections
from m3_vdb.evaluation.metrics import MEASURES, Run, import_ir_measures, measure, write_run
from m3_vdb.evaluation.protocol import Mode
from m3_vdb.stores.exact import Ranking
from train.retrieval.config import EvaluateConfig, EvaluateOptions, Report, no_report
from train.retrieval.index import encode, encode_passages, rank
from train.session import embedding_function, load

BLOCK: Final = 1024
"""Queries that are searched together."""
Figures: TypeAlias = Mapping[Mode, Mapping[str, float]]
"""Mode → measure → value."""


@dataclass(frozen=True, slots=True)
class CollectionResult:
    """Figures of one collection.

    Attributes:
        documents: passages that were searched.
        queries: queries that were asked.
        figures: mode → measure (``metrics.MEASURES``) → mean over the queries.
    """

    documents: int
    queries: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """Figures of all collections.

    Attributes:
        collections: by name.
        mean: mode → measure → mean over the collections, each counted once.
    """

    collections: Mapping[str, CollectionResult]
    mean: Figures


def evaluate(config: EvaluateConfig, *, report: Report = no_report) -> EvaluateResult:
    """Measure a checkpoint and write ``metrics.json``, and run files if they are asked for.

    Args:
        config: model, collections and options.
        report: told about progress, and the table at the end.

    Raises:
        BundleError: the checkpoint is incomplete.
        ConfigError: there is no such collection or device.
        DocumentError: a line of a collection is malformed.
        MissingExtraError: ``ir-measures`` or faiss is not installed.
    """
    folders = find_collections(config.collections)
    model, tokenizer = load(config.model, device=config.device)
    embed = embedding_function(model, tokenizer, dtype=config.dtype, batch_tokens=config.batch_tokens)
    runs = config.out / "runs" if config.out is not None and config.runs else None
    result = evaluate_model(embed, folders.values(), config, runs=runs, report=report)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"config": asdict(config), **asdict(result)}, indent=2, default=str)  # paths as text
        (config.out / "metrics.json").write_text(content + "\n", encoding="utf-8")
    report(table(result))
    return result


def evaluate_model(
    embed: M3EmbeddingFunction,
    folders: Iterable[str | Path],
    options: EvaluateOptions,
    *,
    runs: Path | None = None,
    report: Report = no_report,
) -> EvaluateResult:
    """Measure a loaded model, as a trainer does between two steps.

    Args:
        embed: the model, see ``train.session``.
        folders: collections, as ``find_collections`` reads them.
        options: what to measure.
        runs: folder for TREC run files; None writes none.
        report: told about progress.

    Raises:
        ConfigError: there is no such collection.
        DocumentError: a line of a collection is malformed.
        MissingExtraError: ``ir-measures`` or faiss is not installed.
    """
    import_ir_measures()  # now, and not after the first collection
    results = {}
    for name, folder in find_collections(folders).items():
        collection = read_collection(folder, name=name, options=options)
        results[name] = _evaluate_collection(embed, collection, options, runs, report)
        figures = results[name].figures
        report(f"{name}: " + ", ".join(f"{mode} {values[MEASURES[0]]:.3f}" for mode, values in figures.items()))
    mean: Figures = {
        mode: {name: fmean(one.figures[mode][name] for one in results.values()) for name in MEASURES}
        for mode in options.modes
    }
    return EvaluateResult(results, mean)


def find_collections(places: Iterable[str | Path]) -> dict[str, Path]:
    """Name → folder of every collection, in the order given; the name is the whole path where it is not unique.

    Args:
        places: folders in BEIR layout, folders of such folders, or glob patterns of either.

    Raises:
        ConfigError: a place holds no collection.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = find_folders(place, LAYOUTS["beir"].recognise)
        if not found:
            raise ConfigError(
                f"no collection in {place}: expected a folder with {CORPUS_FILE}, queries.jsonl and qrels/, a folder "
                f"of such folders, or a glob pattern"
            )
        folders |= dict.fromkeys(found)
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else folder.as_posix(): folder
        for name, folder in zip(names, folders, strict=True)
    }


def read_collection(folder: Path, *, name: str, options: EvaluateOptions) -> Collection:
    """Read a collection, or the subsample of it that the options ask for: the same on every machine.

    Raises:
        ConfigError: a file is missing, or says something impossible.
        DocumentError: a line of the corpus or the queries is malformed; file and line are in the message.
    """
    (collection,) = open_collections(folder, layout="beir", split=options.split)
    if options.max_queries is not None:
        collection = collection.only(choose(collection.qrels, options.max_queries, options.seed))
    return replace(subsample(collection, max_documents=options.max_documents, seed=options.seed), name=name)


def search_collection(
    embed: M3EmbeddingFunction, collection: Collection, options: EvaluateOptions, *, report: Report = no_report
) -> Iterator[dict[Mode, Run]]:
    """The runs of a collection, one block of queries after the other."""
    parts = options.parts_of(options.modes)
    requests = {mode: options.request(mode, depth=options.depth) for mode in options.modes}
    ids = [document.id for document in collection.documents]
    index = encode_passages(
        embed, collection.documents, parts, options, report=lambda line: report(f"{collection.name}: {line}")
    )
    names = sorted(collection.queries)
    for block in (names[start : start + BLOCK] for start in range(0, len(names), BLOCK)):
        texts = [collection.queries[name].text for name in block]
        queries = encode(embed, texts, max_length=options.query_max_length, parts=parts)
        yield {
            mode: {name: _scores_by_id(ranking, i, ids) for i, name in enumerate(block)}
            for mode, ranking in rank(index, queries, requests).items()
        }


def _scores_by_id(ranking: Ranking, query: int, ids: Sequence[str]) -> dict[str, float]:
    rows, scores = ranking.hits(query)
    return {ids[row]: score for row, score in zip(rows, scores.tolist(), strict=True)}


def _evaluate_collection(
    embed: M3EmbeddingFunction, collection: Collection, options: EvaluateOptions, runs: Path | None, report: Report
) -> CollectionResult:
    sums = {mode: dict.fromkeys(MEASURES, 0.0) for mode in options.modes}
    done = 0
    for block in search_collection(embed, collection, options, report=report):
        queries = list(next(iter(block.values())))
        qrels = {query: collection.qrels[query] for query in queries}
        for mode, run in block.items():
            for name, value in measure(run, qrels).items():
                sums[mode][name] += value * len(queries)
            if runs is not None:
                path = runs / f"{collection.name.replace('/', '-')}.{mode}.trec"
                write_run(run, path, tag=mode, append=done > 0)
        done += len(queries)
    figures: Figures = {mode: {name: total / done for name, total in one.items()} for mode, one in sums.items()}
    return CollectionResult(len(collection.documents), done, figures)


def table(result: EvaluateResult, *, name: str = MEASURES[0]) -> str:
    """One measure as text: a line per collection and their mean, a column per mode."""
    modes = list(result.mean)
    lines = [["", "documents", "queries", *modes]]
    for collection, one in result.collections.items():
        figures = [f"{one.figures[mode][name]:.3f}" for mode in modes]
        lines.append([collection, f"{one.documents:,}", f"{one.queries:,}", *figures])
    lines.append(["mean", "", "", *(f"{result.mean[mode][name]:.3f}" for mode in modes)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([name, *(row.rstrip() for row in rows)])
