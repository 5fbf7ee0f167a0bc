"""Rows tokenized once, on disk: Arrow files that are memory-mapped, so that a data set may be larger than memory.

The ``datasets`` library writes and finds them again (the cache is keyed by file, size, time, tokenizer and lengths);
this module says what is in a row. A malformed line becomes a row with a ``problem``, so that the policy is applied when
the store is opened, from the cache as well.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.files import check_strings
from m3_vdb.jsonl import parse_object, read_lines
from train.data.rows import Row, parse_row

CHUNK: Final = 512
"""Lines that are tokenized in one call of the (multi-threaded) tokenizer."""
LAYOUT: Final = 2
"""Part of the cache's key; changes with the columns."""
TOKENS: Final = datasets.List(datasets.Value("int32"))
NUMBERS: Final = datasets.List(datasets.Value("int64"))
COLUMNS: Final = datasets.Features(
    {
        "problem": datasets.Value("string"),
        "dataset": datasets.Value("string"),
        "longest": datasets.Value("int32"),  # tokens of the row's longest text
        "positive_length": datasets.Value("int32"),  # tokens of its longest positive
        "negative_length": datasets.Value("int32"),
        "negatives_count": datasets.Value("int32"),
        "query_length": datasets.Value("int32"),
        "query": TOKENS,
        "query_key": datasets.Value("int64"),
        "positives": datasets.List(TOKENS),
        "positive_keys": NUMBERS,
        "positive_scores": datasets.List(datasets.Value("float32")),
        "negatives": datasets.List(TOKENS),
        "negative_keys": NUMBERS,
        "negative_scores": datasets.List(datasets.Value("float32")),
    }
)
BLANK: Final[dict[str, Any]] = {
    name: [] if isinstance(kind, datasets.List) else "" if kind.dtype == "string" else 0
    for name, kind in COLUMNS.items()
}
Stamp: TypeAlias = tuple[str, int, int]
"""A file: path, size, time."""
Options: TypeAlias = tuple[str, int, int, bool, str]
"""tokenizer.json, tokens of a query and of a passage, whether negatives are needed, kind of lines."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Maximum tokens of a query and of a passage."""

    query: int
    passage: int


def key(text: str) -> int:
    """64 bits that tell texts apart, white space at the ends left out."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little", signed=True)


class RowStore:
    """Tokenized rows, by number.

    Args:
        files: JSONL files of rows.
        tokenizer_json: content of ``tokenizer.json``.
        lengths: where texts are cut.
        on_bad_row: "stop" or "skip".
        need_negatives: a row without hard negatives is a bad row.
        workers: processes, one file each at most.
        kind: "rows", or "texts" for {"text": …} lines, which are kept as queries; a row is its query and its positives.

    Attributes:
        rejected: message of every skipped line.

    Raises:
        DocumentError: a line is malformed and the policy is "stop".
        ConfigError: a file cannot be read, or no row is left.
    """

    def __init__(
        self,
        files: Sequence[Path],
        tokenizer_json: str,
        lengths: Lengths,
        *,
        on_bad_row: Literal["stop", "skip"] = "stop",
        need_negatives: bool = False,
        workers: int = 1,
        kind: Literal["rows", "texts"] = "rows",
    ) -> None:
        table = _build(list(files), tokenizer_json, lengths, need_negatives, workers, kind)
        problems = table.with_format("numpy")["problem"][:]
        bad = np.flatnonzero(problems != "")
        self.rejected: list[str] = [str(problems[row]) for row in bad]
        if self.rejected and on_bad_row == "stop":
            raise DocumentError(
                f"{self.rejected[0]} ({len(bad)} of {len(table)} rows are bad; on_bad_row: skip leaves them out)",
                index=int(bad[0]),
            )
        self._table = table.select(np.flatnonzero(problems == "")) if len(bad) else table
        if not len(self._table):
            raise ConfigError(f"{', '.join(map(str, files))}: no training rows")

    def __len__(self) -> int:
        return len(self._table)

    def column(self, name: str) -> NDArray[Any]:
        """A column of scalars, one value a row."""
        return np.asarray(self._table.with_format("numpy")[name][:])

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of the given numbers as dictionaries of ``COLUMNS``, token lists as Python lists."""
        columns = self._table[[int(number) for number in numbers]]
        names = list(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def token_batch(texts: Iterable[Sequence[int]]) -> TokenBatch:
    """Token lists, specials included, as a packed batch."""
    arrays = [np.asarray(text, dtype=np.int32) for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays], dtype=np.int64)]).astype(np.int64)
    return TokenBatch(np.concatenate(arrays), offsets, np.zeros(len(arrays), dtype=np.bool_))


def _build(
    files: list[Path], tokenizer_json: str, lengths: Lengths, need_negatives: bool, workers: int, kind: str
) -> datasets.Dataset:
    stamps = []
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        if next(read_lines(file), None):
            stamps.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    if not stamps:
        raise ConfigError(f"{', '.join(map(str, files))}: no training rows")
    options = (tokenizer_json, lengths.query, lengths.passage, need_negatives, kind)
    if workers > 1 and len(stamps) > 1:
        # New interpreters, not forks: a fork of a process that has threads (gRPC, Ray, a notebook) may never return.
        with ProcessPoolExecutor(min(workers, len(stamps)), multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_count, stamps, repeat(options)))
    return datasets.concatenate_datasets([_table(stamp, options) for stamp in stamps])


def _count(stamp: Stamp, options: Options) -> int:
    """Fill the cache in another process; a table itself would travel back."""
    return len(_table(stamp, options))


def _table(stamp: Stamp, options: Options) -> datasets.Dataset:
    """The rows of one file, from the cache if they are there."""
    digest = hashlib.sha256(json.dumps([LAYOUT, stamp, options]).encode()).hexdigest()
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_generator(
        _records, features=COLUMNS, gen_kwargs={"file": stamp[0], "options": options}, fingerprint=digest[:32]
    )
    assert isinstance(table, datasets.Dataset)
    return table


def _records(file: str, options: Options) -> Iterator[dict[str, Any]]:
    """A file's rows in order; runs where ``datasets`` wants it to, so its arguments are plain values."""
    tokenizer_json, query_length, passage_length, need_negatives, kind = options
    tokenizer, path = Tokenizer(tokenizer_json), Path(file)
    lines = read_lines(path)
    while chunk := list(islice(lines, CHUNK)):
        parsed = [row for index, line in chunk for row in _parse(line, path, index, need_negatives, kind)]
        rows = [row for row in parsed if isinstance(row, Row)]
        tokens = _tokenize(tokenizer, rows, Lengths(query_length, passage_length))
        for row in parsed:
            yield BLANK | {"problem": row} if isinstance(row, str) else _record(row, tokens)


def _parse(line: bytes, file: Path, index: int, need_negatives: bool, kind: str) -> list[Row] | list[str]:
    """What a line holds, or what is wrong with it."""
    try:
        rows = [parse_row(line, file, index)] if kind == "rows" else _texts(line, file, index)
    except DocumentError as error:
        return [str(error)]
    if need_negatives and not rows[0].negatives:
        where = f"{file}, line {index + 1}"
        return [f"{where}: 'neg' is empty: mine negatives (python -m train mine), or set group_size to 1"]
    return rows


def _texts(line: bytes, file: Path, index: int) -> list[Row]:
    """The text of a line, or the query and the positives of a training row."""
    fields, where = parse_object(line, file, index), f"{file}, line {index + 1}"
    if "query" in fields and "text" not in fields:
        row = parse_row(line, file, index)
        return [Row(text, (), ()) for text in (row.query, *row.positives)]
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DocumentError(f'{where}: expected {{"text": "…"}} with some text, or a training row', index=index)
    check_strings([text], where, index)
    return [Row(text, (), ())]


def _tokenize(tokenizer: Tokenizer, rows: Sequence[Row], lengths: Lengths) -> Iterator[list[int]]:
    """Token ids of each row's query, positives and negatives, one text after another."""
    queries = tokenizer.encode([row.query for row in rows], max_length=lengths.query)
    passages = tokenizer.encode([t for row in rows for t in row.positives + row.negatives], max_length=lengths.passage)
    passage = 0
    for number, row in enumerate(rows):
        yield queries.ids[queries.offsets[number] : queries.offsets[number + 1]].tolist()
        for _ in row.positives + row.negatives:
            yield passages.ids[passages.offsets[passage] : passages.offsets[passage + 1]].tolist()
            passage += 1


def _record(row: Row, tokens: Iterator[list[int]]) -> dict[str, Any]:
    query, *passages = islice(tokens, 1 + len(row.positives) + len(row.negatives))
    positives, negatives = passages[: len(row.positives)], passages[len(row.positives) :]
    return {
        "problem": "",
        "dataset": row.dataset,
        "longest": max(map(len, [query, *passages])),
        "positive_length": max(map(len, positives), default=0),
        "negative_length": max(map(len, negatives), default=0),
        "negatives_count": len(negatives),
        "query_length": len(query),
        "query": query,
        "query_key": key(row.query),
        "positives": positives,
        "positive_keys": [key(text) for text in row.positives],
        "positive_scores": list(row.positive_scores),
        "negatives": negatives,
        "negative_keys": [key(text) for text in row.negatives],
        "negative_scores": list(row.negative_scores),
    }
