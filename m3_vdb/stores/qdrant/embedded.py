"""A collection in a folder, run by Qdrant's engine inside this process. The embedded twin of ``qdrant/server.py``.

The folder holds ``shard/`` (the engine's files), ``m3.json`` (the model's identity) and ``m3.lock``. One process at a
time may use it. Every acknowledged upsert is in the engine's write-ahead log and survives a killed process; for a crash
of the machine nothing is promised beyond the last flush (every 64 MiB, and ``close``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import qdrant_edge as edge

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.errors import CollectionNotFoundError, M3Error, StoreError, StoreRequestError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import FolderLock, advice, mapped_os_errors, read_metadata, write_metadata
from m3_vdb.stores.fusion import Found, Plan, best_first, fuse, make_plan, read_page, read_parts, vectors_to_score
from m3_vdb.stores.options import DEFAULT_OPTIONS, DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType, Search
from m3_vdb.stores.points import (
    ID_FIELD,
    batches,
    make_points,
    pack,
    point_id,
    read_embedding,
    read_id,
    read_point,
)
from m3_vdb.stores.qdrant.embedded_folder import load, make_indexes, require_free
from m3_vdb.stores.qdrant.embedded_requests import among, fused, leaves, part_requests, to_point
from m3_vdb.stores.qdrant.embedded_schema import OPTIONS
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings, Scores

MAX_UPDATE_BYTES: Final = 16 * 1024 * 1024
"""Upserts are cut here (in JSON bytes, up to six times the stored size) so that a batch's Python lists stay small."""
FLUSH_BYTES: Final = 64 * 1024 * 1024
"""Flush when the write-ahead log has grown by this much, or it keeps everything that was ever written."""


class QdrantEdgeStore(VectorStore):
    """One collection in a folder.

    A multi-vector may be of any size here; a Qdrant server refuses 1,048,576 numbers and more. The engine holds
    Python's global lock while it works, so threads are safe and not faster.

    Args:
        folder: where the collection lives; made if it may be created.
        identity: the model at hand; None opens an existing collection as it is.
        create: make the collection if there is none.
        exact: pick the candidates by a full scan; False lets the engine use the HNSW graph that ``optimize`` builds.
            Scores are exact either way.
        options: how a *new* collection is made: storage, indexes, tenant and on_disk.

    Raises:
        ConfigError: an option that this store does not have.
        CollectionNotFoundError: no such collection, and ``create`` or ``identity`` does not allow to make it.
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        StoreError: the folder is open already.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        identity: ModelIdentity | None,
        create: bool = True,
        exact: bool = True,
        options: CollectionOptions = DEFAULT_OPTIONS,
    ) -> None:
        options.require_only(*OPTIONS, where="a collection in a folder")
        super().__init__()
        self._folder = Path(folder)
        self._exact = exact
        self._unflushed = 0
        self._mutex = threading.RLock()
        with _mapped_errors(self._where), ExitStack() as opened:
            metadata = read_metadata(self._folder)
            new = metadata is None
            if metadata is None:
                require_free(self._folder, where=self._where)
                if identity is None or not create:
                    raise CollectionNotFoundError(f"there is no {self._where}: check the name, or ingest into it first")
                self._folder.mkdir(parents=True, exist_ok=True)
            else:
                open_identity(identity, metadata, where=self._where)  # nothing is left in a folder that is not ours
            opened.callback(FolderLock(self._folder).release)
            if metadata is None:
                # Once more, now that nobody else can be writing it.
                metadata = read_metadata(self._folder)
            if metadata is None:
                assert identity is not None
                metadata = identity.as_metadata()
                write_metadata(self._folder, metadata)
            self._identity = open_identity(identity, metadata, where=self._where)
            shard = load(self._folder, self._identity, options, new=new)
            opened.callback(shard.close)
            opened.callback(shard.flush)
            self._field_types = make_indexes(shard, options, create=create)
            self._shard: edge.EdgeShard | None = shard
            self._own(opened.pop_all().close, folder=self._folder)

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        return self._identity

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields with an index → what they hold."""
        return self._field_types

    @property
    def _where(self) -> str:
        return f"collection in {self._folder}"

    def _upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors; see ``VectorStore.upsert``."""
        points = make_points(
            documents,
            embeddings,
            identity=self._identity,
            max_floats=None,
            types=self._field_types,
        )
        with self._engine() as shard:
            for batch in batches(points, max_bytes=MAX_UPDATE_BYTES):
                shard.update(edge.UpdateOperation.upsert_points([to_point(point) for point in batch]))
                self._unflushed += sum(point.log_bytes for point in batch)
                if self._unflushed > FLUSH_BYTES:
                    shard.flush()
                    self._unflushed = 0

    def _get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``."""
        with self._engine() as shard:
            records = shard.retrieve([point_id(i) for i in ids], with_payload=True, with_vector=False)
        found = {document.id: document for document in (read_point(record.payload) for record in records)}
        return [found[i] for i in ids if i in found]

    def _delete(self, ids: Sequence[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        with self._engine() as shard:
            shard.update(edge.UpdateOperation.delete_points([point_id(i) for i in ids]))

    def _count(self) -> int:
        """Documents in the collection, exact."""
        with self._engine() as shard:
            return shard.count(edge.CountRequest(exact=True))

    def _optimize(self) -> None:
        """Build the HNSW graph and drop what was deleted; blocks for seconds to minutes.

        Never done on its own: up to some ten thousand documents a full scan of the dense vectors takes milliseconds.
        Open the collection with ``exact=False`` to use the graph.
        """
        with self._engine() as shard:
            shard.optimize()

    def _disk_bytes(self) -> int | None:
        """Bytes that the folder's files take on disk, the write-ahead log included."""
        with self._engine() as shard:
            shard.flush()
            return sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*") if path.is_file())

    def _close(self) -> None:
        """Write everything out and let the folder go; a second call does nothing."""
        with self._mutex:
            self._shard = None
            with _mapped_errors(self._where):
                self._free()

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        found = self._search(query, search, explain=explain, ids_only=False)
        return [Hit(read_point(hit.payload), hit.score, hit.parts) for hit in found]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(hit.id, hit.score) for hit in self._search(query, search, explain=False, ids_only=True)]

    def _search(self, query: M3Embedding, search: Search, *, explain: bool, ids_only: bool) -> list[Found]:
        """As on a server (``search``): the engine fuses all but ranks, and explains the hits of the page."""
        plan = make_plan(query, search)
        if not plan.branches:
            return []
        with self._engine() as shard:  # of a search with several requests nobody sees half

            def payloads(ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
                records = shard.retrieve([point_id(name) for name in ids], with_payload=True, with_vector=False)
                return {read_id(record.payload): record.payload or {} for record in records}

            def ask(offset: int, limit: int, only_ids: bool) -> list[Found]:
                payload = [ID_FIELD] if only_ids else True
                request = fused(query, plan, search, exact=self._exact, limit=limit, offset=offset, payload=payload)
                return [Found(read_id(hit.payload), hit.score, hit.payload or {}) for hit in shard.query(request)]

            if search.fusion != "rrf":
                hits = read_page(search, plan.branch_limit, ask, None if ids_only else payloads)
                if explain and hits:
                    found = among([point_id(hit.id) for hit in hits])
                    parts = _parts(shard, query, plan, found, leaf=None, limit=len(hits), explain=True)
                    hits = [replace(hit, parts=parts[hit.id]) for hit in hits]
                return hits
            found = leaves(query, plan, search, exact=self._exact)
            leaf = plan.leaves[0] if len(plan.leaves) == 1 else None
            parts = _parts(shard, query, plan, found, leaf=leaf, limit=plan.branch_limit, explain=explain)
            best = best_first(fuse(parts, search), search)
            kept = {name: {ID_FIELD: name} for name, _ in best} if ids_only else payloads([name for name, _ in best])
        return [Found(name, total, kept[name], parts[name] if explain else None) for name, total in best]

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        offset: edge.PointId | None = None
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=batch, with_payload=True, with_vector=[DENSE, SPARSE, MULTI_VECTOR]
            )
            with self._engine() as shard:
                records, offset = shard.scroll(request)
            if records:
                documents = [read_point(record.payload) for record in records]
                yield documents, pack([read_embedding(record.vector) for record in records])
            if offset is None:
                return

    @contextmanager
    def _engine(self) -> Iterator[edge.EdgeShard]:
        """The open shard, for this thread alone."""
        with self._mutex, _mapped_errors(self._where):
            if self._shard is None:
                raise StoreError(f"the {self._where} is closed; open it again")
            yield self._shard


def _parts(
    shard: edge.EdgeShard,
    query: M3Embedding,
    plan: Plan,
    found: list[edge.Prefetch],
    *,
    leaf: str | None,
    limit: int,
    explain: bool,
) -> dict[str, Scores]:
    """Id → raw scores of the candidates; the arguments are those of ``part_requests``."""
    names = vectors_to_score(query, plan, explain=explain)
    batch = shard.query_batch(edge.QueryBatchRequest(part_requests(query, found, names, leaf=leaf, limit=limit)))
    return read_parts(
        query,
        {
            name: {read_id(point.payload): point.score for point in points}
            for name, points in zip(names, batch, strict=True)
        },
    )


@contextmanager
def _mapped_errors(where: str) -> Iterator[None]:
    """The one place where errors of qdrant-edge become errors of m3-vdb.

    Raises:
        StoreRequestError: the engine refused, or panicked; its own words are in the message.
        StoreError: the system refused.
    """
    try:
        with mapped_os_errors(where):
            yield
    except M3Error:
        raise
    except Exception as error:  # the engine raises plain Exception, so nothing narrower can be caught
        raise StoreRequestError(f"{where}: the engine refused: {error}{advice(str(error))}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a Rust panic; it has no importable class
            raise
        raise StoreRequestError(f"{where}: the engine failed inside (panic): {error}") from error
