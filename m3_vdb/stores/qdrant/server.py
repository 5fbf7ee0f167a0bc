"""A collection on a Qdrant server (1.16 or newer), through qdrant-client. Its embedded twin is ``embedded.py``.

One request per query: a search picks the candidates, the three vectors score the same candidates, and a formula adds
the three (``fusion``). Where the server does not allow that, other forms give the same scores
(``requests.py``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from qdrant_client import QdrantClient, models

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.errors import CollectionNotFoundError, ConfigError, StoreRequestError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import Found
from m3_vdb.stores.options import (
    DEFAULT_OPTIONS,
    DENSE,
    INDEX_TYPES,
    MULTI_VECTOR,
    SPARSE,
    CollectionOptions,
    IndexType,
    Search,
)
from m3_vdb.stores.points import (
    batches,
    make_points,
    pack,
    point_id,
    read_embedding,
    read_point,
)
from m3_vdb.stores.qdrant.client import mapped_errors, where
from m3_vdb.stores.qdrant.requests import to_point
from m3_vdb.stores.qdrant.schema import (
    METADATA_KEY,
    QdrantCapabilities,
    check_schema,
    create_collection,
    create_indexes,
    read_capabilities,
)
from m3_vdb.stores.qdrant.search import Searcher
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings

MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
"""Upserts are cut here, well below the 32 MiB that a Qdrant server takes by default (service.max_request_size_mb)."""
_POLL_SECONDS: Final = 0.2


class QdrantStore(VectorStore):
    """One collection on a Qdrant server.

    Args:
        client: a connected client; the store closes it.
        collection: name of the collection.
        identity: the model at hand; None opens an existing collection as it is.
        create: make the collection if there is none.
        exact: pick the candidates by a full scan, not by HNSW; slower and exact. Scores are exact either way.
        options: how a *new* collection is made.

    Raises:
        ConfigError: the server forbids exact search, or is too old for an option.
        CollectionNotFoundError: no such collection, and ``create`` or ``identity`` does not allow to make it.
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        StoreConnectionError: the server did not answer.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        identity: ModelIdentity | None,
        create: bool = True,
        exact: bool = False,
        options: CollectionOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__()
        self._client = client
        self._collection = collection
        self._exact = exact
        version = _version(client, collection)
        with mapped_errors(self._where):
            if not client.collection_exists(collection):
                if identity is None or not create:
                    raise CollectionNotFoundError(f"there is no {self._where}: check the name, or ingest into it first")
                _create(client, collection, identity, options, version=version)
            info = client.get_collection(collection)
        self._identity = open_identity(identity, (info.config.metadata or {}).get(METADATA_KEY), where=self._where)
        check_schema(info.config, self._identity, where=self._where)
        width = self._identity.multi_vector_dim
        self._capabilities = read_capabilities(info, version=version, width=width)
        if create:
            with mapped_errors(self._where):
                if create_indexes(client, collection, options, self._capabilities.indexes):
                    info = client.get_collection(collection)
            self._capabilities = read_capabilities(info, version=version, width=width)
        if exact and not self._capabilities.may_be_exact:
            raise ConfigError(f"{self._where} forbids exact search (strict mode): open it with exact=False")

    @property
    def capabilities(self) -> QdrantCapabilities:
        """What the server and the collection are, as they were when it was opened."""
        return self._capabilities

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        return self._identity

    @property
    def is_server(self) -> bool:
        """Whether a server keeps it, not qdrant-client's local mode."""
        options = self._client.init_options
        return options.get("path") is None and options.get("location") != ":memory:"

    @property
    def max_rows(self) -> int | None:
        """Multi-vector rows that a document may have: what the server, or its strict mode, takes."""
        return (self._capabilities.max_floats - 1) // self._identity.multi_vector_dim

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields with an index → what they hold."""
        return {name: kind for name, kind in self._capabilities.indexes.items() if kind in INDEX_TYPES}

    @property
    def _where(self) -> str:
        return where(self._client, self._collection)

    def _upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors, in requests of bounded size; see ``VectorStore.upsert``."""
        points = make_points(
            documents,
            embeddings,
            identity=self._identity,
            max_floats=self._capabilities.max_floats,
            types=self.field_types,
        )
        with mapped_errors(self._where):
            for batch in batches(points, max_bytes=MAX_REQUEST_BYTES, max_points=self._capabilities.max_upsert):
                self._client.upsert(self._collection, [to_point(point) for point in batch], wait=True)

    def _get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        if not ids:
            return []
        with mapped_errors(self._where):
            records = self._client.retrieve(self._collection, [point_id(i) for i in ids], with_payload=True)
        found = {document.id: document for document in (read_point(record.payload) for record in records)}
        return [found[i] for i in ids if i in found]

    def _delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        if not ids:
            return
        selector = models.PointIdsList(points=[point_id(i) for i in ids])
        with mapped_errors(self._where):
            self._client.delete(self._collection, selector, wait=True)

    def _count(self) -> int:
        """Documents in the collection, exact."""
        with mapped_errors(self._where):
            return self._client.count(self._collection, exact=True).count

    def _optimize(self) -> None:
        """Wait until the server has indexed what it was given; it decides itself what to index."""
        with mapped_errors(self._where):
            while self._client.get_collection(self._collection).status != models.CollectionStatus.GREEN:
                time.sleep(_POLL_SECONDS)

    def _disk_bytes(self) -> int | None:
        """None: a server does not say."""
        return None

    def _close(self) -> None:
        """Close the connection; a second call does nothing. Every upsert has been written already."""
        self._client.close()

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        found = self._search(query, search, explain=explain, ids_only=False)
        return [Hit(read_point(hit.payload), hit.score, hit.parts) for hit in found]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(hit.id, hit.score) for hit in self._search(query, search, explain=False, ids_only=True)]

    def _search(self, query: M3Embedding, search: Search, *, explain: bool, ids_only: bool) -> list[Found]:
        searcher = Searcher(self._client, self._collection, self._capabilities, self._exact)
        with mapped_errors(self._where):
            return searcher.search(query, search, explain=explain, ids_only=ids_only)

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        offset: Any = None
        while True:
            with mapped_errors(self._where):
                records, offset = self._client.scroll(
                    self._collection,
                    limit=batch,
                    offset=offset,
                    with_payload=True,
                    with_vectors=[DENSE, SPARSE, MULTI_VECTOR],
                )
            if records:
                documents = [read_point(record.payload) for record in records]
                yield documents, pack([read_embedding(record.vector) for record in records])
            if offset is None:
                return


def _version(client: QdrantClient, collection: str) -> str:
    """The server's version, or "" where a proxy or a narrow key hides it."""
    try:
        with mapped_errors(where(client, collection)):
            return client.info().version
    except StoreRequestError:
        return ""


def _create(
    client: QdrantClient, collection: str, identity: ModelIdentity, options: CollectionOptions, *, version: str
) -> None:
    """Make the collection.

    Raises:
        StoreRequestError: the server did not keep the metadata.
    """
    try:
        with mapped_errors(where(client, collection)):
            create_collection(client, collection, identity, options, version=version)
    except StoreRequestError:
        # Two workers may start at once: that the other one made it is no error, and opening it checks what it is.
        if not client.collection_exists(collection):
            raise
    if not client.get_collection(collection).config.metadata:
        raise StoreRequestError(
            f"{where(client, collection)} keeps no metadata, so it cannot say which model made it: m3-vdb needs "
            f"a Qdrant server of version 1.16 or newer; upgrade it, then delete this empty collection"
        )
