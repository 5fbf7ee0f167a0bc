"""Training rows: JSONL ``{"query", "pos": […], "neg": […], "pos_scores", "neg_scores"}``, as FlagEmbedding reads it.

``source`` and ``lang`` name the data set of a row. Scores are a reranker's, optional, one for each passage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import DocumentError
from m3_vdb.evaluation.files import check_strings, strings
from m3_vdb.jsonl import parse_object

LARGEST_FLOAT32: Final = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Row:
    """One training example.

    Attributes:
        query: the query.
        positives: relevant passages, at least one.
        negatives: hard negatives.
        positive_scores: a reranker's scores of the positives, or empty.
        negative_scores: the same of the negatives.
        dataset: batches do not mix data sets.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()
    dataset: str = "/"


def parse_row(line: bytes | str, path: Path, index: int) -> Row:
    """One line as a row.

    Raises:
        DocumentError: it is not a row; file and line are in the message, ``index`` is the line from 0.
    """
    where = f"{path}, line {index + 1}"
    fields = parse_object(line, path, index)
    query, positives, negatives = texts_of(fields, where, index)
    return Row(
        query,
        positives,
        negatives,
        _scores(fields, "pos", len(positives), where, index),
        _scores(fields, "neg", len(negatives), where, index),
        dataset_of(fields),
    )


def texts_of(fields: Mapping[str, Any], where: str, index: int) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(query, positives, negatives) of a row, for training and mining alike.

    Raises:
        DocumentError: it is not a row; the message begins with ``where``.
    """
    query = fields.get("query")
    if not isinstance(query, str):
        raise DocumentError(f'{where}: expected {{"query": str, "pos": [str], "neg": [str]}}', index=index)
    positives, negatives = (strings(fields, key, where, index) for key in ("pos", "neg"))
    if not positives:
        raise DocumentError(f"{where}: 'pos' must be a list with at least one string", index=index)
    check_strings([query, *positives, *negatives, dataset_of(fields)], where, index)
    return query, positives, negatives


def dataset_of(fields: Mapping[str, Any]) -> str:
    """Name of a row's data set, from ``source``, ``lang`` and, if it has one, ``topic``: "/" if it has none of them."""
    name = f"{fields.get('source') or ''}/{fields.get('lang') or ''}"
    return name if fields.get("topic") is None else f"{name}/{fields['topic']}"


def _scores(fields: Mapping[str, Any], key: str, texts: int, where: str, index: int) -> tuple[float, ...]:
    scores = fields.get(f"{key}_scores") or []
    if not isinstance(scores, list) or not all(map(_fits_float32, scores)) or len(scores) not in (0, texts):
        raise DocumentError(
            f"{where}: '{key}_scores' must hold one finite number for each of the {texts} texts", index=index
        )
    return tuple(map(float, scores))


def _fits_float32(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT32
