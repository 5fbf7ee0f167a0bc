"""The tables of what an evaluation cost: latency, ingest, approximate search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from m3_vdb.evaluation.report import numbers
from m3_vdb.evaluation.report.tables import (
    Row,
    Table,
    cells,
    system_name,
    without_empty_columns,
)
from m3_vdb.evaluation.results import Approximation, Cost, Evaluation, Percentiles

ENCODING = "encode the query"
FEW_COLLECTIONS = 3
"""Up to so many collections stand in the first table; more are summed up there and listed below."""
INGEST = (
    *("encoded", "unchanged", "rejected", "tokens", "truncated"),
    *("seconds", "documents/s", "tokens/s", "index", "per document"),
)


def latencies(evaluation: Evaluation) -> dict[str, Percentiles]:
    """Encoding and every system: percentiles of the one collection, or the median of each over the collections."""
    costs = evaluation.costs.values()
    parts = {ENCODING: [cost.encode_ms for cost in costs]}
    parts |= {system: [cost.search_ms.get(system) for cost in costs] for system in evaluation.systems}
    known = {name: [value for value in values if value is not None] for name, values in parts.items()}
    return {name: _median(values) for name, values in known.items() if values}


def _median(values: Sequence[Percentiles]) -> Percentiles:
    p50, p95, p99 = (statistics.median(getattr(value, name) for value in values) for name in ("p50", "p95", "p99"))
    return Percentiles(p50, p95, p99, sum(value.count for value in values))


def latency_table(evaluation: Evaluation) -> Table | None:
    """Percentiles by system."""
    rows = tuple(
        Row(system_name(name), cells([*map(numbers.milliseconds, (v.p50, v.p95, v.p99)), numbers.count(v.count)]))
        for name, v in latencies(evaluation).items()
    )
    return Table("milliseconds", ("p50", "p95", "p99", "measured"), rows) if rows else None


def latency_by_collection(evaluation: Evaluation) -> Table | None:
    """All percentiles of all collections; None if the first table says it already."""
    if len(evaluation.costs) < 2 or not latencies(evaluation):
        return None
    rows = tuple(
        Row(
            name,
            cells(numbers.percentiles(p) for p in (cost.encode_ms, *map(cost.search_ms.get, evaluation.systems))),
        )
        for name, cost in evaluation.costs.items()
    )
    columns = ("encode", *map(system_name, evaluation.systems))
    return without_empty_columns(Table("collection", columns, rows, "Milliseconds by collection, p50 / p95 / p99"))


def ingest_tables(costs: Mapping[str, Cost]) -> tuple[Table, ...]:
    """What encoding and storing took: a sum, and every collection."""
    if not costs:
        return ()
    rows = [_ingested(name, [cost]) for name, cost in costs.items()]
    total = _ingested(f"all {len(costs)}", list(costs.values()), summary=True)
    if len(rows) > FEW_COLLECTIONS:
        first = Table("collections", INGEST, (total,))
        listed = Table("collection", INGEST, tuple(rows), "Ingest by collection")
        return without_empty_columns(first), without_empty_columns(listed)
    return (without_empty_columns(Table("collection", INGEST, (*rows, total) if len(rows) > 1 else tuple(rows))),)


def _ingested(name: str, costs: Sequence[Cost], *, summary: bool = False) -> Row:
    parts = ("documents", "reused", "rejected", "tokens", "truncated")
    documents, reused, rejected, tokens, truncated = (sum(getattr(cost, part) for cost in costs) for part in parts)
    seconds = sum(cost.ingest_seconds for cost in costs)
    sizes = [(cost.index_bytes, cost.documents + cost.reused) for cost in costs if cost.index_bytes is not None]
    stored = sum(held for _, held in sizes)
    total = sum(size or 0 for size, _ in sizes) if len(sizes) == len(costs) else None
    texts = (
        numbers.count(documents),
        numbers.count(reused) if reused else "",
        numbers.count(rejected) if rejected else "",
        numbers.count(tokens) if documents else "",
        numbers.count(truncated) if truncated else "",
        f"{seconds:,.1f}" if documents and math.isfinite(seconds) else "",
        numbers.rate(documents, seconds),
        numbers.rate(tokens, seconds) if documents else "",
        numbers.size(total),
        numbers.size(total / stored) if total is not None and stored else "",
    )
    return Row(name, cells(texts), summary)


def approximation_table(found: Mapping[str, Approximation], measure: str) -> Table | None:
    """What the engine's graph changes, a row per mode."""
    rows = tuple(
        Row(
            system_name(mode),
            cells(
                [
                    numbers.number(item.exact[measure]),
                    numbers.number(item.approximate[measure]),
                    numbers.signed(item.approximate[measure] - item.exact[measure]),
                    numbers.share(item.overlap),
                    numbers.percentiles(item.search_ms),
                ]
            ),
        )
        for mode, item in found.items()
        if measure in item.exact and measure in item.approximate
    )
    columns = ("exact", "approximate", "difference", "same top 10", "ms, p50 / p95 / p99")
    return without_empty_columns(Table("mode", columns, rows, measure)) if rows else None
