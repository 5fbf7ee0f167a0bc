"""Retrieval quality of a model in every mode, during training and after it.

Collections in BEIR layout, subsamples and measures are those of ``m3_vdb.evaluation``; the ranking is the paper's (see
``train.retrieval.index``): a passage stays in even if its id equals the query's, and a query counts even if nothing was
found for it. In memory are the ids of a corpus, and what ``encode_passages`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Final, TypeAlias

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.evaluation.collection import Collection, choose, subsample
from m3_vdb.evaluation.datasets import open_collections
from m3_vdb.evaluation.metrics import MEASURES, Run, import_ir_measures, measure, write_run
from m3_vdb.evaluation.protocol import Mode
from m3_vdb.evaluation.report.writing import aligned
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
        report: called with lines about progress, and with the table at the end.

    Raises:
        BundleError: the checkpoint is incomplete.
        ConfigError: there is no such collection or device.
        DocumentError: a line of a collection is malformed.
        MissingExtraError: ``ir-measures`` or faiss is not installed.
    """
    collections = read_collections(config.collections, config)
    model, tokenizer = load(config.model, device=config.device)
    embed = embedding_function(model, tokenizer, dtype=config.dtype, batch_tokens=config.batch_tokens)
    runs = config.out / "runs" if config.out is not None and config.runs else None
    result = evaluate_model(embed, collections, config, runs=runs, report=report)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"config": asdict(config), **asdict(result)}, indent=2, default=str)  # paths as text
        (config.out / "metrics.json").write_text(content + "\n", encoding="utf-8")
    report(table(result))
    return result


def evaluate_model(
    embed: M3EmbeddingFunction,
    collections: Iterable[Collection],
    options: EvaluateOptions,
    *,
    runs: Path | None = None,
    report: Report = no_report,
) -> EvaluateResult:
    """Measure a loaded model, as a trainer does between two steps.

    Args:
        embed: the model, see ``train.session``.
        collections: see ``read_collections``.
        options: what to measure.
        runs: folder for TREC run files; None writes none.
        report: called with lines about progress.

    Raises:
        DocumentError: a line of a corpus is malformed.
        MissingExtraError: ``ir-measures`` or faiss is not installed.
    """
    import_ir_measures()  # now, and not after the first collection
    results = {}
    for collection in collections:
        results[collection.name] = _evaluate_collection(embed, collection, options, runs, report)
        figures = results[collection.name].figures
        report(
            f"{collection.name}: " + ", ".join(f"{mode} {values[MEASURES[0]]:.3f}" for mode, values in figures.items())
        )
    mean: Figures = {
        mode: {name: fmean(one.figures[mode][name] for one in results.values()) for name in MEASURES}
        for mode in options.modes
    }
    return EvaluateResult(results, mean)


def read_collections(places: Iterable[str | Path], options: EvaluateOptions) -> list[Collection]:
    """Collections in BEIR layout, or the subsamples of them that the options ask for: the same on every machine.

    Args:
        places: as ``m3_vdb.evaluation.open_collections`` takes them.
        options: the split, and how much of it.

    Raises:
        ConfigError: a place has no collection, a file is missing, or says something impossible.
        DocumentError: a line of the corpus or the queries is malformed; file and line are in the message.
    """
    found = open_collections(places, layout="beir", split=options.split)
    if options.max_queries is not None:
        found = [one.only(choose(one.qrels, options.max_queries, options.seed)) for one in found]
    return [subsample(one, max_documents=options.max_documents, seed=options.seed) for one in found]


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
    return "\n".join([name, *("  ".join(line).rstrip() for line in aligned(lines))])
