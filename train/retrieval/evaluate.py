"""Retrieval quality of a model in every mode, during training and after it.

The protocol is the paper's (see ``train.retrieval.search``): passages are title, line break, text; a passage stays in
even if its id equals the query's; a query counts even if nothing was found for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeAlias

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.evaluation.metrics import MEASURES, Run, import_ir_measures, measure, write_run
from m3_vdb.evaluation.protocol import Mode
from train.model import M3Model
from train.retrieval.collection import Collection, find_collections, read_collection
from train.retrieval.config import EvaluateConfig
from train.retrieval.encoder import Encoder, TorchEncoder, load
from train.retrieval.options import EvaluateOptions, Report, silent
from train.retrieval.search import Index, Ranking, rank
from train.retrieval.shards import encode_corpus

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


def evaluate(config: EvaluateConfig, *, report: Report = silent) -> EvaluateResult:
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
    runs = config.out / "runs" if config.out is not None and config.runs else None
    result = evaluate_model(model, tokenizer, folders.values(), config, runs=runs, report=report)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        settings = {key: _plain(value) for key, value in asdict(config).items()}
        content = {"config": settings, **asdict(result)}
        (config.out / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    report(table(result))
    return result


def evaluate_model(
    model: M3Model,
    tokenizer: Tokenizer,
    folders: Iterable[str | Path],
    options: EvaluateOptions,
    *,
    runs: Path | None = None,
    report: Report = silent,
) -> EvaluateResult:
    """Measure a loaded model, as a trainer does between two steps.

    Args:
        model: on any device and in any mode, which it keeps.
        tokenizer: the checkpoint's.
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
    encoder = TorchEncoder(model, tokenizer, dtype=options.dtype, batch_tokens=options.batch_tokens)
    results = {}
    for name, folder in find_collections(folders).items():
        collection = read_collection(folder, name=name, options=options)
        results[name] = _evaluate_collection(encoder, collection, options, runs, report)
        figures = results[name].figures
        report(f"{name}: " + ", ".join(f"{mode} {values[MEASURES[0]]:.3f}" for mode, values in figures.items()))
    mean: Figures = {
        mode: {name: fmean(one.figures[mode][name] for one in results.values()) for name in MEASURES}
        for mode in options.modes
    }
    return EvaluateResult(results, mean)


def search_collection(
    encoder: Encoder, collection: Collection, options: EvaluateOptions, *, report: Report = silent
) -> Iterator[dict[Mode, Run]]:
    """The runs of a collection, one block of queries after the other."""
    parts = options.parts_of(options.modes)
    shards = encode_corpus(
        encoder,
        collection.corpus,
        parts=parts,
        max_length=options.passage_max_length,
        shard_size=options.shard_size,
        work=options.work,
        report=lambda line: report(f"{collection.name}: {line}"),
    )
    index = Index(shards, factory=options.index)
    ids = collection.corpus.ids
    names = list(collection.queries)
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        texts = [collection.queries[name] for name in block]
        queries = encoder.encode(texts, max_length=options.query_max_length, parts=parts)
        rankings = rank(index, queries, options.modes, options, depth=options.depth)
        yield {
            mode: {name: _scores_by_id(ranking, i, ids) for i, name in enumerate(block)}
            for mode, ranking in rankings.items()
        }


def _scores_by_id(ranking: Ranking, query: int, ids: Sequence[str]) -> dict[str, float]:
    rows, scores = ranking.hits(query)
    return {ids[row]: score for row, score in zip(rows, scores.tolist(), strict=True)}


def _evaluate_collection(
    encoder: Encoder, collection: Collection, options: EvaluateOptions, runs: Path | None, report: Report
) -> CollectionResult:
    sums = {mode: dict.fromkeys(MEASURES, 0.0) for mode in options.modes}
    done = 0
    for block in search_collection(encoder, collection, options, report=report):
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
    return CollectionResult(len(collection.corpus), done, figures)


def table(result: EvaluateResult, *, name: str = MEASURES[0]) -> str:
    """One measure as text: a line a collection and their mean, a column a mode."""
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


def _plain(value: object) -> Any:
    return str(value) if isinstance(value, Path) else value
