"""nDCG, recall and reciprocal rank of rankings, query by query, by ``ir-measures``; and TREC run files.

Equal scores rank as trec_eval ranks them, by descending document id, for every measure. The tools under ir-measures
differ there, so they are given ranks instead of scores. A query of the judgements without results counts 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from sys import intern
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.collection import Collection, Qrels

MEASURES: Final = ("nDCG@10", "R@100", "RR@10")
"""By the names of ir-measures; RR@10 averages to what MS MARCO calls MRR@10."""
ANSWER_MEASURES: Final = ("Success@20", "Success@100")
"""Answer recall (MKQA): is there a passage with an answer among the first k? ``answers`` makes the judgements."""
_NEEDS_ESCAPE: Final = re.compile(r"\s|%(?=[0-9A-Fa-f]{2})")
Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id → document id → score."""


def per_query(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> dict[str, dict[str, float]]:
    """Measure → query id → value, for every query of ``qrels``.

    Raises:
        MissingExtraError: ``ir-measures`` is not installed.
    """
    ir_measures = import_ir_measures()
    ranks = {
        query: {document: float(-rank) for rank, (document, _) in enumerate(ordered(run[query]))}
        for query in qrels
        if query in run
    }
    parsed = {ir_measures.parse_measure(name): name for name in measures}
    values = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    for metric in ir_measures.iter_calc(list(parsed), qrels, ranks):
        values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return values


def measure(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> dict[str, float]:
    """The mean of every measure over the queries of ``qrels``.

    Raises:
        MissingExtraError: ``ir-measures`` is not installed.
    """
    return {name: fmean(values.values()) for name, values in per_query(run, qrels, measures).items()}


def group_means(run: Run, collection: Collection, qrels: Qrels, measures: Sequence[str]) -> dict[str, list[float]]:
    """Measure → mean of every language of a collection, over the queries of ``qrels``."""
    values = per_query(run, qrels, measures)
    groups = [[query for query in names if query in qrels] for names in collection.by_language().values()]
    return {name: [fmean(values[name][query] for query in names) for names in groups if names] for name in measures}


def import_ir_measures() -> Any:  # noqa: ANN401 - a module
    """The library, when it is needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ir_measures  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("measuring rankings", extra="eval") from error
    return ir_measures


def write_run(run: Run, path: Path, *, tag: str, append: bool = False) -> None:
    """Write a TREC run file, ``query Q0 document rank score tag``; ranks begin at 1.

    White space in an id or the tag, which the format cannot hold, is written as %20 and the like.

    Args:
        run: the ranking.
        path: replaced when the new file is complete.
        tag: name of the system.
        append: lengthen the file instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path if append else path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("a" if append else "w", encoding="utf-8") as file:
        for query, scores in run.items():
            for rank, (document, score) in enumerate(ordered(scores), start=1):
                file.write(f"{_escape(query)} Q0 {_escape(document)} {rank} {score:.9g} {_escape(tag)}\n")
    if not append:
        partial.replace(path)


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """Read a TREC run file.

    Raises:
        ConfigError: a line is malformed.
        OSError: the file cannot be read.
    """
    run: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                query, _, document, _, score, _ = line.split()
                run.setdefault(unquote(query), {})[intern(unquote(document))] = float(score)
            except ValueError:
                raise ConfigError(
                    f"{path}, line {number}: expected 'query Q0 document rank score tag', got {line.rstrip()!r}"
                ) from None
    return run


def _escape(name: str) -> str:
    """Percent signs too where they would be read back as something else."""
    return _NEEDS_ESCAPE.sub(lambda found: quote(found[0]), name)


def ordered(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(document id, score), best first; equal scores by descending id."""
    return sorted(scores.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)
