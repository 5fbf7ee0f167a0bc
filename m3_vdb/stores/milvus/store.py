"""A collection of Milvus, on a server or in a file (milvus-lite), through pymilvus. The twin of ``qdrant/server.py``.

Two steps per query: a search picks the candidates, then one hybrid search over the same candidates scores them by the
three vectors and adds the three. What the engine cannot do is done here, exactly (``MilvusCapabilities``).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
from pymilvus import MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, DocumentError, StoreError
from m3_vdb.filters import Expression
from m3_vdb.marks import MARKS_FIELD, to_json
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import best_first, make_plan
from m3_vdb.stores.milvus.client import LiteServer, connect, is_database, mapped_errors
from m3_vdb.stores.milvus.engine import MilvusCapabilities, open_collection
from m3_vdb.stores.milvus.filters import numbers, terms, to_condition
from m3_vdb.stores.milvus.requests import Requests
from m3_vdb.stores.milvus.rows import (
    DOCUMENT_FIELDS,
    ID,
    MAX_ELEMENTS,
    MAX_TEXT_BYTES,
    read_embedding,
    read_row,
    row_bytes,
    to_row,
    vector_fields,
)
from m3_vdb.stores.names import Folder, Server
from m3_vdb.stores.options import DEFAULT_OPTIONS, DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType, Search
from m3_vdb.stores.points import batches, make_points, pack, point_id
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings, Scores

COLLECTION_IN_FILE: Final = "m3"
"""A file holds one collection, as a folder of Qdrant's engine does."""
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Of an upsert, well below the 64 MiB that a Milvus server takes by default (proxy.grpc.serverMaxRecvSize)."""
_KEYS_PER_DELETE: Final = 1000
_UPDATED_AT_ONCE: Final = 256
_POLL_SECONDS: Final = 0.2


class MilvusStore(VectorStore):
    """One collection of Milvus.

    Args:
        client: a connected client; the store closes it.
        collection: name of the collection.
        identity: the model; None opens an existing collection as it is.
        create: make the collection if there is none.
        exact: pick the candidates by a full scan (True), by HNSW (False), or by the default (None): a server by HNSW,
            milvus-lite always by full scan, because its HNSW loses candidates. Milvus fixes this when a collection is
            made. Scores are exact either way.
        options: how a *new* collection is made: storage ("float32", or "half": float16 token rows, scores off by about
            1e-5), and on a server shard_number. All payload fields are indexed, so indexes asks for nothing more.
        timeout: seconds per request.
        path: where milvus-lite keeps its files; None for a server.
        server: URL of the server, for messages.
        close: called once when the store is closed; by default ``client.close``.

    Raises:
        CollectionNotFoundError: no such collection, and ``create`` or ``identity`` does not allow to make it.
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        ConfigError: ``exact=True`` for a collection that was made with HNSW, or an option not supported by Milvus.
        StoreConnectionError: the server did not answer.
    """

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        *,
        identity: ModelIdentity | None,
        create: bool = True,
        exact: bool | None = None,
        options: CollectionOptions = DEFAULT_OPTIONS,
        timeout: float = 60,
        path: Path | None = None,
        server: str = "",
        close: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._collection = collection
        self._path = path
        self._server = server
        # milvus-lite has no lock of its own for writers; a server has.
        self._writing: AbstractContextManager[Any] = nullcontext() if path is None else threading.Lock()
        with mapped_errors(self._where):
            opened = open_collection(
                client,
                collection,
                identity=identity,
                may_create=create,
                exact=exact,
                options=options,
                timeout=timeout,
                where=self._where,
            )
        self._opened = opened
        self._open: Requests | None = Requests(client, collection, opened, timeout)
        self._own(close or client.close, folder=path)

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
        return MAX_ELEMENTS if self._opened.struct and not self._opened.facts.is_lite else None

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields that were declared with an index → what they hold; Milvus filters all fields equally well."""
        return self._opened.types

    @property
    def _where(self) -> str:
        if self._path is not None:
            return f"collection in {self._path}"
        return f"Milvus collection {self._collection!r}" + (f" at {self._server}" if self._server else "")

    def _upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors, in requests of bounded size; see ``VectorStore.upsert``."""
        opened, requests = self._opened, self._requests()
        points = make_points(documents, embeddings, identity=self.identity, max_floats=None, types=self.field_types)
        if not opened.facts.is_lite:
            _check_limits(documents, embeddings, struct=opened.struct)
        rows = (  # made batch by batch: they are as large as the vectors
            to_row(
                point,
                terms(point.payload["payload"]),
                numbers(point.payload["payload"]),
                struct=opened.struct,
                half=opened.half,
            )
            for point in points
        )
        with mapped_errors(self._where), self._writing:
            for batch in batches(rows, row_bytes, max_bytes=MAX_REQUEST_BYTES):
                requests.client.upsert(self._collection, batch, timeout=requests.timeout)

    def _get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        requests = self._requests()
        keys = list(dict.fromkeys(point_id(i) for i in ids))
        with mapped_errors(self._where):
            rows = requests.rows(keys, DOCUMENT_FIELDS)
        found = {document.id: document for document in map(read_row, rows.values())}
        return [found[i] for i in ids if i in found]

    def _delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        requests, keys = self._requests(), [point_id(i) for i in ids]
        with mapped_errors(self._where), self._writing:
            for start in range(0, len(keys), _KEYS_PER_DELETE):
                part = keys[start : start + _KEYS_PER_DELETE]
                requests.client.delete(self._collection, ids=part, timeout=requests.timeout)

    def _delete_matching(self, condition: Expression) -> None:
        requests = self._requests()
        with mapped_errors(self._where):
            matching = to_condition(condition, requests)
            with self._writing:
                requests.client.delete(self._collection, filter=matching, timeout=requests.timeout)

    def _update(self, documents: Sequence[Document]) -> None:
        """Rows are written again, with the vectors that they have: not every Milvus changes a part of a row."""
        new = {point_id(document.id): document for document in documents}
        for found, embeddings in self._stored(list(new), _UPDATED_AT_ONCE):
            self._upsert([new[point_id(document.id)] for document in found], embeddings)

    def _count(self, condition: Expression | None) -> int:
        requests = self._requests()
        with mapped_errors(self._where):
            return requests.count(to_condition(condition, requests))

    def _optimize(self) -> None:
        """Write what was given into segments and wait until they are indexed.

        Worth doing after an ingest: for every query milvus-lite indexes again what it has not written yet.
        """
        client, timeout = self._requests().client, self._requests().timeout
        with mapped_errors(self._where):
            client.flush(self._collection)  # without a limit: it takes as long as it takes
            for index in client.list_indexes(self._collection, timeout=timeout):
                while (client.describe_index(self._collection, index, timeout=timeout) or {}).get("pending_index_rows"):
                    time.sleep(_POLL_SECONDS)

    def _disk_bytes(self) -> int | None:
        """Bytes that the files of milvus-lite take on disk; None for a server, which does not say."""
        self._requests()
        if self._path is None:
            return None
        return sum(file.stat().st_blocks * 512 for file in self._path.rglob("*") if file.is_file())

    def _close(self) -> None:
        """Close the connection; a second call does nothing. Every upsert has been written already."""
        self._open = None
        self._free()

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        with mapped_errors(self._where):
            parts = list(self._requests().keys())
        for keys in parts:
            yield from self._stored(keys, batch)

    def _stored(self, keys: list[str], batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        """The documents and embeddings of those rows that exist."""
        fields, width = [*DOCUMENT_FIELDS, *vector_fields(struct=self._opened.struct)], self.identity.multi_vector_dim
        for start in range(0, len(keys), batch):
            with mapped_errors(self._where):
                rows = list(self._requests().rows(keys[start : start + batch], fields).values())
            if rows:
                yield [read_row(row) for row in rows], pack([read_embedding(row, width) for row in rows])

    def _search(
        self, queries: Sequence[M3Embedding], search: Search, *, explain: bool, ids_only: bool
    ) -> list[list[Hit]]:
        requests = self._requests()
        with mapped_errors(self._where):
            allowed = to_condition(search.filter, requests)
            return [self._hits(requests, one, search, allowed, explain=explain, ids_only=ids_only) for one in queries]

    def _hits(
        self, requests: Requests, query: M3Embedding, search: Search, allowed: str, *, explain: bool, ids_only: bool
    ) -> list[Hit]:
        plan = make_plan(query, search)
        names: dict[str, str] = {}
        for vector in plan.prefetches if plan.rescores else ():
            found = requests.search(query, vector, limit=plan.prefetch_limit, condition=allowed, ef=search.ef)
            names.update((key, name) for key, (name, _) in found.items())
        if not names:
            return []
        best = best_first(requests.totals(query, search, plan, names), search)
        if ids_only:
            return [Hit(Document(name, ""), total) for name, total in best]
        keys = {name: key for key, name in names.items()}
        page = [(keys[name], total) for name, total in best]
        rows = requests.rows([key for key, _ in page], DOCUMENT_FIELDS)
        parts: dict[str, Scores] = {}
        if explain and page:  # of the page alone, so that it has the same scores and order as without
            parts = requests.parts(query, [key for key, _ in page], {DENSE, SPARSE, MULTI_VECTOR})
        return [Hit(read_row(rows[key]), total, parts.get(key)) for key, total in page if key in rows]

    def _requests(self) -> Requests:
        if self._open is None:
            raise StoreError(f"the {self._where} is closed; open it again")
        return self._open


def _check_limits(documents: Sequence[Document], embeddings: M3Embeddings, *, struct: bool) -> None:
    """Refuse what a Milvus server would refuse, before anything is sent; milvus-lite has none of these limits.

    Args:
        documents: n documents, which ``make_points`` has passed.
        embeddings: n embeddings.
        struct: token rows go into an array.

    Raises:
        DocumentError: a text or a payload is too long, or a text has too many token rows.
    """
    offsets = embeddings.multi_vector_offsets
    assert offsets is not None  # make_points has refused it
    rows = np.diff(offsets) if struct else np.zeros(len(documents), np.int64)
    for i, document in enumerate(documents):
        fault = next(_faults(document, int(rows[i])), None)
        if fault:
            raise DocumentError(f"document {i}: {fault}", index=i)


def _faults(document: Document, rows: int) -> Iterator[str]:
    for name in (ID, "title", "text"):
        size = len(getattr(document, name).encode())
        if size > MAX_TEXT_BYTES:
            yield f"its {name} has {size:,} bytes, and a Milvus server takes {MAX_TEXT_BYTES:,}: split the text"
    payload = dict(document.payload)
    size = len(json.dumps(payload, ensure_ascii=False).encode())
    if size > MAX_TEXT_BYTES:
        yield f"its payload has {size:,} bytes as JSON, and a Milvus server takes {MAX_TEXT_BYTES:,}"
    found, size = len(terms(payload)), len(json.dumps({**numbers(payload), MARKS_FIELD: to_json(document)}))
    if found > MAX_ELEMENTS or size > MAX_TEXT_BYTES:
        yield (
            f"its payload has {found:,} different values on its top level, and m3-vdb can index {MAX_ELEMENTS:,} of "
            f"them (and about 1,000 fields with numbers) on a Milvus server: nest what no filter needs in an object"
        )
    if rows > MAX_ELEMENTS:
        yield (
            f"its multi_vector has {rows} rows, and an array on a Milvus server holds {MAX_ELEMENTS}: choose "
            f"a plan for long documents (m3_vdb.LongDocuments), or encode with a smaller maximum length"
        )


def open_milvus(
    place: Folder | Server,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    token: str | None,
    timeout: float,
) -> MilvusStore:
    """Open a collection; see ``m3_vdb.stores.open_store``.

    Raises:
        StoreConnectionError: the server did not answer.
        StoreError: the folder is open already.
    """
    opened = ExitStack()
    try:
        path = None
        if isinstance(place, Folder):
            path, where = place.path, f"collection in {place.path}"
            if not path.is_file() and not is_database(path) and (identity is None or not create):
                raise CollectionNotFoundError(f"there is no {where}: check the name, or ingest into it first")
            lite = LiteServer(path)
            opened.callback(lite.stop)
            with mapped_errors(where):
                client = MilvusClient(uri=lite.uri, dedicated=True)
        else:
            client = connect(place, token=token, timeout=timeout)
        opened.callback(client.close)
        return MilvusStore(
            client,
            COLLECTION_IN_FILE if isinstance(place, Folder) else place.collection,
            identity=identity,
            create=create,
            exact=exact,
            options=options,
            timeout=timeout,
            path=path,
            server="" if isinstance(place, Folder) else place.url,
            close=opened.close,
        )
    except BaseException:
        opened.close()
        raise
