"""Training rows and passages as mining reads and writes them.

Rows are JSONL ``{"query", "pos", "neg"?, …}``; only what mining needs is looked at, and every other field is kept.
``pos_ids`` and ``neg_ids`` are optional ids of the passages in a corpus; ``source`` and ``lang`` name the data set.
Passages may be more than memory holds: texts are read when they are needed, and 64-bit digests stand for them.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.files import parse_document
from m3_vdb.jsonl import parse_object, read_objects
from m3_vdb.types import Document
from train.data.rows import dataset_of, texts_of

Table = tuple[NDArray[np.uint64], NDArray[np.intp]]
"""Digests in order, and the row of each."""


@dataclass(frozen=True, slots=True)
class MiningRow:
    """What mining sees of a row.

    Attributes:
        query: the query.
        positives: relevant passages with their ids ("" for none), at least one.
        negatives: the row's own negatives likewise, perhaps none.
        dataset: rows are mined from the pool of their own data set.
    """

    query: str
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...]
    dataset: str

    @property
    def key(self) -> str:
        """Identifies the row wherever it stands in whatever file."""
        return "\0".join((self.query, *(passage.text for passage in self.positives)))


@dataclass(frozen=True, slots=True)
class Known:
    """What is relevant to a query, by the labels of all rows that ask it.

    Attributes:
        digests: of the texts, see ``digest``.
        ids: in the corpus.
    """

    digests: set[int]
    ids: set[str]


class Corpus:
    """Passages by row number. In memory are the ids, and 24 bytes per passage: its place in the file and two digests.

    Args:
        documents: where the passages are; read once now, and later row by row.
    """

    def __init__(self, documents: Sequence[Document] | _Lines) -> None:
        self._documents = documents
        count = len(documents)
        self.ids: list[str] = []
        self.digests = np.empty(count, dtype=np.uint64)
        self.text_digests = np.empty(count, dtype=np.uint64)
        for row, document in enumerate(self):
            self.ids.append(document.id)
            self.text_digests[row] = digest(document.text)
            self.digests[row] = digest(document.content)

    @classmethod
    def read(cls, path: Path) -> Corpus:
        """A JSONL file, one ``{"text", "title"?, "id"?}`` per line (``_id`` and ``docid`` are ids too).

        Raises:
            ConfigError: the file cannot be read, or holds nothing.
            DocumentError: a line is not a passage; file and line are in the message, ``index`` is the line from 0.
        """
        lines = _Lines(path)
        if not len(lines):
            raise ConfigError(f"{path} holds no passages: expected one JSON object per line")
        return cls(lines)

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> Document:
        """The passage of a row; "" is the id of one that has none."""
        return self._documents[row]

    def rows_of(self, digests: Iterable[int], ids: Iterable[str]) -> NDArray[np.int64]:
        """Every row whose content or text has one of the digests, or whose id is one of ``ids``; ascending."""
        texts = np.fromiter(digests, dtype=np.uint64)
        names = np.fromiter((digest(name) for name in ids if name), dtype=np.uint64)
        found = [_rows_with(table, wanted) for table, wanted in zip(self._tables, (texts, texts, names), strict=True)]
        return np.unique(np.concatenate(found))

    @cached_property
    def _tables(self) -> list[Table]:
        """Sorted digests of contents, texts and ids: 48 bytes per passage."""
        ids = np.fromiter(map(digest, self.ids), dtype=np.uint64, count=len(self))
        orders = [(values, np.argsort(values, kind="stable")) for values in (self.digests, self.text_digests, ids)]
        return [(values[order], order) for values, order in orders]


def digest(text: str) -> int:
    """64 bits of a text without its outer white space: equal for equal texts on every machine."""
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest(), "little")


def read_rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of JSONL files, in order.

    Raises:
        DocumentError: a line is not a row; file and line are in the message, ``index`` is the line from 0.
        ConfigError: a file cannot be read, or holds no row.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        before = len(rows)
        for index, fields in read_objects(path):
            parse_row(fields, where=f"{path}, line {index + 1}", index=index)
            rows.append(fields)
        if len(rows) == before:
            raise ConfigError(f"{path} holds no training rows: expected one JSON object per line")
    return rows


def parse_row(fields: Mapping[str, Any], *, where: str, index: int) -> MiningRow:
    """Check a row.

    Raises:
        DocumentError: it is not one; the message begins with ``where``.
    """
    query, positives, negatives = texts_of(fields, where, index)

    def documents(texts: Sequence[str], key: str) -> tuple[Document, ...]:
        ids = fields.get(key) or [""] * len(texts)
        if not isinstance(ids, list) or len(ids) != len(texts):
            raise DocumentError(
                f"{where}: {key!r} must be a list with an id for each of {len(texts)} passages", index=index
            )
        return tuple(Document(str(name), text) for name, text in zip(ids, texts, strict=True))

    return MiningRow(query, documents(positives, "pos_ids"), documents(negatives, "neg_ids"), dataset_of(fields))


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a JSONL file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(path)


def known_positives(rows: Iterable[MiningRow]) -> dict[str, Known]:
    """What is relevant to each query; the query itself is, too. Keys are queries without outer white space."""
    known: dict[str, Known] = defaultdict(lambda: Known(set(), set()))
    for row in rows:
        entry = known[row.query.strip()]
        entry.digests.update(map(digest, (row.query, *(passage.text for passage in row.positives))))
        entry.ids.update(passage.id for passage in row.positives if passage.id)
    return dict(known)


def pool(rows: Iterable[MiningRow]) -> Corpus:
    """All distinct passages of rows, with their ids where rows know them, in an order that rows do not change."""
    passages: dict[int, Document] = {}
    for row in rows:
        for passage in (*row.positives, *row.negatives):
            first = passages.setdefault(digest(passage.text), passage)
            # Of equal texts the one with an id, and always the same one, whichever row comes first.
            if (not passage.id, passage.id, passage.text) < (not first.id, first.id, first.text):
                passages[digest(passage.text)] = passage
    return Corpus([passages[mark] for mark in sorted(passages)])


class _Lines:
    """The passages on the lines of a file that are not empty, memory-mapped and parsed when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        spans: list[tuple[int, int]] = []
        start = 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file):
                    if line.strip():
                        spans.append((start, number))
                    start += len(line)
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r") if spans else np.zeros(0, np.uint8)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        table = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._starts: NDArray[np.int64] = np.append(table[:, 0], start)
        self._numbers = table[:, 1]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> Document:
        # An empty line between two rows is white space at the end of the first, which JSON allows.
        line, index = self._bytes[self._starts[row] : self._starts[row + 1]].tobytes(), int(self._numbers[row])
        return parse_document(parse_object(line, self._path, index), (self._path, index))


def _rows_with(table: Table, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    values, order = table
    starts, ends = (np.searchsorted(values, wanted, side=side) for side in ("left", "right"))
    spans = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *spans])
