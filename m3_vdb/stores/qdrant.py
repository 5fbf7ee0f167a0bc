"""A collection on a Qdrant server (1.16 or newer), through qdrant-client. Its embedded twin is ``qdrant_edge.py``.

One request per query: a search picks the candidates, the three vectors score the same candidates, and a formula adds
the three (``_plan.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from qdrant_client import QdrantClient, models

from m3_vdb.errors import CollectionNotFoundError, StoreRequestError
from m3_vdb.stores._plan import make_plan
from m3_vdb.stores._points import ID_FIELD, batches, make_points, point_id, read_document, read_id, read_parts
from m3_vdb.stores._qdrant_errors import mapped_errors
from m3_vdb.stores._qdrant_requests import check_schema, collection_vectors, fused, to_point
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.identity import ModelIdentity, open_identity
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings

MAX_MULTI_VECTOR_FLOATS: Final = 1024 * 1024
"""A multi-vector of this many numbers or more is refused (MAX_MULTIVECTOR_FLATTENED_LEN, Qdrant 1.10 to 1.19)."""
MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
"""Upserts are cut here, well below the 32 MiB that a Qdrant server takes by default (service.max_request_size_mb)."""
_METADATA_KEY: Final = "m3"
_POLL_SECONDS: Final = 0.2


class QdrantStore(VectorStore):
    """One collection on a Qdrant server.

    On a collection of several shards the candidates are the nearest of *each* shard. A server whose strict mode forbids
    exact search (``search_allow_exact=false``) refuses these queries.

    Args:
        client: a connected client; the store closes it.
        collection: name of the collection.
        identity: the model at hand; None opens an existing collection as it is.
        create: make the collection if there is none.
        exact: pick the candidates by a full scan, not by HNSW; slower and exact. Scores are exact either way.
        half: make a *new* collection with a float16 multi-vector: half the space, scores off by about 1e-5.

    Raises:
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
        half: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection
        self._exact = exact
        with mapped_errors(self._where):
            if not client.collection_exists(collection):
                if identity is None or not create:
                    raise CollectionNotFoundError(f"there is no {self._where}: check the name, or ingest into it first")
                _create(client, collection, identity, half=half)
            info = client.get_collection(collection)
        self._identity = open_identity(identity, (info.config.metadata or {}).get(_METADATA_KEY), where=self._where)
        check_schema(info.config.params, where=self._where)

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        return self._identity

    @property
    def _where(self) -> str:
        return f"Qdrant collection {self._collection!r}"

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors, in requests of bounded size; see ``VectorStore.upsert``."""
        points = make_points(documents, embeddings, identity=self._identity, max_floats=MAX_MULTI_VECTOR_FLOATS)
        with mapped_errors(self._where):
            for batch in batches(points, max_bytes=MAX_REQUEST_BYTES):
                self._client.upsert(self._collection, [to_point(point) for point in batch], wait=True)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        if not ids:
            return []
        with mapped_errors(self._where):
            records = self._client.retrieve(self._collection, [point_id(i) for i in ids], with_payload=True)
        found = {document.id: document for document in (read_document(record.payload) for record in records)}
        return [found[i] for i in ids if i in found]

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        if not ids:
            return
        selector = models.PointIdsList(points=[point_id(i) for i in ids])
        with mapped_errors(self._where):
            self._client.delete(self._collection, selector, wait=True)

    def count(self) -> int:
        """Documents in the collection, exact."""
        with mapped_errors(self._where):
            return self._client.count(self._collection, exact=True).count

    def optimize(self) -> None:
        """Wait until the server has indexed what it was given; it decides itself what to index."""
        with mapped_errors(self._where):
            while self._client.get_collection(self._collection).status != models.CollectionStatus.GREEN:
                time.sleep(_POLL_SECONDS)

    def disk_bytes(self) -> int | None:
        """None: a server does not say."""
        return None

    def close(self) -> None:
        """Close the connection; a second call does nothing. Every upsert has been written already."""
        self._client.close()

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        vectors = [DENSE, SPARSE, MULTI_VECTOR] if explain else False
        points = self._search(query, search, payload=True, vectors=vectors)
        return [
            Hit(read_document(point.payload), point.score, read_parts(query, point.vector) if explain else None)
            for point in points
        ]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        points = self._search(query, search, payload=[ID_FIELD], vectors=False)
        return [(read_id(point.payload), point.score) for point in points]

    def _search(
        self, query: M3Embedding, search: Search, *, payload: bool | list[str], vectors: bool | list[str]
    ) -> list[models.ScoredPoint]:
        plan = make_plan(query, search)
        if not plan.branches:
            return []
        prefetch, fusion = fused(query, plan, search, exact=self._exact)
        with mapped_errors(self._where):
            return self._client.query_points(
                self._collection,
                prefetch=prefetch,
                query=fusion,
                limit=search.limit,
                offset=search.offset or None,
                score_threshold=search.score_threshold,
                with_payload=payload,
                with_vectors=vectors,
            ).points


def _create(client: QdrantClient, collection: str, identity: ModelIdentity, *, half: bool) -> None:
    """Make the collection; the identity travels as its metadata.

    Raises:
        StoreRequestError: the server did not keep the metadata.
    """
    try:
        with mapped_errors(f"Qdrant collection {collection!r}"):
            client.create_collection(
                collection,
                vectors_config=collection_vectors(identity, half=half),
                sparse_vectors_config={SPARSE: models.SparseVectorParams()},  # no modifier: IDF would re-weight
                metadata={_METADATA_KEY: identity.as_metadata()},
            )
    except StoreRequestError:
        # Two workers may start at once: that the other one made it is no error, and opening it checks what it is.
        if not client.collection_exists(collection):
            raise
    if not client.get_collection(collection).config.metadata:
        raise StoreRequestError(
            f"Qdrant collection {collection!r} keeps no metadata, so it cannot say which model made it: m3-vdb needs "
            f"a Qdrant server of version 1.16 or newer; upgrade it, then delete this empty collection"
        )
