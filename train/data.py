"""Training rows and the plan of batches: JSONL ``{"query", "pos": […], "neg": […]}``, as FlagEmbedding reads it.

Optional ``lang`` and ``source`` name the data set of a row; a batch comes from one data set, so that the other
passages of the batch are real competitors and not told apart by their language. Rows of a batch have similar lengths.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3_vdb.errors import ConfigError, DocumentError


@dataclass(frozen=True, slots=True)
class Row:
    """One training example.

    Attributes:
        query: the query.
        positives: relevant passages, at least one; one is drawn a use.
        negatives: hard negatives, at least one; drawn with repetition if too few.
        dataset: batches do not mix data sets.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    dataset: str


def read_rows(path: Path) -> list[Row]:
    """Read a JSONL file.

    Raises:
        DocumentError: a line is no row; file and line are in the message, ``index`` is the line from 0.
        ConfigError: the file cannot be opened, or holds no row.
    """
    try:
        with path.open(encoding="utf-8") as file:
            rows = [_parse(line, path, index) for index, line in enumerate(file) if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if not rows:
        raise ConfigError(f"{path} holds no training rows")
    return rows


def _parse(line: str, path: Path, index: int) -> Row:
    where = f"{path}, line {index + 1}"
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DocumentError(f"{where}: not JSON ({error.msg})", index=index) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("query"), str):
        raise DocumentError(f'{where}: expected {{"query": str, "pos": [str], "neg": [str]}}', index=index)
    passages = {}
    for key in ("pos", "neg"):
        texts = fields.get(key)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DocumentError(f"{where}: {key!r} must be a list with at least one string", index=index)
        passages[key] = tuple(texts)
    dataset = f"{fields.get('source', '')}/{fields.get('lang', '')}"
    return Row(fields["query"], passages["pos"], passages["neg"], dataset)


def plan_batches(rows: Sequence[Row], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of every batch of one epoch: a pure function of its arguments.

    Within a data set rows are shuffled, sorted by length inside windows of 32 batches, and cut. What is left of a data
    set joins the leftovers of the others; a last batch of a single row is dropped, since it has no competitors.
    """
    random_state = random.Random(f"{seed}/{epoch}")
    by_dataset: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_dataset[row.dataset].append(index)
    batches: list[list[int]] = []
    leftovers: list[int] = []
    for name in sorted(by_dataset):
        indices = by_dataset[name]
        random_state.shuffle(indices)
        whole = len(indices) - len(indices) % batch_size
        batches += _cut(rows, indices[:whole], batch_size)
        leftovers += indices[whole:]
    random_state.shuffle(leftovers)
    batches += [batch for batch in _cut(rows, leftovers, batch_size) if len(batch) > 1]
    random_state.shuffle(batches)
    return batches


def _cut(rows: Sequence[Row], indices: list[int], batch_size: int) -> Iterator[list[int]]:
    window = 32 * batch_size
    for start in range(0, len(indices), window):
        part = sorted(indices[start : start + window], key=lambda index: len(rows[index].positives[0]))
        yield from (part[i : i + batch_size] for i in range(0, len(part), batch_size))


def draw(row: Row, *, group_size: int, seed: str) -> list[str]:
    """One positive followed by ``group_size − 1`` negatives, drawn reproducibly from ``seed``."""
    random_state = random.Random(seed)
    wanted = group_size - 1
    negatives = list(row.negatives)
    while len(negatives) < wanted:
        negatives += row.negatives
    return [random_state.choice(row.positives), *random_state.sample(negatives, wanted)]
