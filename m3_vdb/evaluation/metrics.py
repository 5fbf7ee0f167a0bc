"""nDCG, recall and reciprocal rank of rankings, query by query, by ``ir-measures``; and TREC run files.

Equal scores rank as trec_eval ranks them, by descending document id, for every measure. The tools under ir-measures
differ there, so they are given ranks instead of scores. A query of the judgements without results counts 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from sys import intern
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.collection import Qrels
from m3_vdb.types import FloatArray

MEASURES: Final = ("nDCG@10", "R@100", "RR@10")
"""By the names of ir-measures; RR@10 averages to what MS MARCO calls MRR@10."""
ANSWER_MEASURES: Final = ("Success@20", "Success@100")
"""Answer recall (MKQA): is there a passage with an answer among the first k? ``answers`` makes the judgements."""
CUTOFF: Final = 10
"""k of the vectorised nDCG@k."""
_UNSAYABLE: Final = re.compile(r"\s|%(?=[0-9A-Fa-f]{2})")
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


def ideal_dcg(grades: Iterable[int]) -> float:
    """The discounted gain of the best possible first ``CUTOFF`` results."""
    best = sorted((grade for grade in grades if grade > 0), reverse=True)[:CUTOFF]
    return float(sum(grade / np.log2(rank + 2) for rank, grade in enumerate(best)))


def ndcg(scores: FloatArray, gains: FloatArray, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
    """nDCG@10 of many re-ranked candidate lists at once, for weights that are tried by the hundred.

    Args:
        scores: float32 [Q, k], by which a list is ordered; −∞ where a query has fewer candidates. Equal scores keep
            their order.
        gains: float32 [Q, k], grade of each candidate; 0 if it is not relevant or not judged.
        ideal: float64 [Q], ``ideal_dcg`` of all relevant documents, found or not.

    Returns:
        float64 [Q]; 0 where nothing is relevant.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :CUTOFF]
    discounts = 1 / np.log2(np.arange(order.shape[1]) + 2)
    found = (np.take_along_axis(gains, order, axis=1) * discounts).sum(axis=1)
    values: NDArray[np.float64] = np.divide(found, ideal, out=np.zeros(len(ideal)), where=ideal > 0)
    return values


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

    White space in an id or the tag, which the format cannot say, is written as %20 and the like.

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
        ConfigError: a line is none of a run.
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
    return _UNSAYABLE.sub(lambda found: quote(found[0]), name)


def ordered(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """(document id, score), best first; equal scores by descending id."""
    return sorted(scores.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)
