"""The whole evaluation: load a test collection into a real store, run its queries, measure the rankings.

What is measured is what is served: the model, the store and the request are those of an application. A task is one or
more collections (one per language, say); its results are plain values (``results.Evaluation``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Final, cast
from urllib.parse import quote

import numpy as np

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import BundleError, ConfigError
from m3_vdb.evaluation.answers import judge
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.evaluation.collection import Collection, Qrels, check_splits
from m3_vdb.evaluation.metrics import (
    ANSWER_MEASURES,
    MEASURES,
    Run,
    group_means,
    import_ir_measures,
    ordered,
    per_query,
)
from m3_vdb.evaluation.protocol import MODES, PROTOCOLS, WEIGHTED, Mode, Protocol
from m3_vdb.evaluation.results import Approximation, Curve, Evaluation, Tuning, describe_environment
from m3_vdb.evaluation.runs import (
    BM25_NAME,
    CollectionRuns,
    EvalSettings,
    Progress,
    Searcher,
    StoreOpener,
    file_name,
    run_collection,
)
from m3_vdb.evaluation.significance import Measured, summarise
from m3_vdb.evaluation.tuning import Candidates, curves, fusion_error, gather, mean_ndcg, three, tune
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.stores.names import SUFFIXES

PLACE: Final = "{collection}"
"""Where a collection's name goes in a store URL."""
RESULTS: Final = "results.json"
SHOWN: Final = 10
"""Hits that are compared between exact and approximate search."""


def evaluate(
    collections: Sequence[Collection],
    embed: M3EmbeddingFunction,
    store: str | StoreOpener,
    *,
    task: str = "",
    protocol: Protocol | None = None,
    modes: Sequence[Mode] = MODES,
    bm25: bool = False,
    dev: Sequence[Collection] = (),
    approximate: bool = False,
    long_documents: LongDocuments = DEFAULT_POLICY,
    out: Path | None = None,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Measure a model and a store on a task.

    Args:
        collections: of one kind: all with judgements or all with answers.
        embed: the model; its maximum length is that of the passages.
        store: URL of a store, in which "{collection}" stands for the collection's name (put at the end if there are
            several collections and no such place), or a function that opens a store; ``out`` does not see when such a
            function opens another one. Documents that are there already, made by the same model, are used as they are.
        task: name for the report; by default the collections' own.
        protocol: requests and weights; by default the paper's.
        modes: rankings to measure.
        bm25: measure BM25 on the same documents, and compare with it.
        dev: the same collections with other queries: the weights of "all" and "dense_sparse" are tuned on them first.
        approximate: also measure what the engine's approximate search costs.
        long_documents: what becomes of documents longer than the store's multi-vector limit; where they are split, a
            document has the score of its best passage.
        out: folder for TREC run files, ``results.json`` and what a later call needs to resume.
        command: the command line, for the record.
        progress: called with the current step (``runs.Progress``).

    Raises:
        CollectionMismatchError: a store holds other documents, or another model's.
        ConfigError: the collections or modes do not form a task.
        MissingExtraError: ``ir-measures``, ``bm25s`` or the store's client is not installed.
        StoreError: the database failed; call again to resume.
    """
    measures = _checked_measures(collections, dev, modes)
    if approximate and store == "memory://":
        raise ConfigError("memory:// has no approximate search: give a folder or a server")
    import_ir_measures()  # now, and not after an hour
    if bm25:
        BM25([])
    protocol = protocol or PROTOCOLS["paper"]
    tuned: list[Tuning] = []
    query_embed = copy(embed)  # the same session, other options
    query_embed.max_length, query_embed.on_truncate = min(embed.max_length, protocol.query_max_length), "ignore"
    with nullcontext(out) if out is not None else TemporaryDirectory(prefix="m3-vdb-") as folder:
        settings = EvalSettings(
            embed=embed,
            query_embed=query_embed,
            opener=store if callable(store) else store_opener(store, embed.identity, several=len(collections) > 1),
            store=store if isinstance(store, str) else "opened by the caller",
            protocol=protocol,
            modes=tuple(modes),
            bm25=bm25,
            approximate=approximate,
            out=Path(folder),
            progress=progress,
            long_documents=long_documents,
        )
        if dev:
            protocol, tuned = _tune_weights(dev, settings)
            settings = replace(settings, protocol=protocol, untuned=settings.protocol)
        found = [run_collection(collection, settings) for collection in collections]
    systems = [*modes, *([BM25_NAME] if bm25 else [])]
    baseline = BM25_NAME if bm25 else modes[0]
    summary = summarise(measure_groups(found, systems, measures), systems, measures, baseline)
    described = protocol.describe(embed.max_length)
    if long_documents != DEFAULT_POLICY:
        described["long documents"] = long_documents.describe()
    about = {"name": embed.identity.name, "fingerprint": embed.identity.fingerprint}
    with suppress(BundleError):  # a model made from parts has no file, so no stored precision
        about["precision"] = embed.bundle.precision
    evaluation = Evaluation(
        task=task or ", ".join(collection.name for collection in collections),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        environment={**describe_environment(), "runtime": embed.session.description},
        model={**about, "max_length": str(embed.max_length)},
        store=settings.store,
        protocol=described,
        measures=tuple(measures),
        systems=tuple(systems),
        baseline=baseline,
        groups=summary.groups,
        mean=summary.mean,
        pooled=summary.pooled,
        comparisons=summary.comparisons,
        costs={one.collection.name: one.cost for one in found},
        approximations={mode: approximation_of(found, mode, measures) for mode in modes} if approximate else {},
        curves=weight_curves(found, protocol),
        tunings=tuple(with_test_values(one, found, measures[0]) for one in tuned),
        fusion_error=worst_fusion_error(found, protocol),
    )
    if out is not None:
        evaluation.save(out / RESULTS)
    return evaluation


def store_opener(url: str, identity: ModelIdentity, *, several: bool) -> StoreOpener:
    """Opens the store of each collection; with ``several``, a URL without a place for names gets one."""
    named = place_name(url) if several else url

    def opener(name: str, exact: bool) -> VectorStore:
        # A path is taken as it is, a URL is unquoted by ``open_store``.
        is_url = "://" in named or named.startswith("file:")
        place = quote(file_name(name), safe="") if is_url else file_name(name)
        return open_store(named.replace(PLACE, place), identity=identity, exact=exact)

    return opener


def place_name(url: str) -> str:
    """A store URL with a place for a collection's name: ``./e.qdrant`` becomes ``./e-{collection}.qdrant``."""
    if PLACE in url or url == "memory://":
        return url
    url = url.rstrip("/")
    suffix = next((suffix for suffix in SUFFIXES if url.lower().endswith(suffix)), "")
    stem = url[: len(url) - len(suffix)]
    return f"{stem}-{PLACE}{url[len(stem) :]}"


def _checked_measures(
    collections: Sequence[Collection], dev: Sequence[Collection], modes: Sequence[Mode]
) -> tuple[str, ...]:
    """What can be measured: nDCG and the like by judgements, or answer recall by answers.

    Raises:
        ConfigError: the collections, dev queries and modes do not form a task.
    """
    if not collections or not all(collection.queries for collection in collections):
        raise ConfigError("nothing to evaluate: expected at least one collection, each with queries")
    if len({file_name(collection.name) for collection in collections}) < len(collections):
        raise ConfigError("two collections have the same name: their figures could not be told apart")
    if not modes or not set(modes) <= set(MODES) or len(set(modes)) < len(modes):
        raise ConfigError(f"modes={list(modes)}: expected one or more of {', '.join(MODES)}, each once")
    if dev and not any(mode in WEIGHTED for mode in modes):
        raise ConfigError(f"modes={list(modes)}: none has weights to tune: add {' or '.join(WEIGHTED)}")
    if answered := next((one.name for one in dev if not one.qrels), None):
        raise ConfigError(f"{answered}: the dev queries have no judgements, and tuning weights needs some")
    check_splits(collections, dev)
    kinds = {(bool(collection.qrels), bool(collection.answers)) for collection in (*collections, *dev)}
    if kinds == {(True, False)}:
        return MEASURES
    if kinds == {(False, True)}:
        return ANSWER_MEASURES
    raise ConfigError("a task has either judgements everywhere or answers everywhere: evaluate its collections apart")


def _tune_weights(dev: Sequence[Collection], settings: EvalSettings) -> tuple[Protocol, list[Tuning]]:
    """The protocol with the best weights for the dev queries, and what they gain there; the test's values come later.

    The candidates of "dense_sparse" are cut to the first ``rerank`` of each list here, which are enough to tell which
    weights are good.
    """
    protocol = settings.protocol
    settings = replace(settings, part="dev.", protocol=replace(protocol, candidates=protocol.rerank))
    pools: dict[Mode, list[Candidates]] = {mode: [] for mode in WEIGHTED if mode in settings.modes}
    for collection in dev:
        with settings.opener(collection.name, True) as store:
            searcher = Searcher(collection, store, settings)
            for mode, pool in pools.items():
                components = searcher.component_scores(mode, WEIGHTED[mode])
                pool.append(gather(components, collection, passages=settings.passages))
    tuned = []
    for mode, pool in pools.items():
        before = protocol.weights_of(mode)
        after, value = tune(pool, before, mode)
        queries = sum(len(one.queries) for one in pool)
        weights = three(before), three(after)
        tuned.append(Tuning(mode, *weights, queries, mean_ndcg(pool, before), value, math.nan, math.nan))
        protocol = protocol.with_weights(mode, after)
    return replace(protocol, name=f"{protocol.name}, weights tuned on dev"), tuned


def with_test_values(tuning: Tuning, found: Sequence[CollectionRuns], measure: str) -> Tuning:
    """A tuning with what its weights gained on the reported queries."""

    def mean(runs: Iterable[Run]) -> float:
        pairs = [(one.collection, run) for one, run in zip(found, runs, strict=True)]
        values = [group_means(run, collection, collection.qrels, [measure])[measure] for collection, run in pairs]
        return fmean(value for of_groups in values for value in of_groups)

    mode = cast(Mode, tuning.mode)
    return replace(
        tuning,
        test_before=mean(one.untuned[mode] for one in found),
        test_after=mean(one.runs[mode] for one in found),
    )


def measure_groups(found: Sequence[CollectionRuns], systems: Sequence[str], measures: Sequence[str]) -> list[Measured]:
    """One entry per collection and query language, in the order of the collections."""
    measured = []
    for one in found:
        qrels = judgements(one.collection, one.runs.values())
        values = {system: per_query(one.runs[system], qrels, measures) for system in systems}
        for lang, names in one.collection.by_language().items():
            judged = [query for query in names if query in qrels]
            by_system = {
                system: {name: [of_system[name][query] for query in judged] for name in measures}
                for system, of_system in values.items()
            }
            if judged:
                measured.append(Measured(one.collection.name, lang or one.collection.lang, one.documents, by_system))
    return measured


def judgements(collection: Collection, runs: Iterable[Run]) -> Qrels:
    """The judgements of a collection; where answers decide, those of everything that was found."""
    if collection.qrels:
        return collection.qrels
    rankings = list(runs)
    retrieved = {query: {name for run in rankings for name in run.get(query, {})} for query in collection.answers}
    return judge(retrieved, collection.documents, collection.answers)


def approximation_of(found: Sequence[CollectionRuns], mode: Mode, measures: Sequence[str]) -> Approximation:
    """What approximate search costs a mode, on the queries that were asked both ways."""
    exact: dict[str, list[float]] = {name: [] for name in measures}
    approximate: dict[str, list[float]] = {name: [] for name in measures}
    for one in found:
        run = one.approximate[mode]
        same = {query: one.runs[mode][query] for query in run}
        part = one.collection.only(run)
        qrels = judgements(part, [run, same])
        for values, ranking in ((exact, same), (approximate, run)):
            for name, means in group_means(ranking, part, qrels, measures).items():
                values[name] += means
    return Approximation(
        {name: fmean(values) for name, values in exact.items()},
        {name: fmean(values) for name, values in approximate.items()},
        fmean(overlap(one.runs[mode], one.approximate[mode]) for one in found),
        max((one.approximate_ms[mode] for one in found), key=lambda latency: latency.p50),
    )


def overlap(exact: Run, approximate: Run) -> float:
    """Share of the exact first ``SHOWN`` results that the approximate ones hold, mean over the approximate queries."""
    shares = []
    for name, scores in approximate.items():
        best, found = (dict(ordered(hits)[:SHOWN]).keys() for hits in (exact[name], scores))
        shares.append(len(best & found) / len(best) if best else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def weight_curves(found: Sequence[CollectionRuns], protocol: Protocol) -> tuple[Curve, ...]:
    """Weight sensitivity of "all"; empty if its component scores were not asked for."""
    known = [one for one in found if one.components]
    pool = [gather(one.components, one.collection, passages=one.passages) for one in known]
    return curves(pool, protocol.weights) if pool else ()


def worst_fusion_error(found: Sequence[CollectionRuns], protocol: Protocol) -> float | None:
    """Largest relative difference between fused scores and the sums of their parts; None without the parts.

    None for passages too: a document's fused score does not say which of them it belongs to.
    """
    known = [one for one in found if one.components and not one.passages]
    errors = [fusion_error(one.runs["all"], one.components, protocol.weights) for one in known]
    return max((error for error in errors if error is not None), default=None)
