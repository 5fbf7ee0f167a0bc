"""Titles and texts of a corpus by id, in a temporary file: for a collection that keeps none (``migrate(corpus=…)``)."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from m3_vdb.errors import ConfigError
from m3_vdb.ingest.batch import Item, read_items
from m3_vdb.ingest.rows import Row
from m3_vdb.inputs import DocumentLike
from m3_vdb.types import Document

_NAMED: Final = 3
"""Ids that a message names."""


class CorpusTexts:
    """What a corpus says, by id; of two rows with the same id the first counts, as for ``ingest``. A context manager.

    Args:
        items: the corpus, read once, at once; rows that cannot be read are left out.

    Attributes:
        number: ids of the corpus.
    """

    def __init__(self, items: Iterable[Item | DocumentLike]) -> None:
        given = read_items(items)
        with ExitStack() as opened:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="m3-"))
            self._table = opened.enter_context(closing(sqlite3.connect(Path(folder) / "texts", isolation_level=None)))
            self._table.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN")
            self._table.execute("CREATE TABLE texts (id BLOB PRIMARY KEY, title BLOB, text BLOB) WITHOUT ROWID")
            self._table.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", _cells(given))
            self._table.execute("COMMIT")
            (self.number,) = self._table.execute("SELECT count(*) FROM texts").fetchone()
            self._opened = opened.pop_all()

    def __enter__(self) -> CorpusTexts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def fill(self, documents: Iterable[Document], where: str) -> Iterator[Document]:
        """Documents of a collection with the titles and texts of the corpus.

        A document that the corpus lacks keeps the title and text that the collection has. A passage gets its part of
        the text.

        Args:
            documents: of the collection.
            where: the collection, for messages.

        Raises:
            ConfigError: documents have a text neither here nor there, or passages are not parts of the corpus's texts;
                raised after the last of ``documents``.
        """
        without, unfit = list[str](), list[str]()
        for document in documents:
            found = self._found(document)
            if found is None:
                without += [] if document.content else [document.id]
                yield document
                continue
            title, text = found
            if (cut := document.passage) is not None:
                part = text[cut.start : cut.stop]
                if len(part) < cut.stop - cut.start or document.text not in ("", part):
                    unfit.append(document.id)
                text = part
            yield replace(document, title=title, text=text)
        if without:
            raise ConfigError(
                f"{_named(without)} of {where} have no text there, and the corpus does not have their ids: add them to "
                f"the corpus, or delete them (m3-vdb delete)"
            )
        if unfit:
            raise ConfigError(
                f"{_named(unfit)} of {where} are not parts of the texts that the corpus has now: name the corpus that "
                f"they came from, or sync this one first"
            )

    def _found(self, document: Document) -> tuple[str, str] | None:
        id = document.id if document.passage is None else document.passage.document
        row = self._table.execute("SELECT title, text FROM texts WHERE id = ?", [_cell(id)]).fetchone()
        return None if row is None else (_text(row[0]), _text(row[1]))


def _cells(items: Iterable[Item]) -> Iterator[tuple[bytes, bytes, bytes]]:
    for item in items:
        document = item.document if isinstance(item, Row) else item
        if isinstance(document, Document):
            yield _cell(document.id), _cell(document.title), _cell(document.text)


def _cell(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(cell: bytes) -> str:
    return cell.decode("utf-8", "surrogatepass")


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{len(ids):,} documents ({', '.join(ids[:_NAMED])}{more})"
