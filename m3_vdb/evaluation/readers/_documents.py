"""A corpus on disk as a stream of documents that can be read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.readers._files import check_strings, identifier, read_objects
from m3_vdb.types import Document

ID_FIELDS: Final = ("_id", "id", "docid")
"""A document's id in BEIR, in FlagEmbedding's files, and in MIRACL and MLDR."""
Place: TypeAlias = tuple[Path, int]
"""File and line number from 0."""


class FileDocuments:
    """Documents parsed anew whenever they are read, in the order of the files.

    The first whole reading, which ``len`` also is, refuses an id that repeats an earlier one; until its end, 64 bits
    of every id are in memory. Nothing is left out: a document without text is one.

    Args:
        read: yields the documents from the beginning, each with the line where it begins.
        name: of the corpus, for messages.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[Place, Document]]], name: str) -> None:
        self._read = read
        self._name = name
        self._count: int | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents.

        Raises:
            ConfigError: a file cannot be read, or there is no document at all.
            DocumentError: a document is malformed or repeats an id; file and line are in the message.
        """
        if self._count is not None:
            yield from (document for _, document in self._read())
            return
        seen: set[int] = set()
        for (path, index), document in self._read():
            digest = hash(document.id)  # keyed SipHash: among 33 million ids two collide with a chance of 3·10⁻⁵
            if digest in seen:
                raise DocumentError(f"{path}, line {index + 1}: the id {document.id!r} is not unique", index=index)
            seen.add(digest)
            yield document
        if not seen:
            raise ConfigError(f"{self._name} holds no documents")
        self._count = len(seen)

    def __len__(self) -> int:
        """The number of documents, for which they must be read through once.

        Raises:
            ConfigError: as in reading.
            DocumentError: as in reading.
        """
        if self._count is None:
            deque(self, maxlen=0)
        return self._count or 0


def jsonl_documents(
    paths: Sequence[Path], *, rewrite: Callable[[str], str] | None = None, name: str | None = None
) -> FileDocuments:
    """A corpus of JSONL files.

    Args:
        paths: the files, one corpus together.
        rewrite: applied to title and text.
        name: of the corpus, for messages; the first file otherwise.
    """

    def documents() -> Iterator[tuple[Place, Document]]:
        for path in paths:
            for place, document in read_jsonl(path):
                yield place, document if rewrite is None else _rewritten(document, rewrite)

    return FileDocuments(documents, name or str(paths[0]))


def read_jsonl(path: Path) -> Iterator[tuple[Place, Document]]:
    """``{"_id" (or "id", "docid"): str | int, "text": str, "title"?: str}`` a line; further fields are not read.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is something else.
    """
    for index, fields in read_objects(path):
        yield (path, index), _document(fields, f"{path}, line {index + 1}", index)


def _document(fields: dict[str, Any], where: str, index: int) -> Document:
    text, title = fields.get("text"), fields.get("title") or ""
    document_id = identifier(next((fields[key] for key in ID_FIELDS if key in fields), None))
    if not document_id or not isinstance(text, str) or not isinstance(title, str):
        raise DocumentError(
            f'{where}: expected {{"_id": str, "text": str, "title"?: str}} ("id" and "docid" are ids too)', index=index
        )
    check_strings([document_id, text, title], where, index)
    return Document(document_id, text, title)


def _rewritten(document: Document, rewrite: Callable[[str], str]) -> Document:
    return replace(document, text=rewrite(document.text), title=rewrite(document.title))
