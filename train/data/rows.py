"""Training rows: JSONL ``{"query", "pos": […], "neg": […], "pos_scores", "neg_scores"}``, as FlagEmbedding reads it.

``source`` and ``lang`` name the data set of a row. Scores are a reranker's, optional, one for each passage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, DocumentError
from train.data.lines import check_strings, dataset_of, parse_object, read_lines, strings

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


def read_rows(path: Path) -> list[Row]:
    """Read a whole file.

    Raises:
        DocumentError: a line is not a row; file and line are in the message, ``index`` is the line from 0.
        ConfigError: the file cannot be opened, or holds no row.
    """
    rows = [parse_row(line, path, index) for index, line in read_lines(path)]
    if not rows:
        raise ConfigError(f"{path} holds no training rows")
    return rows


def parse_row(line: bytes | str, path: Path, index: int) -> Row:
    """One line as a row.

    Raises:
        DocumentError: it is not a row.
    """
    where = f"{path}, line {index + 1}"
    fields = parse_object(line, path, index)
    if not isinstance(fields.get("query"), str):
        raise DocumentError(f'{where}: expected {{"query": str, "pos": [str], "neg": [str]}}', index=index)
    positives, negatives = (strings(fields, key, where, index) for key in ("pos", "neg"))
    if not positives:
        raise DocumentError(f"{where}: 'pos' must be a list with at least one string", index=index)
    dataset = dataset_of(fields)
    check_strings([fields["query"], *positives, *negatives, dataset], where, index)
    return Row(
        fields["query"],
        positives,
        negatives,
        _scores(fields, "pos", len(positives), where, index),
        _scores(fields, "neg", len(negatives), where, index),
        dataset,
    )


def _scores(fields: dict[str, Any], key: str, texts: int, where: str, index: int) -> tuple[float, ...]:
    scores = fields.get(f"{key}_scores") or []
    good = isinstance(scores, list) and all(map(_is_finite, scores))
    if not good or (scores and len(scores) != texts):
        raise DocumentError(
            f"{where}: '{key}_scores' must hold one finite number for each of the {texts} texts", index=index
        )
    return tuple(map(float, scores))


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float32 can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT32
