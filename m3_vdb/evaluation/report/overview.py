"""What stands around the tables of a task: its headline, its key figures, and where its figures come from."""

from __future__ import annotations

from datetime import datetime, timezone

from m3_vdb.evaluation.report.tables import ENCODING, comparison_of, figure_of, ingest_totals, latencies, system_name
from m3_vdb.evaluation.report.writing import count, interval, number, p_value, rate, signed, size, tenths
from m3_vdb.evaluation.results import Evaluation
from m3_vdb.notices import counted


def best_mode(evaluation: Evaluation) -> str | None:
    """The system with the highest mean of the first measure, the baseline aside."""
    measure = evaluation.measures[0] if evaluation.measures else ""
    figures = {s: figure_of(evaluation.mean, s, measure) for s in evaluation.systems if s != evaluation.baseline}
    known = {system: figure.value for system, figure in figures.items() if figure is not None}
    return max(known, key=known.__getitem__, default=None)


def headline(evaluation: Evaluation) -> str:
    """What was measured and what came out, in one sentence."""
    groups = evaluation.groups
    documents = {group.collection: group.documents for group in groups}
    languages = len({group.lang for group in groups if group.lang})
    text = counted(sum(group.queries for group in groups), "query", "queries")
    text += f" in {languages} languages" if languages > 1 else ""
    text += f" on {counted(sum(documents.values()), 'document')} in "
    text += f"{len(documents)} collections" if len(documents) > 1 else "one collection"
    best = best_mode(evaluation)
    if best is None:
        return f"{text}."
    measure = evaluation.measures[0]
    figure = evaluation.mean[best][measure]
    between = interval(figure.low, figure.high)
    text += f": the best mode, {system_name(best)}, has {measure} {number(figure.value)}{between and ' ' + between}"
    text += f" (mean of {len(groups)} groups)" if len(groups) > 1 else ""
    compared = comparison_of(evaluation, best, measure)
    if compared is not None:
        low, high = compared.low, compared.high
        if compared.delta < 0 and low is not None and high is not None:
            low, high = -high, -low
        between = interval(low, high)
        text += f" and, query by query, is {number(abs(compared.delta))}{between and ' ' + between} "
        text += f"{'behind' if compared.delta < 0 else 'ahead of'} {system_name(evaluation.baseline)} "
        text += f"({p_value(compared.p_value, name='p')}; better on {count(compared.better)} queries, "
        text += f"worse on {count(compared.worse)})"
    return f"{text}."


def tiles(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(name, value, note) of the task's key figures."""
    found = []
    best = best_mode(evaluation)
    latency = latencies(evaluation)
    if best is not None:
        measure = evaluation.measures[0]
        figure = evaluation.mean[best][measure]
        found.append((f"{measure}, {system_name(best)}", number(figure.value), interval(figure.low, figure.high)))
        compared = comparison_of(evaluation, best, measure)
        if compared is not None:
            between, p = interval(compared.low, compared.high, sign=True), p_value(compared.p_value, name="p")
            name = f"difference to {system_name(evaluation.baseline)}"
            found.append((name, signed(compared.delta), f"{between}, {p}" if between else p))
        if best in latency:
            encoding = latency.get(ENCODING)
            note = f"and {tenths(encoding.p50)} ms to encode it" if encoding else ""
            found.append(("one query, median", f"{tenths(latency[best].p50)} ms", note))
    ingest = ingest_totals(evaluation.costs.values())
    documents, tokens, index, stored = (ingest[name] for name in ("documents/s", "tokens/s", "index", "stored"))
    if documents is not None:
        found.append(("documents per second", rate(documents), f"{rate(tokens)} tokens per second" if tokens else ""))
    if index is not None:
        found.append(("index", size(index), counted(int(stored or 0), "document")))
    return found


def provenance(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """Everything that is needed to read the figures or to measure them again."""
    try:
        date = datetime.fromisoformat(evaluation.created.replace("Z", "+00:00"))  # Python 3.10 does not know Z
        created = (date.astimezone(timezone.utc) if date.tzinfo else date).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        created = evaluation.created
    about = [("date", created), ("command", evaluation.command), ("store", evaluation.store)]
    about += [(f"model {name.replace('_', ' ')}", value) for name, value in evaluation.model.items()]
    about += [(system_name(name).replace("_", " "), value) for name, value in evaluation.protocol.items()]
    about += evaluation.environment.items()
    return tuple((name, value) for name, value in about if value)
