"""A collection on a Qdrant server (1.16 or newer), through qdrant-client; ``calls.py`` sends what carries vectors.

Its embedded twin is ``embedded.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from qdrant_client import QdrantClient, models

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.errors import ConfigError, StoreRequestError
from m3_vdb.filters import Expression
from m3_vdb.stores.base import new_identity
from m3_vdb.stores.following import Followed
from m3_vdb.stores.markers import check_place
from m3_vdb.stores.options import BM25, DEFAULT_OPTIONS, DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, Facts
from m3_vdb.stores.points import TEXT_FIELD, Point, field_name, point_id
from m3_vdb.stores.qdrant.aliases import alias_target, read_marker
from m3_vdb.stores.qdrant.calls import is_local
from m3_vdb.stores.qdrant.client import mapped_errors, store_url, where
from m3_vdb.stores.qdrant.collection import QdrantCollection
from m3_vdb.stores.qdrant.requests import LATER_PASSAGES, Request, to_filter
from m3_vdb.stores.qdrant.schema import (
    DATATYPES,
    STORAGE_OF,
    QdrantCapabilities,
    check_schema,
    missing_indexes,
    read_capabilities,
    vector_schema,
)
from m3_vdb.stores.qdrant.wire import Wire
from m3_vdb.stores.waiting import Waiting, wait_for
from m3_vdb.types import SparseVector

OLDEST_VERSION: Final = (1, 16)
"""First version that keeps a collection's metadata; the formula query came with 1.14."""
TURBO_VERSION: Final = (1, 20)
"""First version whose vectors may be stored as turbo16 and turbo8."""
NAMES_VERSION: Final = (1, 18)
"""First version that adds a vector to a collection that exists."""
METADATA_KEY: Final = "m3"
RUN_KEY: Final = "m3_run"
"""The last ingest or sync."""
_IDF: Final = models.Modifier.IDF


class QdrantStore(QdrantCollection):
    """One collection on a Qdrant server.

    Args:
        client: a connected client; the store closes it.
        collection: name of the collection.
        identity: the model; None opens an existing collection as it is.
        create: make the collection if it does not exist.
        exact: pick the candidates by a full scan, not by HNSW; slower and exact. Scores are exact either way.
        options: how a *new* collection is made.
        read_only: refuse to write.
        why_rest: why vectors never travel over gRPC where the client speaks REST; "" has that tried once.

    Raises:
        ConfigError: the server forbids exact search, or is too old for an option.
        CollectionNotFoundError: it does not exist, and may not be made (create=False, or no identity).
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        StoreConnectionError: the server did not answer.
    """

    _followed: Followed | None = None

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        identity: ModelIdentity | None,
        create: bool = True,
        exact: bool = False,
        options: CollectionOptions = DEFAULT_OPTIONS,
        read_only: bool = False,
        why_rest: str = "as the client is",
    ) -> None:
        super().__init__()
        self._read_only, create = read_only, create and not read_only
        self._client = client
        self._name = collection
        self._named = where(client, collection)
        followed = Followed(collection, self._target())
        collection = self._collection = followed.collection
        self._wire = Wire(client, why_rest)
        self._calls = self._wire.calls(collection)
        self._exact = exact
        version = self._version()
        numbers = _numbers(version)
        if numbers is not None and numbers < OLDEST_VERSION:  # said before a collection is made that cannot be used
            raise ConfigError(
                f"{self._where}: m3-vdb needs a Qdrant server of version {_dotted(OLDEST_VERSION)} or newer (this one: "
                f"{version}): upgrade it"
            )
        with self._engine():
            if not client.collection_exists(collection):
                made = new_identity(identity, create=create, where=self._where)
                self._create(made, options, version=version)
            info = client.get_collection(collection)
        self._identity = open_identity(identity, (info.config.metadata or {}).get(METADATA_KEY), where=self._where)
        config = info.config.model_dump(mode="json")
        config |= {name: config["params"].get(name) for name in ("vectors", "sparse_vectors")}
        check_schema(config, self._identity, where=self._where)
        self._size = info.points_count or 0
        able = read_capabilities(info, version=version, width=self._identity.multi_vector_dim)
        if create:
            able = self._make_indexes(options, able, info.payload_schema or {})
        if options.bm25 and create and not able.bm25:
            self._add_words(version)
            able = replace(able, bm25=True)
        self._capabilities = able
        if options.bm25 and create:
            self._fill_words()
        if exact and not self._capabilities.may_be_exact:
            raise ConfigError(f"{self._where} forbids exact search (strict mode): open it with exact=False")
        self._followed = followed

    def _make_indexes(
        self, options: CollectionOptions, able: QdrantCapabilities, present: Mapping[str, Any]
    ) -> QdrantCapabilities:
        """Make the requested indexes that are missing; what the collection can do then."""
        wanted: dict[str, Any] = {}
        made: dict[str, str] = {}
        for path, name in missing_indexes(options, present).items():
            made[name] = options.payload_indexes[name]
            wanted[path] = models.PayloadSchemaType(made[name])
            if name == options.tenant:
                wanted[path] = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        if options.full_text and not able.full_text:
            wanted[TEXT_FIELD] = models.TextIndexParams(
                type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True
            )
        with self._engine() as client:
            for path, schema in wanted.items():
                client.create_payload_index(self._collection, path, field_schema=schema, wait=True)
        full_text = self.is_server and (able.full_text or options.full_text)  # a client's local mode makes no indexes
        return replace(able, indexes={**able.indexes, **made}, full_text=full_text)

    def _target(self) -> str | None:
        """The collection behind the name, if that is an alias and the server says so."""
        try:
            with mapped_errors(self._where):
                return alias_target(self._client, self._name)
        except StoreRequestError:
            return None

    def _follow(self) -> None:
        """Go where the alias points."""

        def metadata(target: str) -> Mapping[str, Any] | None:
            return (self._client.get_collection(target).config.metadata or {}).get(METADATA_KEY)

        if self._followed is not None and self._followed.has_moved(self._target, metadata, self._identity, self._where):
            self._collection = self._followed.collection
            self._calls = self._wire.calls(self._collection)

    def _confirm(self) -> None:
        if self.is_server:
            with self._engine() as client:
                check_place(read_marker(client.get_collection(self._collection)), self._where)

    def _version(self) -> str:
        """The server's version, or "" where a proxy or a narrow key hides it."""
        try:
            with self._engine():
                return self._client.info().version
        except StoreRequestError:
            return ""

    def _create(self, identity: ModelIdentity, options: CollectionOptions, *, version: str) -> None:
        """Make the collection; the identity travels as its metadata.

        Raises:
            ConfigError: the server is too old for an option.
            StoreRequestError: the server did not keep the metadata.
        """
        vectors = vector_schema(identity, _datatype(options, version=version))
        # Multi-vectors are the bulk of the data, so they stay on disk and the page cache keeps what is used.
        on_disk = {DENSE: options.on_disk, MULTI_VECTOR: options.on_disk is not False}
        index = models.SparseIndexParams(on_disk=options.on_disk) if options.on_disk is not None else None
        try:
            with self._engine():
                self._client.create_collection(
                    self._collection,
                    vectors_config={
                        name: models.VectorParams(**vector, on_disk=on_disk[name]) for name, vector in vectors.items()
                    },
                    sparse_vectors_config={
                        SPARSE: models.SparseVectorParams(index=index),
                        **({BM25: models.SparseVectorParams(index=index, modifier=_IDF)} if options.bm25 else {}),
                    },
                    shard_number=options.shard_number,
                    replication_factor=options.replication_factor,
                    metadata={METADATA_KEY: identity.as_metadata()},
                )
        except StoreRequestError:
            # Two workers may start at once: the other one made it, and opening it checks what it is.
            if not self._client.collection_exists(self._collection):
                raise
        if not self._client.get_collection(self._collection).config.metadata:
            raise StoreRequestError(
                f"{self._where} keeps no metadata, so it cannot say which model made it: m3-vdb needs "
                f"a Qdrant server of version {_dotted(OLDEST_VERSION)} or newer; upgrade it, then delete this empty "
                f"collection"
            )

    def _add_words(self, version: str) -> None:
        """Add the vector of exact words to a collection that exists.

        Raises:
            ConfigError: the server is too old for that.
        """
        numbers = _numbers(version)
        if numbers is not None and numbers < NAMES_VERSION:
            raise ConfigError(
                f"bm25=True: a Qdrant server adds exact words to a collection that exists from version "
                f"{_dotted(NAMES_VERSION)} on (this one: {version}): upgrade it, or ingest into a new collection"
            )
        config = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig(modifier=_IDF))
        with self._engine() as client:
            client.create_vector_name(self._collection, BM25, config)

    @property
    def capabilities(self) -> QdrantCapabilities:
        """What the server and the collection are, as they were when it was opened."""
        return self._capabilities

    @property
    def is_server(self) -> bool:
        """Whether a server keeps it, not qdrant-client's local mode."""
        return not is_local(self._client)

    @property
    def _url(self) -> str:
        return store_url(self._client, self._name) if self.is_server else ""

    @property
    def _where(self) -> str:
        return self._named

    @contextmanager
    def _engine(self) -> Iterator[QdrantClient]:
        with mapped_errors(self._where):
            self._follow()
            yield self._client

    def _write(self, points: Sequence[Point]) -> None:
        most = self._capabilities.max_upsert
        with self._engine():
            self._calls.write(points, max_items=most)

    def _set_payload(self, point_ids: list[str], fields: dict[str, Any]) -> None:
        self._client.set_payload(self._collection, fields, points=[*point_ids], wait=True)

    def _put_words(self, words: Mapping[Any, SparseVector]) -> None:
        points = [
            models.PointVectors(
                id=i, vector={BM25: models.SparseVector(indices=one.ids.tolist(), values=one.weights.tolist())}
            )
            for i, one in words.items()
        ]
        self._client.update_vectors(self._collection, points, wait=True)

    def _records(self, point_ids: list[str], vectors: Sequence[str] = ()) -> Sequence[Any]:
        return self._calls.retrieve(point_ids, vectors)

    def _scroll_page(
        self,
        offset: Any,  # noqa: ANN401 - a point's id
        limit: int,
        condition: Request | None,
    ) -> tuple[Sequence[Any], Any]:
        return self._client.scroll(
            self._collection,
            None if condition is None else models.Filter(**condition),
            limit=limit,
            offset=offset,
            with_payload=True,
            with_vectors=False,
        )

    def _answer(self, request: Request) -> Sequence[Any]:
        return self._calls.query(request)

    def _answers(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """Answers to requests, in as few calls as the server allows."""
        size = self._capabilities.max_batch or len(requests)
        calls = [requests[i : i + size] for i in range(0, len(requests), size)]
        return [answer for call in calls for answer in self._calls.query_batch(call)]

    def _delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        selector = models.PointIdsList(points=[point_id(i) for i in ids])
        with self._engine() as client:
            client.delete(self._collection, selector, wait=True)

    def _delete_matching(self, condition: Expression) -> None:
        selector = models.FilterSelector(filter=models.Filter(**to_filter(condition)))
        with self._engine() as client:
            client.delete(self._collection, selector, wait=True)

    def _count(self, condition: Expression | None) -> int:
        with self._engine() as client:
            return client.count(self._collection, count_filter=_optional_filter(condition), exact=True).count

    def _optimize(self, timeout: float, waiting: Waiting | None) -> None:
        """Wait until the server has indexed what it was given; it decides itself what to index.

        Raises:
            StoreRequestError: an optimizer has failed.
        """
        with self._engine() as client:
            begun = False

            def poll() -> str:
                nonlocal begun
                info = client.get_collection(self._collection)
                if info.status == models.CollectionStatus.RED:
                    error = getattr(info.optimizer_status, "error", "no reason given")
                    raise StoreRequestError(
                        f"{self._where}: the server has failed to index it ({error}); it is tried again after the next "
                        f"write or a restart: mend the cause first"
                    )
                if info.status == models.CollectionStatus.GREY and not begun:
                    # Work is left from before a restart, and begins with a write or a change of the settings.
                    client.update_collection(self._collection, optimizers_config=models.OptimizersConfigDiff())
                    begun = True
                return "" if info.status == models.CollectionStatus.GREEN else f"still indexing ({info.status.value})"

            wait_for(poll, where=self._where, timeout=timeout, waiting=waiting)

    def _facts(self) -> Facts:
        able = self._capabilities
        with self._engine() as client:
            info = client.get_collection(self._collection)
            later = client.count(self._collection, count_filter=models.Filter(**LATER_PASSAGES), exact=True).count
        indexed, points = info.indexed_vectors_count or 0, info.points_count or 0
        return Facts(
            later_passages=later,
            index=f"{info.status.value}, {indexed:,} vectors indexed (HNSW) of {points:,} documents; dense candidates "
            f"by {'a full scan' if self._exact else 'HNSW where it is built'}",
            options={
                "storage": STORAGE_OF.get(able.multi_vector_datatype, "float32"),
                "indexes": dict(able.indexes),
                "shard_number": info.config.params.shard_number,
                "replication_factor": info.config.params.replication_factor,
                "bm25": able.bm25,
                **({"full_text": True} if able.full_text else {}),
                **_more_options(info),
            },
            engine={
                "name": "qdrant",
                "version": able.version or "not told",
                "exact_candidates": self._exact,
                "fusion": "server" if able.may_be_exact else "client",
                **({"wire": self._wire.told(self._collection)} if self.is_server else {}),
            },
            last_run=(info.config.metadata or {}).get(RUN_KEY) or {},
        )

    def _note_run(self, run: Mapping[str, Any]) -> None:
        with self._engine() as client:
            client.update_collection(self._collection, metadata={RUN_KEY: dict(run)})  # a server merges the keys

    def _close(self) -> None:
        """Close the connection. Every upsert has been written already."""
        self._client.close()


def _optional_filter(condition: Expression | None) -> models.Filter | None:
    return None if condition is None else models.Filter(**to_filter(condition))


def _more_options(info: models.CollectionInfo) -> dict[str, Any]:
    """The field of tenants, and where vectors are kept, if that is not the store's own way."""
    vectors, found = info.config.params.vectors, dict[str, Any]()
    if isinstance(vectors, dict) and (vectors[DENSE].on_disk or vectors[MULTI_VECTOR].on_disk is False):
        found["on_disk"] = bool(vectors[DENSE].on_disk)
    for path, index in (info.payload_schema or {}).items():
        if getattr(index.params, "is_tenant", None):
            found["tenant"] = field_name(path)
    return found


def _datatype(options: CollectionOptions, *, version: str) -> str | None:
    if options.storage == "float32":
        return None
    numbers = _numbers(version)
    if numbers is not None and numbers >= TURBO_VERSION:
        return DATATYPES[options.storage]
    if options.storage == "half":
        return "float16"
    needed = _dotted(TURBO_VERSION)
    raise ConfigError(f"storage='quarter' needs a Qdrant server of version {needed} (this one: {version or 'unknown'})")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _numbers(version: str) -> tuple[int, int] | None:
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))
