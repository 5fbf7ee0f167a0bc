"""What a report says about one task: sentences, key figures and tables, for the page and for Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from m3_vdb.evaluation.report import costs, numbers, weights
from m3_vdb.evaluation.report.tables import (
    Cell,
    Row,
    Table,
    figure_of,
    groups_table,
    labels,
    system_name,
    systems_table,
    with_best,
    without_empty_columns,
)
from m3_vdb.evaluation.results import Evaluation


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a section; ``key`` says which charts belong to it, ``more`` is collapsed where that is possible."""

    key: str
    title: str
    text: str = ""
    table: Table | None = None
    more: tuple[Table, ...] = ()


def blocks(evaluation: Evaluation) -> tuple[Block, ...]:
    """The parts of which there is anything to say, in reading order."""
    return (*_quality(evaluation), *_weights(evaluation), *_costs(evaluation))


def _quality(evaluation: Evaluation) -> list[Block]:
    if not evaluation.measures:
        return []
    first, *others = evaluation.measures
    baseline = system_name(evaluation.baseline)
    text = "In brackets 95 % bootstrap confidence intervals over queries."
    if evaluation.comparisons:
        text += f" The difference to {baseline} is paired, query by query; p of a two-sided randomization test."
    more = tuple(systems_table(evaluation, measure) for measure in others)
    found = [Block("systems", first, text, systems_table(evaluation, first), more)]
    if len(evaluation.groups) > 1:
        corner = labels(evaluation.groups)[0]
        more = tuple(groups_table(evaluation, measure) for measure in others)
        text = "± is half the 95 % confidence interval; the best of a row is bold."
        found.append(Block("groups", f"{first} by {corner}", text, groups_table(evaluation, first), more))
    return found


def _weights(evaluation: Evaluation) -> list[Block]:
    found = []
    measure = evaluation.measures[0] if evaluation.measures else ""
    table = weights.curve_table(evaluation.curves, measure)
    if table is not None:
        points = weights.points_table(evaluation.curves)
        text = f"Mean {measure} of all while one weight varies and the two others stay."
        found.append(Block("weights", "Sensitivity to the weights", text, table, (points,) if points else ()))
    table = weights.tuning_table(evaluation.tunings)
    if table is not None:
        text = f"Weights (dense, sparse, multi-vector) with the best mean {measure} on the dev queries; "
        text += "all other figures of this report are those of the tuned weights."
        found.append(Block("tuning", "Tuned weights", text, table))
    if evaluation.fusion_error is not None and math.isfinite(evaluation.fusion_error):
        text = "Largest relative difference between a fused score of the store and the weighted sum of its three "
        text += f"parts, asked for one by one: {numbers.scientific(evaluation.fusion_error)}."
        found.append(Block("fusion", "Exactness of the fusion", text))
    return found


def _costs(evaluation: Evaluation) -> list[Block]:
    found = []
    table = costs.latency_table(evaluation)
    if table is not None:
        listed = costs.latency_by_collection(evaluation)
        text = "One request for 10 hits with their texts; encoding the query is not part of it."
        if listed is not None:
            text += f" Medians over {len(evaluation.costs)} collections."
        found.append(Block("latency", "Latency", text, table, (listed,) if listed else ()))
    ingest = costs.ingest_tables(evaluation.costs)
    if ingest:
        found.append(Block("ingest", "Ingest and index", "", ingest[0], ingest[1:]))
    approximate = [costs.approximation_table(evaluation.approximations, measure) for measure in evaluation.measures]
    known = [table for table in approximate if table is not None]
    if known:
        text = "The engine's graph instead of a full scan: what it changes, and how many of the true top 10 it finds."
        found.append(Block("approximate", "What approximate search costs", text, known[0], tuple(known[1:])))
    return found


def provenance(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """Everything that is needed to read the figures or to measure them again."""
    about = [("date", _date(evaluation.created)), ("command", evaluation.command), ("store", evaluation.store)]
    about += [(f"model {name.replace('_', ' ')}", value) for name, value in evaluation.model.items()]
    about += [(system_name(name).replace("_", " "), value) for name, value in evaluation.protocol.items()]
    about += evaluation.environment.items()
    return tuple((name, value) for name, value in about if value)


def _date(created: str) -> str:
    try:
        found = datetime.fromisoformat(created.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except ValueError:
        return created
    return (found.astimezone(timezone.utc) if found.tzinfo else found).strftime("%Y-%m-%d %H:%M UTC")


def summary(evaluations: Sequence[Evaluation]) -> Table | None:
    """A row per task with its first measure; None for one task, which says it itself."""
    if len(evaluations) < 2:
        return None
    systems = tuple(dict.fromkeys(system for evaluation in evaluations for system in evaluation.systems))
    rows = []
    for evaluation in evaluations:
        measure = evaluation.measures[0] if evaluation.measures else ""
        figures = [figure_of(evaluation.mean, system, measure) for system in systems]
        line = with_best([Cell(numbers.MISSING if f is None else numbers.number(f.value)) for f in figures])
        rows.append(Row(evaluation.task, (Cell(measure or numbers.MISSING), *line)))
    columns = ("measure", *(system_name(system) for system in systems))
    return without_empty_columns(Table("task", columns, tuple(rows)))
