"""What comes first: one sentence and a few key figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from m3_vdb.evaluation.report import costs, numbers
from m3_vdb.evaluation.report.tables import figure_of, system_name
from m3_vdb.evaluation.results import Evaluation


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure."""

    name: str
    value: str
    note: str = ""


def best_mode(evaluation: Evaluation) -> str | None:
    """The system with the highest mean of the first measure, the baseline aside."""
    measure = evaluation.measures[0] if evaluation.measures else ""
    figures = {s: figure_of(evaluation.mean, s, measure) for s in evaluation.systems if s != evaluation.baseline}
    known = {system: figure.value for system, figure in figures.items() if figure is not None}
    return max(known, key=known.__getitem__, default=None)


def headline(evaluation: Evaluation) -> str:
    """What was measured and what came out, in one sentence."""
    best = best_mode(evaluation)
    if best is None:
        return f"{_extent(evaluation)}."
    measure = evaluation.measures[0]
    figure = evaluation.mean[best][measure]
    between = numbers.interval(figure.low, figure.high)
    reached = f"the best mode, {system_name(best)}, has {measure} {numbers.number(figure.value)}"
    reached += f" {between}" if between else ""
    reached += f" (mean of {len(evaluation.groups)} groups)" if len(evaluation.groups) > 1 else ""
    return f"{_extent(evaluation)}: {reached}{_beside_baseline(evaluation, best, measure)}."


def _extent(evaluation: Evaluation) -> str:
    groups = evaluation.groups
    queries = numbers.counted(sum(group.queries for group in groups), "query", "queries")
    collections = {group.collection: group.documents for group in groups}
    documents = numbers.counted(sum(collections.values()), "document")
    kept = f"{len(collections)} collections" if len(collections) > 1 else "one collection"
    languages = len({group.lang for group in groups if group.lang})
    spoken = f" in {languages} languages" if languages > 1 else ""
    return f"{queries}{spoken} on {documents} in {kept}"


def _beside_baseline(evaluation: Evaluation, system: str, measure: str) -> str:
    comparison = evaluation.comparisons.get(system, {}).get(measure)
    if comparison is None or not math.isfinite(comparison.delta):
        return ""
    low, high = comparison.low, comparison.high
    if comparison.delta < 0 and low is not None and high is not None:
        low, high = -high, -low
    between = numbers.interval(low, high)
    return (
        f" and, query by query, is {numbers.number(abs(comparison.delta))}{between and ' ' + between} "
        f"{'behind' if comparison.delta < 0 else 'ahead of'} {system_name(evaluation.baseline)} "
        f"({numbers.p_value(comparison.p_value, name='p')}; better on {numbers.count(comparison.better)} queries, "
        f"worse on {numbers.count(comparison.worse)})"
    )


def tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    """The key figures of the task."""
    found = []
    best = best_mode(evaluation)
    if best is not None:
        measure = evaluation.measures[0]
        figure = evaluation.mean[best][measure]
        between = numbers.interval(figure.low, figure.high)
        found.append(Tile(f"{measure}, {system_name(best)}", numbers.number(figure.value), between))
        comparison = evaluation.comparisons.get(best, {}).get(measure)
        if comparison is not None and math.isfinite(comparison.delta):
            p = numbers.p_value(comparison.p_value, name="p")
            delta, _, between = numbers.difference(comparison).partition(" ")
            note = f"{between}, {p}" if between else p
            found.append(Tile(f"difference to {system_name(evaluation.baseline)}", delta, note))
    latencies = costs.latencies(evaluation)
    if best in latencies:
        encoding = latencies.get(costs.ENCODING)
        note = f"and {numbers.milliseconds(encoding.p50)} ms to encode it" if encoding else ""
        found.append(Tile("one query, median", f"{numbers.milliseconds(latencies[best].p50)} ms", note))
    return (*found, *_ingest_tiles(evaluation))


def _ingest_tiles(evaluation: Evaluation) -> list[Tile]:
    known = evaluation.costs.values()
    documents, tokens = sum(cost.documents for cost in known), sum(cost.tokens for cost in known)
    seconds = sum(cost.ingest_seconds for cost in known)
    found = []
    if numbers.rate(documents, seconds) != numbers.MISSING:
        note = f"{numbers.rate(tokens, seconds)} tokens a second" if tokens else ""
        found.append(Tile("documents a second", numbers.rate(documents, seconds), note))
    sizes = [cost.index_bytes for cost in known]
    if sizes and None not in sizes:
        held = sum(cost.documents + cost.reused for cost in known)
        found.append(Tile("index", numbers.size(sum(s or 0 for s in sizes)), numbers.counted(held, "document")))
    return found
