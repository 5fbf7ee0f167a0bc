"""A collection of a database as a corpus: documents out of points that somebody else's program has written.

Only ids, texts and the other payload fields are read; vectors stay where they are. A collection of our own – of another
model, say – is read as the documents that it holds. Nothing is ever written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import CollectionMismatchError, ConfigError, StoreUrlError
from m3_vdb.ingest.points import BATCH, Reader, milvus_file, milvus_server, qdrant_server
from m3_vdb.ingest.rows import WRONG_TYPE, Fields, Rejected, Row, RowError, place
from m3_vdb.inputs import read_names
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.stores.names import Folder, Place, Server, masked, read_name

_POINT: Final = "\0point"
"""A field that no payload has: the id of the point itself."""
_FILE: Final = re.compile(r"(?P<path>.+\.db)(#(?P<collection>.+))?")


@dataclass(frozen=True, slots=True)
class SourceFields:
    """Where a point keeps the parts of a document.

    Attributes:
        id: the payload field of the id; None takes the point's own id (Milvus: the primary key).
        text: payload fields of the text, joined with line breaks; at least one must be there.
        title: the payload field of the title; may be missing.
        payload: a field that holds an object with the fields to filter by, as ``metadata`` of LangChain; they become
            fields of the payload like all the others.
    """

    id: str | None = None
    text: tuple[str, ...] = ("text",)
    title: str = "title"
    payload: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", read_names("text", self.text))

    def document(self, key: object, fields: Mapping[str, Any]) -> Row:
        """The document of a point, with no place yet.

        Raises:
            RowError: there is none in it.
        """
        found = dict(fields)
        if self.payload is not None:
            nested = found.pop(self.payload, None) or {}
            if not isinstance(nested, Mapping):
                kind = type(nested).__name__
                raise RowError(WRONG_TYPE, f"{self.payload!r} must be an object, got {kind}", id=str(key))
            found = {**nested, **found}
        if self.id is None:
            found[_POINT] = key if isinstance(key, int) else str(key)
        names = Fields(id=(self.id or _POINT,), text=self.text, title=self.title)
        return Row(names.document(found), "", 0)


class SourceCollection:
    """The documents of a collection, in the order of its points' ids; read as often as liked.

    Args:
        url: ``qdrant://HOST:6333/COLLECTION``, ``milvus://HOST:19530/COLLECTION`` (as ``open_store``), a file of
            milvus-lite as ``./theirs.db#COLLECTION`` (the name may be left out if there is one only), or a folder of
            ours.
        fields: where points keep the parts of a document; not used for a collection of ours.
        api_key: for a server; if None, as ``open_store``.
        timeout: seconds to wait for a server's answer.

    Raises:
        StoreUrlError: the URL has none of these forms.
        CollectionNotFoundError: there is no such collection.
        MissingExtraError: the database's packages are not installed.
        StoreConnectionError: the server did not answer.

    Attributes:
        url: as given.
        fields: as given.
        total_bytes: points in the collection; under this name progress is measured as it is over files.
        bytes_read: points read so far.
    """

    def __init__(
        self, url: str, *, fields: SourceFields | None = None, api_key: str | None = None, timeout: int = 60
    ) -> None:
        self.url = url
        self.fields = fields or SourceFields()
        self._api_key = api_key
        self._timeout = timeout
        self._file = _FILE.fullmatch(url) if not re.match(r"[a-z][a-z0-9+]*://", url) else None
        if self._file is not None and url.endswith(".milvus.db") and not self._file["collection"]:
            self._file = None  # a file of ours, or the message that it is none
        self._is_ours = self._file is None and self._find_ours()
        self.bytes_read = 0
        self.total_bytes: int | None = self._count()

    def __iter__(self) -> Iterator[Row | Rejected]:
        self.bytes_read = 0
        for item in self._own_rows() if self._is_ours else self._rows():
            self.bytes_read += 1
            yield item

    def _own_rows(self) -> Iterator[Row]:
        with self._open_ours() as store:
            documents = (document for batch, _ in store.scroll(batch=BATCH) for document in batch)
            for number, document in enumerate(documents, start=1):
                yield Row(document, self.url, number)

    def _rows(self) -> Iterator[Row | Rejected]:
        with self._open() as reader:
            for number, (key, fields) in enumerate(reader.points(), start=1):
                try:
                    yield replace(self.fields.document(key, fields), file=self.url, line=number)
                except RowError as error:
                    text = json.dumps(dict(fields), default=repr)
                    where = place(self.url, number)
                    yield Rejected(where, str(error), error.kind, self.url, number, error.id or str(key), text)

    def _count(self) -> int:
        if self._is_ours:
            with self._open_ours() as store:
                return store.count()
        with self._open() as reader:
            return reader.count()

    def _find_ours(self) -> bool:
        try:
            self._open_ours().close()
        except CollectionMismatchError:
            if not isinstance(read_name(self.url), Server):
                raise  # a folder of ours holds nothing of others
            return False
        return True

    def _open_ours(self) -> VectorStore:
        return open_store(self.url, identity=None, create=False, api_key=self._api_key, timeout=self._timeout)

    def _open(self) -> AbstractContextManager[Reader]:
        if self._file is not None:
            return milvus_file(Path(self._file["path"]), self._file["collection"])
        place = read_name(self.url)
        assert isinstance(place, Server)  # or it is ours
        reader = milvus_server if place.engine == "milvus" else qdrant_server
        return reader(place, self._api_key, self._timeout)


def check_apart(source: str, target: str) -> None:
    """Refuse to read from and write to the same collection.

    Raises:
        ConfigError: the two URLs are one.
    """
    if _address(source) == _address(target):
        raise ConfigError(
            f"{masked(source)} is both source and target: name a new collection for the target, and let an alias point "
            f"to it when it is done"
        )


def _address(url: str) -> Place | str:
    """The same for all names of a collection."""
    try:
        place = read_name(url)
    except StoreUrlError:  # a collection in a file of others; or wrong, and refused by who opens it
        return url
    return replace(place, path=place.path.resolve()) if isinstance(place, Folder) else place
