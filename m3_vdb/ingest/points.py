"""Points of a Qdrant or Milvus collection, whoever wrote them: ids and payloads, in the order of the ids."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from m3_vdb.errors import CollectionNotFoundError, MissingExtraError, StoreUrlError
from m3_vdb.imports import log_handlers_kept, no_usage_data
from m3_vdb.stores.names import Server

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

BATCH: Final = 256
"""Points asked for at a time, without vectors."""
_DYNAMIC: Final = "$meta"
"""Milvus' field of all fields that the schema does not name."""


class Reader(ABC):
    """What is asked of a collection."""

    @abstractmethod
    def count(self) -> int:
        """Points in it."""

    @abstractmethod
    def points(self) -> Iterator[tuple[object, Mapping[str, Any]]]:
        """(id, payload) of all points, in an order that is the same in every run."""


class QdrantReader(Reader):
    """A collection through qdrant-client, whatever its vectors.

    Args:
        client: connected.
        collection: its name.
    """

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self._client = client
        self._collection = collection
        from m3_vdb.stores.qdrant.client import where  # noqa: PLC0415 - optional

        self._where = where(client, collection)

    def count(self) -> int:
        """Points in it."""
        from m3_vdb.stores.qdrant.client import mapped_errors  # noqa: PLC0415 - optional

        with mapped_errors(self._where):
            return self._client.count(self._collection, exact=True).count

    def points(self) -> Iterator[tuple[object, Mapping[str, Any]]]:
        """(id, payload) of all points, in the order of their ids."""
        from m3_vdb.stores.qdrant.client import mapped_errors  # noqa: PLC0415 - optional

        offset: Any = None
        while True:
            with mapped_errors(self._where):
                records, offset = self._client.scroll(
                    self._collection, limit=BATCH, offset=offset, with_payload=True, with_vectors=False
                )
            for record in records:
                yield record.id, record.payload or {}
            if offset is None:
                return


class MilvusReader(Reader):
    """A collection through pymilvus, whatever its vectors.

    Args:
        client: connected.
        collection: its name.
        timeout: seconds that a request may take.
        is_file: milvus-lite serves it.
    """

    def __init__(self, client: MilvusClient, collection: str, timeout: float, *, is_file: bool = False) -> None:
        self._client = client
        self._is_file = is_file
        self._collection = collection
        self._timeout = timeout
        self._where = f"Milvus collection {collection!r}"

    def count(self) -> int:
        """Rows in it."""
        from m3_vdb.stores.milvus.client import mapped_errors  # noqa: PLC0415 - optional

        with mapped_errors(self._where):
            found = self._client.query(self._collection, output_fields=["count(*)"], timeout=self._timeout)
        return int(found[0]["count(*)"])

    def points(self) -> Iterator[tuple[object, Mapping[str, Any]]]:
        """(primary key, other fields but vectors) of all rows, batches in the order of their keys."""
        from m3_vdb.stores.milvus.client import mapped_errors  # noqa: PLC0415 - optional

        with mapped_errors(self._where):
            found = self._client.describe_collection(self._collection, timeout=self._timeout)
            key, plain = _fields(found)
            batches = self._in_file(key, plain) if self._is_file else self._on_server(plain)
            for rows in batches:
                for row in sorted(rows, key=lambda row: row[key]):  # the order within a batch is nobody's promise
                    dynamic = row.get(_DYNAMIC)  # by itself, or its fields beside the others
                    known = {name: value for name, value in row.items() if name not in (key, _DYNAMIC)}
                    yield row[key], {**(dynamic if isinstance(dynamic, dict) else {}), **known}

    def _on_server(self, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        batches = self._client.query_iterator(
            self._collection, filter="", output_fields=fields, batch_size=BATCH, timeout=self._timeout
        )
        try:
            while rows := batches.next():
                yield list(rows)
        finally:
            batches.close()

    def _in_file(self, key: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """milvus-lite answers without a limit, but has not all that pymilvus' iterator asks for."""
        rows = self._client.query(self._collection, filter="", output_fields=[key], timeout=self._timeout)
        keys = sorted(row[key] for row in rows)
        for start in range(0, len(keys), BATCH):
            condition = f"{key} in {json.dumps(keys[start : start + BATCH], ensure_ascii=False)}"
            yield list(
                self._client.query(self._collection, filter=condition, output_fields=fields, timeout=self._timeout)
            )


def _fields(description: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(name of the primary key, names of all fields that are no vectors)."""
    from pymilvus import DataType  # noqa: PLC0415 - optional

    fields = description["fields"]
    key = next(field["name"] for field in fields if field.get("is_primary"))
    plain = [field["name"] for field in fields if "VECTOR" not in DataType(field["type"]).name]
    return key, [*plain, *([_DYNAMIC] if description.get("enable_dynamic_field") else [])]


@contextmanager
def qdrant_server(place: Server, api_key: str | None, timeout: int) -> Iterator[Reader]:
    """A collection on a Qdrant server."""
    with no_usage_data():
        from m3_vdb.stores.qdrant.client import connect  # noqa: PLC0415 - seconds to import; open_store has found it

    with closing(connect(place, api_key=api_key, timeout=timeout)) as client:
        yield QdrantReader(client, place.collection)


@contextmanager
def milvus_server(place: Server, api_key: str | None, timeout: int) -> Iterator[Reader]:
    """A collection on a Milvus server."""
    from m3_vdb.stores.milvus.client import connect, mapped_errors  # noqa: PLC0415 - optional

    with closing(connect(place, token=api_key, timeout=timeout)) as client, mapped_errors(f"Milvus server {place.url}"):
        client.load_collection(place.collection, timeout=timeout)  # only what is loaded can be read
        yield MilvusReader(client, place.collection, timeout)


@contextmanager
def milvus_file(path: Path, collection: str | None) -> Iterator[Reader]:
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
            yield MilvusReader(client, name, 60, is_file=True)
    finally:
        lite.stop()
