"""A collection of Milvus, on a server or in a file (milvus-lite), through pymilvus. The twin of ``qdrant/server.py``.

Two steps per query: a search picks the candidates, then one hybrid search over the same candidates scores them by the
three vectors and adds the three. What the engine cannot do is done here, exactly (``MilvusCapabilities``).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError, DocumentError, StoreError, StoreRequestError
from m3_vdb.filters import Expression
from m3_vdb.marks import MARKS_FIELD
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import disk_bytes
from m3_vdb.stores.following import Followed
from m3_vdb.stores.fusion import SOURCE_VECTORS, Plan, best_first, make_plan
from m3_vdb.stores.markers import check_place
from m3_vdb.stores.milvus.client import Calls, alias_target, mapped_errors, read_marker
from m3_vdb.stores.milvus.engine import MilvusCapabilities, open_collection
from m3_vdb.stores.milvus.filters import numbers, terms, terms_text, to_condition
from m3_vdb.stores.milvus.requests import Requests
from m3_vdb.stores.milvus.rows import (
    DOCUMENT_FIELDS,
    MAX_ELEMENTS,
    MAX_TEXT_BYTES,
    NUMBERS,
    read_embedding,
    read_row,
    row_bytes,
    stored_identity,
    to_row,
    vector_fields,
)
from m3_vdb.stores.milvus.wire import Wire
from m3_vdb.stores.options import (
    DEFAULT_OPTIONS,
    DENSE,
    MULTI_VECTOR,
    SPARSE,
    CollectionOptions,
    Facts,
    IndexType,
    Search,
)
from m3_vdb.stores.points import Point, batches, point_id
from m3_vdb.stores.reading import READ_AT_ONCE
from m3_vdb.stores.waiting import Waiting, not_done, wait_for
from m3_vdb.types import Document, Hit, M3Embedding, Scores

RUN_PROPERTY: Final = "m3.run"
"""The last ingest or sync."""
LATER_PASSAGES: Final = f'{NUMBERS}["{MARKS_FIELD}"]["passage"][0] > 1'
"""What is the second or a further passage of a document (``m3_vdb.marks``)."""
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Of an upsert, well below the 64 MiB that a Milvus server takes by default (proxy.grpc.serverMaxRecvSize)."""
_KEYS_PER_DELETE: Final = 1000


class MilvusStore(VectorStore):
    """One collection of Milvus.

    Args:
        client: a connected client.
        wire: a connection to the same server.
        collection: name of the collection.
        identity: the model; None opens an existing collection as it is.
        close: called once when the store is closed; ends both connections.
        create: make the collection if it does not exist.
        exact: pick the candidates by a full scan (True), by HNSW (False), or by the default (None): a server by HNSW,
            milvus-lite always by full scan, because its HNSW loses candidates. Milvus fixes this when a collection is
            made. Scores are exact either way.
        options: how a *new* collection is made: storage ("float32", or "half": float16 token rows, scores off by about
            1e-5), and on a server shard_number. All payload fields are indexed, so indexes asks for nothing more.
        timeout: seconds per request.
        path: where milvus-lite keeps its files; None for a server.
        server: URL of the server, for messages.
        read_only: refuse to write.

    Raises:
        CollectionNotFoundError: it does not exist, and may not be made (create=False, or no identity).
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        ConfigError: ``exact=True`` for a collection that was made with HNSW, or an option not supported by Milvus.
        StoreConnectionError: the server did not answer.
    """

    def __init__(
        self,
        client: MilvusClient,
        wire: Wire,
        collection: str,
        *,
        identity: ModelIdentity | None,
        close: Callable[[], object],
        create: bool = True,
        exact: bool | None = None,
        options: CollectionOptions = DEFAULT_OPTIONS,
        timeout: float = 60,
        path: Path | None = None,
        server: str = "",
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self._read_only, create = read_only, create and not read_only
        self._name = collection
        self._path = path
        self._server = server
        # milvus-lite has no lock of its own for writers; a server has.
        self._writing: AbstractContextManager[Any] = nullcontext() if path is None else threading.Lock()
        self._calls, self._wire = Calls(client, timeout), wire
        self._followed = Followed(collection, self._target())
        with mapped_errors(self._where):
            self._opened = open_collection(
                self._calls,
                self._followed.collection,
                identity=identity,
                create=create,
                exact=exact,
                options=options,
                where=self._where,
            )
        self._open: Requests | None = Requests(self._calls, wire, self._followed.collection, self._opened)
        self._own(close, folder=None if read_only else path)

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        return self._opened.identity

    @property
    def is_server(self) -> bool:
        """Whether a server keeps it, not milvus-lite."""
        return self._path is None

    @property
    def capabilities(self) -> MilvusCapabilities:
        """What the engine does itself, and what is done here."""
        return self._opened.capabilities

    @property
    def max_rows(self) -> int | None:
        """Multi-vector rows that a document may have: those of an array on a server; any number in milvus-lite."""
        return MAX_ELEMENTS if self._opened.struct and not self._opened.is_lite else None

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields that were declared with an index → what they hold; Milvus filters all fields equally well."""
        return self._opened.types

    @property
    def _collection(self) -> str:
        return self._followed.collection

    @property
    def _where(self) -> str:
        if self._path is not None:
            return f"collection in {self._path}"
        return f"Milvus collection {self._name!r}" + (f" at {self._server}" if self._server else "")

    def _write(self, points: Sequence[Point]) -> None:
        opened, wire = self._opened, self._requests().wire
        for point in () if opened.is_lite else points:
            if fault := _fault(point):
                raise DocumentError(f"document {point.index}: {fault}", index=point.index)
        rows = (  # made batch by batch: they are as large as the vectors
            to_row(
                point,
                terms_text(terms(point.payload["payload"]))
                if opened.terms_as_text
                else terms(point.payload["payload"]),
                numbers(point.payload["payload"]),
                struct=opened.struct,
                half=opened.half,
            )
            for point in points
        )
        with mapped_errors(self._where), self._writing:
            for batch in batches(rows, row_bytes, max_bytes=MAX_REQUEST_BYTES):
                wire.upsert(self._collection, batch)

    def _get(self, ids: Sequence[str]) -> list[Document]:
        requests = self._requests()
        keys = list(dict.fromkeys(point_id(i) for i in ids))
        with mapped_errors(self._where):
            rows = requests.rows(keys, DOCUMENT_FIELDS)
        found = {document.id: document for document in map(read_row, rows.values())}
        return [found[i] for i in ids if i in found]

    def _delete(self, ids: Sequence[str]) -> None:
        client, keys = self._requests().client, [point_id(i) for i in ids]
        with mapped_errors(self._where), self._writing:
            for start in range(0, len(keys), _KEYS_PER_DELETE):
                client.delete(self._collection, ids=keys[start : start + _KEYS_PER_DELETE])

    def _delete_matching(self, condition: Expression) -> None:
        requests = self._requests()
        with mapped_errors(self._where):
            matching = to_condition(condition, requests)
            with self._writing:
                requests.client.delete(self._collection, filter=matching)

    def _update(self, documents: Sequence[Document]) -> None:
        """Rows are written again, with the vectors that they have: not every Milvus changes a part of a row."""
        new = {document.id: document for document in documents}
        for found, embeddings in self._with_vectors([documents], READ_AT_ONCE):
            self.upsert([new[document.id] for document in found], embeddings)

    def _count(self, condition: Expression | None) -> int:
        requests = self._requests()
        with mapped_errors(self._where):
            return requests.count(to_condition(condition, requests))

    def _optimize(self, timeout: float, waiting: Waiting | None) -> None:
        """Write what was given into segments and wait until they are indexed.

        Worth doing after an ingest: for every query milvus-lite indexes again what it has not written yet.
        """
        client = self._requests().client
        with mapped_errors(self._where):
            if waiting is not None:
                waiting("writing segments", 0.0)
            try:
                client.flush(self._collection, timeout=timeout)
            except MilvusException as error:
                if "wait for flush timeout" not in error.message:
                    raise
                raise not_done(self._where, "still writing segments", timeout) from error
            indexes = client.list_indexes(self._collection)

            def poll() -> str:
                for index in indexes:
                    rows = (client.describe_index(self._collection, index) or {}).get("pending_index_rows")
                    if rows:
                        return f"still indexing ({rows:,} rows of {index})"
                return ""

            wait_for(poll, where=self._where, timeout=timeout, waiting=waiting)

    def _facts(self) -> Facts:
        requests, opened = self._requests(), self._opened
        able = asdict(opened.capabilities)
        with mapped_errors(self._where):
            later = requests.count(LATER_PASSAGES)
            index = requests.client.describe_index(self._collection, DENSE) or {}
            found = requests.client.describe_collection(self._collection)
        waiting = index.get("pending_index_rows") or 0
        return Facts(
            later_passages=later,
            index=f"{index.get('index_type')} of dense vectors, {waiting:,} rows wait for it",
            options={"storage": "half" if opened.half else "float32", "indexes": dict(opened.types), "bm25": False},
            engine={"name": "milvus-lite" if opened.is_lite else "milvus", "version": able.pop("server"), **able},
            last_run=json.loads((found.get("properties") or {}).get(RUN_PROPERTY) or "{}"),
        )

    def _note_run(self, run: Mapping[str, Any]) -> None:
        client = self._requests().client
        with mapped_errors(self._where), self._writing:
            client.alter_collection_properties(self._collection, {RUN_PROPERTY: json.dumps(dict(run))})

    def _sample(self, number: int) -> list[Document]:
        requests = self._requests()
        with mapped_errors(self._where):
            return list(map(read_row, requests.some(number, DOCUMENT_FIELDS)))

    def _disk_bytes(self) -> int | None:
        """Bytes that the files of milvus-lite take on disk; None for a server, which does not say."""
        self._requests()
        return None if self._path is None else disk_bytes(self._path)

    def _close(self) -> None:
        """Close the connection; a second call does nothing. Every upsert has been written already."""
        self._open = None
        self._free()

    def _documents(self, batch: int, condition: Expression | None) -> Iterator[list[Document]]:
        with mapped_errors(self._where):
            keys = [key for part in self._requests().keys(to_condition(condition, self._requests())) for key in part]
        for start in range(0, len(keys), batch):
            with mapped_errors(self._where):
                rows = self._requests().rows(keys[start : start + batch], DOCUMENT_FIELDS)
            if rows:
                yield list(map(read_row, rows.values()))

    def _read(self, ids: Sequence[str]) -> list[tuple[Document, M3Embedding]]:
        fields, width = [*DOCUMENT_FIELDS, *vector_fields(struct=self._opened.struct)], self.identity.multi_vector_dim
        with mapped_errors(self._where):
            rows = self._requests().rows([point_id(i) for i in ids], fields)
        return [(read_row(row), read_embedding(row, width)) for row in rows.values()]

    def _search(self, queries: Sequence[M3Embedding], search: Search) -> list[list[Hit]]:
        if search.boosts:
            raise ConfigError(
                f"boosts: the {self._where} cannot add them: Milvus' decay and boost rankers multiply a score or take "
                f"its place; search without boosts, or keep the collection in a folder or on a Qdrant server"
            )
        requests = self._requests()
        plans = [make_plan(query, search) for query in queries]
        names: list[dict[str, str]] = [{} for _ in queries]
        with mapped_errors(self._where):
            allowed = to_condition(search.filter, requests)
            for vector in SOURCE_VECTORS[search.source]:
                found = requests.search(queries, vector, limit=search.candidates, condition=allowed, ef=search.ef)
                for known, answer in zip(names, found, strict=True):
                    known.update((key, name) for key, (name, _) in answer.items())
            return [
                self._hits(requests, query, search, plan, known)
                for query, plan, known in zip(queries, plans, names, strict=True)
            ]

    def _hits(
        self, requests: Requests, query: M3Embedding, search: Search, plan: Plan, names: dict[str, str]
    ) -> list[Hit]:
        """The page of one query, from its candidates by key → id."""
        if not names or not plan.rescores:
            return []
        best = best_first(requests.totals(query, search, plan, names), search)
        if search.ids_only:
            return [Hit(Document(name, ""), total) for name, total in best]
        keys = {name: key for key, name in names.items()}
        page = [(keys[name], total) for name, total in best]
        rows = requests.rows([key for key, _ in page], DOCUMENT_FIELDS)
        parts: dict[str, Scores] = {}
        if search.explain and page:  # of the page alone, so that it has the same scores and order as without
            parts = requests.parts(query, [key for key, _ in page], {DENSE, SPARSE, MULTI_VECTOR})
        return [Hit(read_row(rows[key]), total, parts.get(key)) for key, total in page if key in rows]

    def _requests(self) -> Requests:
        if self._open is None:
            raise StoreError(f"the {self._where} is closed; open it again")
        if self.is_server:
            self._follow()
        return self._open

    def _target(self) -> str | None:
        """The collection behind the name, if that is an alias and the engine says so."""
        try:
            with mapped_errors(self._where):
                return alias_target(self._calls, self._name)
        except StoreRequestError:
            return None

    def _follow(self) -> None:
        """Go where the alias points."""

        def metadata(target: str) -> Mapping[str, Any] | None:
            return stored_identity(self._calls.describe_collection(target))

        with mapped_errors(self._where):
            if self._followed.has_moved(self._target, metadata, self.identity, self._where):
                target = self._followed.collection
                self._opened = open_collection(
                    self._calls,
                    target,
                    identity=self.identity,
                    create=False,
                    exact=None,
                    options=DEFAULT_OPTIONS,
                    where=self._where,
                )
                self._open = Requests(self._calls, self._wire, target, self._opened)

    def _confirm(self) -> None:
        if self.is_server:
            with mapped_errors(self._where):
                check_place(read_marker(self._calls.describe_collection(self._collection)), self._where)


def _fault(point: Point) -> str | None:
    """Why a Milvus server would refuse a document; milvus-lite has none of these limits."""
    for name in ("id", "title", "text"):
        size = len(point.payload[name].encode())
        if size > MAX_TEXT_BYTES:
            return f"its {name} has {size:,} bytes, and a Milvus server takes {MAX_TEXT_BYTES:,}: split the text"
    payload = point.payload["payload"]
    size = len(json.dumps(payload, ensure_ascii=False).encode())
    if size > MAX_TEXT_BYTES:
        return f"its payload has {size:,} bytes as JSON, and a Milvus server takes {MAX_TEXT_BYTES:,}"
    found = len(terms(payload))
    if (
        found > MAX_ELEMENTS
        or len(json.dumps({**numbers(payload), MARKS_FIELD: point.payload[MARKS_FIELD]})) > MAX_TEXT_BYTES
    ):
        return (
            f"its payload has {found:,} different values on its top level, and m3-vdb can index {MAX_ELEMENTS:,} of "
            f"them (and about 1,000 fields with numbers) on a Milvus server: nest what no filter needs in an object"
        )
    return None
