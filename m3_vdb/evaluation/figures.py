"""From the rankings of all collections to what a report shows; the arithmetic is in ``metrics`` and ``weighting``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.answers import judge
from m3_vdb.evaluation.collection import Collection, Qrels
from m3_vdb.evaluation.measuring import Searched
from m3_vdb.evaluation.metrics import ANSWER_MEASURES, MEASURES, Run, per_query
from m3_vdb.evaluation.protocol import Mode, Protocol
from m3_vdb.evaluation.results import Approximation, Curve, Tuning
from m3_vdb.evaluation.search import overlap
from m3_vdb.evaluation.summary import Measured
from m3_vdb.evaluation.tuning import Tuned
from m3_vdb.evaluation.weighting import Pool, curves, fusion_error
from m3_vdb.weights import Weights


def measures_of(collections: Sequence[Collection]) -> tuple[str, ...]:
    """What can be measured on collections: nDCG and the like by judgements, answer recall by answers.

    Raises:
        ConfigError: some have judgements and some answers, or one has neither.
    """
    kinds = {(bool(collection.qrels), bool(collection.answers)) for collection in collections}
    if kinds == {(True, False)}:
        return MEASURES
    if kinds == {(False, True)}:
        return ANSWER_MEASURES
    raise ConfigError("a task has either judgements everywhere or answers everywhere: evaluate its collections apart")


def measure_groups(searched: Sequence[Searched], systems: Sequence[str], measures: Sequence[str]) -> list[Measured]:
    """One entry a collection and query language, in the order of the collections."""
    measured = []
    for one in searched:
        qrels = judgements(one.collection, one.runs.values())
        values = {system: per_query(one.runs[system], qrels, measures) for system in systems}
        for lang, names in one.collection.by_language().items():
            judged = [query for query in names if query in qrels]
            by_system = {
                system: {name: [found[name][query] for query in judged] for name in measures}
                for system, found in values.items()
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


def approximations(
    searched: Sequence[Searched], modes: Sequence[Mode], measures: Sequence[str]
) -> dict[str, Approximation]:
    """Mode → what approximate search costs, on the queries that were asked both ways."""
    both = [one for one in searched if one.approximate]
    return {mode: _approximation(both, mode, measures) for mode in modes} if both else {}


def weight_curves(searched: Sequence[Searched], protocol: Protocol) -> tuple[Curve, ...]:
    """Weight sensitivity of "all"; empty if its raw scores were not asked for."""
    probed = [one for one in searched if one.probes]
    if not probed:
        return ()
    pools = [Pool.of([(one.collection, one.probes)], passages=one.passages) for one in probed]
    return curves(Pool.join(pools), protocol.weights)


def worst_fusion_error(searched: Sequence[Searched], protocol: Protocol) -> float | None:
    """Largest relative difference between fused scores and the sums of their parts; None without the parts.

    None for passages too: a document's fused score does not say which of them it is of.
    """
    probed = [one for one in searched if one.probes and not one.passages]
    errors = [fusion_error(one.runs["all"], one.probes, protocol.weights) for one in probed]
    return max((error for error in errors if error is not None), default=None)


def tunings(searched: Sequence[Searched], tuned: Sequence[Tuned], measure: str) -> tuple[Tuning, ...]:
    """What tuned weights gained on dev and on the reported queries."""

    def mean(runs: Iterable[Run]) -> float:
        collections = [one.collection for one in searched]
        return fmean(
            value
            for collection, run in zip(collections, runs, strict=True)
            for value in group_means(run, collection, collection.qrels, [measure])[measure]
        )

    return tuple(
        Tuning(
            mode=one.mode,
            before=_triple(one.before),
            after=_triple(one.after),
            dev_queries=one.queries,
            dev_before=one.value_before,
            dev_after=one.value_after,
            test_before=mean(each.untuned[one.mode] for each in searched),
            test_after=mean(each.runs[one.mode] for each in searched),
        )
        for one in tuned
    )


def group_means(run: Run, collection: Collection, qrels: Qrels, measures: Sequence[str]) -> dict[str, list[float]]:
    """Measure → mean of every language of a collection."""
    values = per_query(run, qrels, measures)
    groups = [[query for query in names if query in qrels] for names in collection.by_language().values()]
    return {name: [fmean(values[name][query] for query in names) for names in groups if names] for name in measures}


def _triple(weights: Weights) -> tuple[float, float, float]:
    return weights.dense, weights.sparse, weights.multi_vector


def _approximation(searched: Sequence[Searched], mode: Mode, measures: Sequence[str]) -> Approximation:
    exact: dict[str, list[float]] = {name: [] for name in measures}
    approximate: dict[str, list[float]] = {name: [] for name in measures}
    shares, times = [], []
    for one in searched:
        run = one.approximate[mode]
        same = {query: one.runs[mode][query] for query in run}
        part = one.collection.only(run)
        qrels = judgements(part, [run, same])
        for values, ranking in ((exact, same), (approximate, run)):
            for name, means in group_means(ranking, part, qrels, measures).items():
                values[name] += means
        shares.append(overlap(same, run))
        times.append(one.approximate_ms[mode])
    slowest = max(times, key=lambda latency: latency.p50)
    return Approximation(_means(exact), _means(approximate), fmean(shares), slowest)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: fmean(of_groups) for name, of_groups in values.items()}
