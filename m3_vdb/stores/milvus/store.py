"""A collection of Milvus, on a server or in a file (milvus-lite), through pymilvus. The twin of ``qdrant/server.py``.

Two steps per query: a search picks the candidates, then one hybrid search over the same candidates scores them by the
three vectors and adds the three. What the engine at hand cannot do is done here, exactly (``MilvusCapabilities``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

from pymilvus import MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, StoreError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import best_first, make_plan
from m3_vdb.stores.milvus.client import LiteServer, connect, is_database, mapped_errors
from m3_vdb.stores.milvus.engine import MilvusCapabilities, open_collection
from m3_vdb.stores.milvus.filters import condition, numbers, terms
from m3_vdb.stores.milvus.limits import check_limits
from m3_vdb.stores.milvus.requests import Requests, Scorer
from m3_vdb.stores.milvus.rows import (
    DOCUMENT_FIELDS,
    MAX_ELEMENTS,
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
"""Upserts are cut here, well below the 64 MiB that a Milvus server takes by default (proxy.grpc.serverMaxRecvSize)."""
_KEYS_PER_DELETE: Final = 1000
_POLL_SECONDS: Final = 0.2


class MilvusStore(VectorStore):
    """One collection of Milvus.

    Args:
        client: a connected client; the store closes it.
        collection: name of the collection.
        identity: the model at hand; None opens an existing collection as it is.
        create: make the collection if there is none.
        exact: pick the candidates by a full scan (True), by HNSW (False), or as is natural (None): a server by HNSW,
            milvus-lite always by full scan, because its HNSW loses candidates. Milvus fixes this when a collection is
            made. Scores are exact either way.
        options: how a *new* collection is made: storage ("float32", or "half": float16 token rows, scores off by about
            1e-5), and on a server shard_number. All payload fields are indexed, so indexes asks for nothing more.
        timeout: seconds that a request may take.
        path: where milvus-lite keeps its files; None for a server.
        server: URL of the server, for messages.
        on_close: called once, after the client is closed.

    Raises:
        CollectionNotFoundError: no such collection, and ``create`` or ``identity`` does not allow to make it.
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        ConfigError: ``exact=True`` for a collection that was made with HNSW, or an option that Milvus has not.
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
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._open: MilvusClient | None = client
        self._collection = collection
        self._timeout = timeout
        self._path = path
        self._server = server
        # milvus-lite has no lock of its own for writers; a server has.
        self._writing: AbstractContextManager[Any] = nullcontext() if path is None else threading.Lock()
        with mapped_errors(self._where):
            self._opened = open_collection(
                client,
                collection,
                identity=identity,
                may_create=create,
                exact=exact,
                options=options,
                timeout=timeout,
                where=self._where,
            )
        self._own(partial(_free, client, on_close), folder=path)

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
            check_limits(documents, embeddings, struct=opened.struct)
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
                requests.client.upsert(self._collection, batch, timeout=self._timeout)

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
        client = self._requests().client
        keys = [point_id(i) for i in ids]
        with mapped_errors(self._where), self._writing:
            for start in range(0, len(keys), _KEYS_PER_DELETE):
                client.delete(self._collection, ids=keys[start : start + _KEYS_PER_DELETE], timeout=self._timeout)

    def _count(self) -> int:
        """Documents in the collection, exact."""
        client = self._requests().client
        with mapped_errors(self._where):
            rows = client.query(self._collection, output_fields=["count(*)"], timeout=self._timeout)
        return int(rows[0]["count(*)"])

    def _optimize(self) -> None:
        """Write what was given into segments and wait until they are indexed.

        Worth doing after an ingest: milvus-lite indexes what it has not written yet anew for every query.
        """
        client = self._requests().client
        with mapped_errors(self._where):
            client.flush(self._collection)  # without a limit: it takes as long as it takes
            for index in client.list_indexes(self._collection, timeout=self._timeout):
                while (client.describe_index(self._collection, index, timeout=self._timeout) or {}).get(
                    "pending_index_rows"
                ):
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

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        best, parts = self._search(query, search, explain=explain)
        with mapped_errors(self._where):
            rows = self._requests().rows([key for key, _, _ in best], DOCUMENT_FIELDS)
        return [Hit(read_row(rows[key]), score, parts.get(key)) for key, _, score in best if key in rows]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(name, score) for _, name, score in self._search(query, search, explain=False)[0]]

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        requests, width = self._requests(), self.identity.multi_vector_dim
        fields = [*DOCUMENT_FIELDS, *vector_fields(struct=self._opened.struct)]
        with mapped_errors(self._where):
            parts = list(requests.keys())
        for keys in parts:
            for start in range(0, len(keys), batch):
                with mapped_errors(self._where):
                    rows = list(self._requests().rows(keys[start : start + batch], fields).values())
                if rows:
                    yield [read_row(row) for row in rows], pack([read_embedding(row, width) for row in rows])

    def _search(
        self, query: M3Embedding, search: Search, *, explain: bool
    ) -> tuple[list[tuple[str, str, float]], dict[str, Scores]]:
        """(key, user's id, score) of the hits, best first, and the parts of their scores if asked for."""
        requests, plan = self._requests(), make_plan(query, search)
        scorer = Scorer(
            requests,
            struct=self._opened.struct,
            scores_rows=self._opened.scores_rows,
            raw=self._opened.facts.raw_weights,
            width=self.identity.multi_vector_dim,
        )
        parts: dict[str, Scores] = {}
        with mapped_errors(self._where):
            names: dict[str, str] = {}
            allowed = condition(search.filter, requests)
            for vector in plan.prefetches if plan.rescores else ():
                found = requests.search(query, vector, limit=plan.prefetch_limit, condition=allowed, ef=search.ef)
                names.update((key, name) for key, (name, _) in found.items())
            if not names:
                return [], parts
            totals = scorer.totals(query, search, plan, names)
            keys = {name: key for key, name in names.items()}
            best = [(keys[name], name, total) for name, total in best_first(totals, search)]
            if explain and best:  # of the page alone, so that it has the same scores and order as without
                parts = scorer.parts(query, [key for key, _, _ in best], {DENSE, SPARSE, MULTI_VECTOR})
        return best, parts

    def _requests(self) -> Requests:
        if self._open is None:
            raise StoreError(f"the {self._where} is closed; open it again")
        return Requests(
            self._open, self._collection, flat=self._opened.flat, half=self._opened.half, timeout=self._timeout
        )


def _free(client: MilvusClient, on_close: Callable[[], None] | None) -> None:
    client.close()
    if on_close is not None:
        on_close()


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
    if isinstance(place, Folder):
        return _open_file(place.path, identity=identity, create=create, exact=exact, options=options, timeout=timeout)
    client = connect(place, token=token, timeout=timeout)
    try:
        return MilvusStore(
            client,
            place.collection,
            identity=identity,
            create=create,
            exact=exact,
            options=options,
            timeout=timeout,
            server=place.url,
        )
    except BaseException:
        client.close()
        raise


def _open_file(
    path: Path,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    timeout: float,
) -> MilvusStore:
    """Open the collection in a file of milvus-lite; see ``m3_vdb.stores.open_store``.

    Raises:
        CollectionNotFoundError: there is none, and none may be made.
        StoreError: the file is open already.
    """
    if not path.is_file() and not is_database(path) and (identity is None or not create):
        raise CollectionNotFoundError(f"there is no collection in {path}: check the name, or ingest into it first")
    lite = LiteServer(path)
    try:
        with mapped_errors(f"collection in {path}"):
            client = MilvusClient(uri=lite.uri, dedicated=True)
        try:
            return MilvusStore(
                client,
                COLLECTION_IN_FILE,
                identity=identity,
                create=create,
                exact=exact,
                options=options,
                timeout=timeout,
                path=path,
                on_close=lite.stop,
            )
        except BaseException:
            client.close()
            raise
    except BaseException:
        lite.stop()
        raise
