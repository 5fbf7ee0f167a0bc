"""A collection of a database as a corpus: documents out of points that somebody else's program has written.

``ingest(SourceCollection(url), embed, store)`` encodes a collection that has dense vectors alone into one that has all
three. Only ids, texts and the other payload fields are read; vectors stay where they are, and the source is never
written. Its points cannot become ours in place: ours have ids made from the document's id, a payload of fixed layout,
and the model's identity in the collection, on which ``get``, ``delete``, filters and the check of the model rest. So
the new collection grows beside the old one, which serves on; an alias then moves. A collection of our own – of another
model, say – is read as the documents that it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from m3_vdb.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    ConfigError,
    MissingExtraError,
    StoreUrlError,
)
from m3_vdb.imports import log_handlers_kept, no_usage_data
from m3_vdb.ingest.rows import WRONG_TYPE, Fields, Rejected, Row, RowError, place
from m3_vdb.inputs import read_names
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.stores.names import Folder, Place, Server, masked, read_name

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

BATCH: Final = 256
"""Points requested at a time, without vectors."""
_DYNAMIC: Final = "$meta"
"""Milvus' field of all fields that the schema does not name."""
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
            documents = (document for batch in store.documents(batch=BATCH) for document in batch)
            for number, document in enumerate(documents, start=1):
                yield Row(document, self.url, number)

    def _rows(self) -> Iterator[Row | Rejected]:
        with self._open() as points:
            for number, (key, fields) in enumerate(points.rows, start=1):
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
        with self._open() as points:
            return points.count

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

    def _open(self) -> AbstractContextManager[Points]:
        if self._file is not None:
            return _milvus_file(Path(self._file["path"]), self._file["collection"])
        place = read_name(self.url)
        assert isinstance(place, Server)  # or it is ours
        return (_milvus_server if place.engine == "milvus" else _qdrant_server)(place, self._api_key, self._timeout)


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


@dataclass(frozen=True, slots=True)
class Points:
    """How many points a collection has, and (id, payload) of each, in an order that is the same in every run."""

    count: int
    rows: Iterator[tuple[object, Mapping[str, Any]]]


def qdrant_points(client: QdrantClient, collection: str) -> Points:
    """The points of a collection through qdrant-client, whatever its vectors, in the order of their ids."""
    from m3_vdb.stores.qdrant.client import mapped_errors, where  # noqa: PLC0415 - optional

    about = where(client, collection)

    def rows() -> Iterator[tuple[object, Mapping[str, Any]]]:
        offset: Any = None
        while True:
            with mapped_errors(about):
                records, offset = client.scroll(
                    collection, limit=BATCH, offset=offset, with_payload=True, with_vectors=False
                )
            for record in records:
                yield record.id, record.payload or {}
            if offset is None:
                return

    with mapped_errors(about):
        return Points(client.count(collection, exact=True).count, rows())


def milvus_points(client: MilvusClient, collection: str, timeout: float, *, is_file: bool = False) -> Points:
    """The rows of a collection through pymilvus, whatever its vectors, batches in the order of their primary keys.

    Args:
        client: connected.
        collection: its name.
        timeout: seconds that a request may take.
        is_file: milvus-lite serves it.
    """
    from pymilvus import DataType  # noqa: PLC0415 - optional

    from m3_vdb.stores.milvus.client import mapped_errors  # noqa: PLC0415 - optional

    about = f"Milvus collection {collection!r}"

    def rows() -> Iterator[tuple[object, Mapping[str, Any]]]:
        with mapped_errors(about):
            schema = client.describe_collection(collection, timeout=timeout)
            key = next(field["name"] for field in schema["fields"] if field.get("is_primary"))
            fields = [field["name"] for field in schema["fields"] if "VECTOR" not in DataType(field["type"]).name]
            fields += [_DYNAMIC] if schema.get("enable_dynamic_field") else []
            batches = in_file(key, fields) if is_file else on_server(fields)
            for batch in batches:
                for row in sorted(batch, key=lambda row: row[key]):  # the order within a batch is nobody's promise
                    dynamic = row.get(_DYNAMIC)  # by itself, or its fields beside the others
                    known = {name: value for name, value in row.items() if name not in (key, _DYNAMIC)}
                    yield row[key], {**(dynamic if isinstance(dynamic, dict) else {}), **known}

    def on_server(fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        batches = client.query_iterator(collection, filter="", output_fields=fields, batch_size=BATCH, timeout=timeout)
        try:
            while batch := batches.next():
                yield list(batch)
        finally:
            batches.close()

    def in_file(key: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """milvus-lite answers without a limit, but has not all that pymilvus' iterator needs."""
        found = client.query(collection, filter="", output_fields=[key], timeout=timeout)
        keys = sorted(row[key] for row in found)
        for start in range(0, len(keys), BATCH):
            condition = f"{key} in {json.dumps(keys[start : start + BATCH], ensure_ascii=False)}"
            yield list(client.query(collection, filter=condition, output_fields=fields, timeout=timeout))

    with mapped_errors(about):
        found = client.query(collection, output_fields=["count(*)"], timeout=timeout)
    return Points(int(found[0]["count(*)"]), rows())


@contextmanager
def _qdrant_server(place: Server, api_key: str | None, timeout: int) -> Iterator[Points]:
    with no_usage_data():
        from m3_vdb.stores.qdrant.client import connect  # noqa: PLC0415 - seconds to import; open_store has found it

    with closing(connect(place, api_key=api_key, timeout=timeout)) as client:
        yield qdrant_points(client, place.collection)


@contextmanager
def _milvus_server(place: Server, api_key: str | None, timeout: int) -> Iterator[Points]:
    from m3_vdb.stores.milvus.client import connect, mapped_errors  # noqa: PLC0415 - optional

    with closing(connect(place, token=api_key, timeout=timeout)) as client, mapped_errors(f"Milvus server {place.url}"):
        client.load_collection(place.collection, timeout=timeout)  # only what is loaded can be read
        yield milvus_points(client, place.collection, timeout)


@contextmanager
def _milvus_file(path: Path, collection: str | None) -> Iterator[Points]:
    """A collection in a file of milvus-lite; of several, ``collection`` says which."""
    try:
        with log_handlers_kept():
            from pymilvus import MilvusClient  # noqa: PLC0415 - optional

        from m3_vdb.stores.milvus.client import LiteServer, mapped_errors  # noqa: PLC0415 - optional

        if not path.exists():
            raise CollectionNotFoundError(f"there is no file {path}")
        lite = LiteServer(path)
    except ModuleNotFoundError as error:
        raise MissingExtraError("a file of milvus-lite", extra="milvus") from error
    try:
        with mapped_errors(f"collection in {path}"), closing(MilvusClient(uri=lite.uri, dedicated=True)) as client:
            names = client.list_collections()
            if collection is None and len(names) != 1:
                raise StoreUrlError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}: say which as {path}#NAME")
            name = collection or names[0]
            if name not in names:
                raise CollectionNotFoundError(f"there is no collection {name!r} in {path}: it holds {sorted(names)}")
            client.load_collection(name)
            yield milvus_points(client, name, 60, is_file=True)
    finally:
        lite.stop()
