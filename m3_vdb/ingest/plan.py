"""What ``sync`` will do: a corpus compared with a collection, row by row, on disk.

The collection is the truth: each stored document holds its title, text, payload and marks (``m3_vdb.marks``), so what
has changed is found by reading it without vectors. There is no state beside it that could be lost, or be another
machine's; whatever a killed run has done is seen by the next one. Rows are passages where documents are split.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from m3_vdb.errors import DocumentError
from m3_vdb.ingest.batch import Item, content_hash, text_hash
from m3_vdb.ingest.rows import (
    DUPLICATE,
    NOT_STORABLE,
    UNREADABLE,
    WRONG_COLUMNS,
    Rejected,
    Row,
    message_without_index,
    reject,
)
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document

Change: TypeAlias = Literal["added", "changed", "moved", "updated", "removed", "rejected"]
CHANGES: Final[tuple[Change, ...]] = ("added", "changed", "moved", "updated", "removed", "rejected")
SAMPLES: Final = 5
"""Ids that a plan names of each kind."""
AT_ONCE: Final = 256
_INCOMPLETE: Final = (UNREADABLE, WRONG_COLUMNS)
"""Rejections behind which any number of documents may stand."""
_SCHEMA: Final = """
CREATE TABLE stored (id TEXT PRIMARY KEY, document TEXT, source TEXT, text BLOB, whole BLOB, seen INTEGER DEFAULT 0);
CREATE TABLE claimed (document TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE work (place INTEGER PRIMARY KEY, way TEXT, text BLOB, donor TEXT, item BLOB);
"""
_INDEXES: Final = """
CREATE INDEX texts ON stored (text);
CREATE INDEX documents ON stored (document);
"""


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a sync would change, or has changed: documents, however many passages they have.

    Attributes:
        source: of the collection's documents, those that belong to this corpus carry this name; "" for a whole
            collection.
        added: new.
        changed: with another title or text, or split in another way.
        moved: new under their ids, with a title and text that the collection has encoded already: nothing is encoded.
        updated: with another payload, or taken over from no source: nothing is encoded.
        removed: no longer in the corpus.
        unchanged: the others.
        rejected: rows that are no documents; what is stored under their ids stays.
        kept: no longer there, and yet not removed, because a part of the corpus could not be read.
        to_encode: documents, or passages, that are encoded.
        stored: documents of this source before.
        samples: kind of change → the first ids.
    """

    source: str
    added: int = 0
    changed: int = 0
    moved: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    rejected: int = 0
    kept: int = 0
    to_encode: int = 0
    stored: int = 0
    samples: Mapping[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{getattr(self, name):,} {name}" for name in CHANGES if getattr(self, name)]
        parts += [f"{self.unchanged:,} unchanged"]
        parts += [f"{self.kept:,} not removed, as a part of the corpus cannot be read"] if self.kept else []
        return ", ".join(parts)


class Comparison:
    """A corpus beside a collection, in a temporary file. The texts that are to be encoded are kept in it, too.

    Args:
        source: name of the corpus in the collection; None for rows that keep their own, and are all it should hold.
    """

    def __init__(self, source: str | None) -> None:
        self._source = source
        self._ours = "source = ?" if source is not None else "? IS NULL"
        # One thread at a time uses it: first the caller's, then the one that reads what is to be encoded.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
        self._db.execute("BEGIN")
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, list[str]] = {}
        self._is_complete = True
        self.others: Counter[str] = Counter()
        """Sources that documents of the corpus belong to already → how many."""

    def close(self) -> None:
        """Remove the file."""
        self._db.close()

    def read_store(self, store: VectorStore) -> None:
        """Note what a collection holds."""
        for documents in store.documents():
            rows = [(one.id, _owner(one), one.source, text_hash(one), content_hash(one)) for one in documents]
            self._db.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?, ?, ?, ?, 0)", rows)
        self._db.executescript(_INDEXES)

    def compare(
        self, items: Iterable[Item], parts: Callable[[Item], list[Item]], check: Callable[[Document], Document]
    ) -> None:
        """Note what is to be done about each row of a corpus.

        Args:
            items: the corpus.
            parts: the passages of a row, or the row alone; or a rejection.
            check: a document as it is stored.
        """
        for item in items:
            split = parts(item)
            if isinstance(split[0], Rejected):
                self._reject(split[0])
                continue
            try:
                documents = [check(document_of(one)) for one in split]
            except DocumentError as error:
                self._reject(reject(split[0], NOT_STORABLE, message_without_index(error)))
                continue
            owner = documents[0].id
            if not self._db.execute("INSERT OR IGNORE INTO claimed VALUES (?)", (owner,)).rowcount:
                self._reject(reject(split[0], DUPLICATE, "duplicate id: an earlier row of the corpus has it already"))
                continue
            self._compare(owner, split, documents)

    def _compare(self, owner: str, items: list[Item], documents: list[Document]) -> None:
        ways, is_known = set(), False
        for item, document in zip(items, documents, strict=True):
            found = self._db.execute(
                "SELECT document, source, text, whole FROM stored WHERE id = ?", (document.id,)
            ).fetchone()
            text = text_hash(document)
            way, donor = "encode", None
            if found is None:
                donor = self._donor(text)
            elif found[0] == _owner(document):
                wanted = document.source if self._source is None else self._source
                if self._source is not None and found[1] not in ("", wanted):
                    self.others[found[1]] += 1
                    return
                is_known = True
                self._db.execute("UPDATE stored SET seen = 1 WHERE id = ?", (document.id,))
                if found[2] != text:
                    donor = self._donor(text)
                else:
                    way = "same" if found[3] == content_hash(document) and found[1] == wanted else "update"
            way = "reuse" if donor is not None else way
            ways.add(way)
            if way != "same":
                self._put(way, item, text, donor)
        if not is_known:
            self._count("moved" if ways == {"reuse"} else "added", owner)
        elif ways == {"same"}:
            self._counts["unchanged"] += 1
        else:
            self._count("changed" if ways & {"encode", "reuse"} else "updated", owner)

    def _donor(self, text: bytes) -> str | None:
        """A stored row with this text."""
        found = self._db.execute("SELECT id FROM stored WHERE text = ? LIMIT 1", (text,)).fetchone()
        return None if found is None else str(found[0])

    def _reject(self, item: Rejected) -> None:
        self._put("reject", item)
        self._count("rejected", item.where)
        if item.id is not None:  # its last good version stays
            self._db.execute("UPDATE stored SET seen = 1 WHERE document = ?", (item.id,))
        elif item.kind in _INCOMPLETE:
            self._is_complete = False

    def _put(self, way: str, item: Item, text: bytes | None = None, donor: str | None = None) -> None:
        self._db.execute(
            "INSERT INTO work (way, text, donor, item) VALUES (?, ?, ?, ?)",
            (way, text, donor, pickle.dumps(_owned(item, self._source))),
        )

    def _count(self, change: Change, id: str) -> None:
        self._counts[change] += 1
        samples = self._samples.setdefault(change, [])
        if len(samples) < SAMPLES:
            samples.append(id)

    @property
    def plan(self) -> SyncPlan:
        """The comparison in numbers."""
        gone = [row[0] for row in self._db.execute(f"{self._removable} ORDER BY document", (self._source,))]
        samples = dict(self._samples) | ({"removed": gone[:SAMPLES]} if gone and self._is_complete else {})
        stored = self._number(f"SELECT count(DISTINCT document) FROM stored WHERE {self._ours}", self._source)
        return SyncPlan(
            self._source or "",
            **{name: self._counts[name] for name in ("added", "changed", "moved", "updated", "unchanged", "rejected")},
            removed=len(gone) if self._is_complete else 0,
            kept=0 if self._is_complete else len(gone),
            to_encode=self._number("SELECT count(*) FROM work WHERE way = 'encode'"),
            stored=stored,
            samples=samples,
        )

    @property
    def lost(self) -> int:
        """Documents that are to be removed and whose texts the corpus no longer has."""
        if not self._is_complete:
            return 0
        return self._number(
            f"SELECT count(DISTINCT document) FROM stored WHERE document IN ({self._removable}) "
            "AND text NOT IN (SELECT text FROM work WHERE way = 'reuse')",
            self._source,
        )

    def work(self, *ways: str) -> Iterator[tuple[Item, str]]:
        """(row, id of a stored document with its text, "" for none) of what is to be done in these ways, in order."""
        marks = ", ".join("?" * len(ways))
        with closing(self._db.cursor()) as cursor:
            for donor, item in cursor.execute(
                f"SELECT coalesce(donor, ''), item FROM work WHERE way IN ({marks}) ORDER BY place", ways
            ):
                yield pickle.loads(item), donor

    def number(self, *ways: str) -> int:
        """How many rows that are."""
        return self._number(f"SELECT count(*) FROM work WHERE way IN ({', '.join('?' * len(ways))})", *ways)

    def gone(self) -> Iterator[str]:
        """Ids of stored rows that are to be removed, of each document the first passage last."""
        removable = "1" if self._is_complete else f"document NOT IN ({self._removable})"
        values = (self._source,) if self._is_complete else (self._source, self._source)
        for row in self._db.execute(
            f"SELECT id FROM stored WHERE {self._ours} AND seen = 0 AND {removable} ORDER BY document, id DESC", values
        ):
            yield str(row[0])

    @property
    def _removable(self) -> str:
        return f"SELECT document FROM stored WHERE {self._ours} GROUP BY document HAVING max(seen) = 0"

    def _number(self, query: str, *values: str | None) -> int:
        return int(self._db.execute(query, values).fetchone()[0])


def document_of(item: Item) -> Document:
    """The document of a row that has one."""
    assert not isinstance(item, Rejected)
    return item.document if isinstance(item, Row) else item


def _owned(item: Item, source: str | None) -> Item:
    """The row with its source."""
    if isinstance(item, Rejected) or source is None:
        return item
    if isinstance(item, Row):
        return replace(item, document=replace(item.document, source=source))
    return replace(item, source=source)


def _owner(stored: Document) -> str:
    """The id of the whole document."""
    return stored.id if stored.passage is None else stored.passage.document
