"""A collection in a folder, run by Qdrant's engine inside this process. The embedded twin of ``server.py``.

The folder holds ``shard/`` (the engine's files), ``m3.json`` (the model's identity) and ``m3.lock``; after a migration
(``m3_vdb.stores.succession``) ``m3.json`` names the subfolder that holds ``shard/``. One process at a time
may use it. Every acknowledged upsert is in the engine's write-ahead log and survives a killed process; for a crash of
the machine nothing is promised beyond the last flush (every 64 MiB, and ``close``).
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import qdrant_edge as edge

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.encoding.model_files import brief
from m3_vdb.errors import CollectionMismatchError, M3Error, StoreError, StoreRequestError
from m3_vdb.filters import Expression
from m3_vdb.stores.base import new_identity
from m3_vdb.stores.folder import (
    OUR_FILES,
    PLACE,
    RESTORE,
    FolderLock,
    advice,
    disk_bytes,
    mapped_os_errors,
    read_metadata,
    read_run,
    write_metadata,
    write_run,
)
from m3_vdb.stores.options import BM25, DEFAULT_OPTIONS, DENSE, MULTI_VECTOR, CollectionOptions, Facts
from m3_vdb.stores.points import TEXT_FIELD, Point, batches, field_name, point_id
from m3_vdb.stores.qdrant.collection import QdrantCollection
from m3_vdb.stores.qdrant.edge_values import INDEXES, edge_filter, to_config, to_point, to_request
from m3_vdb.stores.qdrant.requests import LATER_PASSAGES, Request, to_filter
from m3_vdb.stores.qdrant.schema import STORAGE_OF, QdrantCapabilities, check_schema, missing_indexes
from m3_vdb.stores.reading_copy import reading_copy
from m3_vdb.stores.waiting import Waiting
from m3_vdb.types import SparseVector

_OPTIONS: Final = ("storage", "indexes", "tenant", "on_disk", "bm25", "full_text")
"""What the embedded engine has of ``CollectionOptions``."""
_SHARD: Final = "shard"
_CONFIG: Final = "edge_config.json"
"""The engine's own description of its files."""
MAX_UPDATE_BYTES: Final = 16 * 1024 * 1024
"""Of an upsert, in JSON bytes (up to six times the stored size), so that a batch's Python lists stay small."""
FLUSH_BYTES: Final = 64 * 1024 * 1024
"""Flush when the write-ahead log has grown by this much, or it keeps everything that was ever written."""


class QdrantEdgeStore(QdrantCollection):
    """One collection in a folder.

    A multi-vector may be of any size here; a Qdrant server refuses 1,048,576 numbers and more. The engine holds
    Python's global lock while it works, so threads are safe and not faster.

    Args:
        folder: where the collection lives; made if it may be created.
        identity: the model; None opens an existing collection as it is.
        create: make the collection if it does not exist.
        exact: pick the candidates by a full scan; False lets the engine use the HNSW graph that ``optimize`` builds.
            Scores are exact either way.
        options: how a *new* collection is made: storage, indexes, tenant, on_disk and bm25.
        read_only: write nothing there, and let others read it meanwhile (``reading_copy``).

    Raises:
        ConfigError: an option that this store does not have.
        CollectionNotFoundError: it does not exist, and may not be made (create=False, or no identity).
        CollectionMismatchError: the collection belongs to another model, or was not made by m3-vdb.
        StoreError: the folder is open already.
    """

    _lists_first = True

    def __init__(
        self,
        folder: str | Path,
        *,
        identity: ModelIdentity | None,
        create: bool = True,
        exact: bool = True,
        options: CollectionOptions = DEFAULT_OPTIONS,
        read_only: bool = False,
    ) -> None:
        options.require_only(*_OPTIONS, where="a collection in a folder")
        super().__init__()
        self._folder = files = Path(folder)
        self._read_only, create = read_only, create and not read_only
        self._exact = exact
        self._unflushed = 0
        self._mutex = threading.RLock()
        with _mapped_errors(self._where), ExitStack() as opened:
            metadata = read_metadata(self._folder)
            new = metadata is None
            if metadata is None:
                _require_free(self._folder, where=self._where)
                identity = new_identity(identity, create=create, where=self._where)
                self._folder.mkdir(parents=True, exist_ok=True)
            else:
                open_identity(identity, metadata, where=self._where)  # nothing is left in a folder that is not ours
            if read_only:
                files = opened.enter_context(reading_copy(self._folder))
            opened.callback(FolderLock(files).release)
            metadata = read_metadata(files)  # once more, now that no other process can be writing it
            if metadata is None:
                assert identity is not None
                metadata = identity.as_metadata()
                write_metadata(self._folder, metadata)
            self._identity = open_identity(identity, metadata, where=self._where)
            self._files = files / str(metadata.get(PLACE, ""))
            shard = _load(self._files, self._identity, options, new=new)
            opened.callback(shard.close)
            opened.callback(shard.flush)
            if create:
                _make_indexes(shard, options)
            present = shard.info().payload_schema
            self._size = shard.info().points_count
            has_bm25 = _has_bm25(self._files)
            if options.bm25 and create and not has_bm25:
                shard.update(edge.UpdateOperation.create_sparse_vector(BM25, modifier=edge.Modifier.Idf))
                has_bm25 = True
            self._capabilities = QdrantCapabilities(
                max_floats=None, indexes=_kinds(present), bm25=has_bm25, full_text=TEXT_FIELD in present
            )
            self._shard: edge.EdgeShard | None = shard
            if options.bm25 and create:
                self._fill_words()
            self._own(opened.pop_all().close, folder=None if read_only else self._folder)

    @property
    def _url(self) -> str:
        return f"file:{quote(str(self._folder))}" if self._folder.suffix != ".qdrant" else str(self._folder)

    @property
    def _where(self) -> str:
        return f"collection in {self._folder}"

    @contextmanager
    def _engine(self) -> Iterator[edge.EdgeShard]:
        """The open shard, for this thread alone."""
        with self._mutex, _mapped_errors(self._where):
            if self._shard is None:
                raise StoreError(f"the {self._where} is closed; open it again")
            yield self._shard

    def _write(self, points: Sequence[Point]) -> None:
        with self._engine() as shard:
            for batch in batches(points, lambda point: point.json_bytes, max_bytes=MAX_UPDATE_BYTES):
                shard.update(edge.UpdateOperation.upsert_points([to_point(point) for point in batch]))
                self._unflushed += sum(point.packed_bytes for point in batch)
                if self._unflushed > FLUSH_BYTES:
                    shard.flush()
                    self._unflushed = 0

    def _set_payload(self, point_ids: list[str], fields: dict[str, Any]) -> None:
        with self._engine() as shard:
            shard.update(edge.UpdateOperation.set_payload([*point_ids], fields))

    def _put_words(self, words: Mapping[Any, SparseVector]) -> None:
        points = [
            edge.PointVectors(id=i, vector={BM25: edge.SparseVector(one.ids.tolist(), one.weights.tolist())})
            for i, one in words.items()
        ]
        with self._engine() as shard:
            shard.update(edge.UpdateOperation.update_vectors(points))

    def _records(self, point_ids: list[str], vectors: Sequence[str] = ()) -> Sequence[Any]:
        with self._engine() as shard:
            return shard.retrieve([*point_ids], with_payload=True, with_vector=list(vectors) or False)

    def _scroll_page(
        self,
        offset: Any,  # noqa: ANN401 - a point's id
        limit: int,
        condition: Request | None,
    ) -> tuple[Sequence[Any], Any]:
        given = None if condition is None else edge_filter(condition)
        request = edge.ScrollRequest(offset=offset, limit=limit, filter=given, with_payload=True)
        with self._engine() as shard:
            return shard.scroll(request)

    def _answer(self, request: Request) -> Sequence[Any]:
        with self._engine() as shard:
            return shard.query(to_request(request))

    def _answers(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        with self._engine() as shard:
            return shard.query_batch(edge.QueryBatchRequest([to_request(request) for request in requests]))

    def _delete(self, ids: Sequence[str]) -> None:
        with self._engine() as shard:
            shard.update(edge.UpdateOperation.delete_points([point_id(i) for i in ids]))

    def _delete_matching(self, condition: Expression) -> None:
        with self._engine() as shard:
            shard.update(edge.UpdateOperation.delete_points_by_filter(edge_filter(to_filter(condition))))

    def _count(self, condition: Expression | None) -> int:
        with self._engine() as shard:
            return shard.count(edge.CountRequest(exact=True, filter=_optional_filter(condition)))

    def _optimize(self, timeout: float, waiting: Waiting | None) -> None:
        """Build the HNSW graph and drop what was deleted; blocks for seconds to minutes.

        Never done on its own: up to some ten thousand documents a full scan of the dense vectors takes milliseconds.
        Open the collection with ``exact=False`` to use the graph.
        """
        with self._engine() as shard:
            shard.optimize()

    def _facts(self) -> Facts:
        with self._engine() as shard:
            if not self._read_only:
                shard.flush()
            info = shard.info()
            config = _config(self._files / _SHARD)
            later = shard.count(edge.CountRequest(exact=True, filter=edge_filter(LATER_PASSAGES)))
        tenants = [
            field_name(path) for path, one in info.payload_schema.items() if getattr(one.params, "is_tenant", None)
        ]
        return Facts(
            later_passages=later,
            index=f"{info.indexed_vectors_count:,} vectors indexed, {info.segments_count} segments; dense candidates "
            f"by {'a full scan' if self._exact else 'the graph that optimize builds'}",
            options={
                "storage": STORAGE_OF.get(config["vectors"][MULTI_VECTOR].get("datatype"), "float32"),
                "indexes": dict(self._capabilities.indexes),
                "bm25": self.has_bm25,
                **({"full_text": True} if self.has_full_text else {}),
                **({"tenant": tenants[0]} if tenants else {}),
                **({"on_disk": True} if config["vectors"][DENSE].get("on_disk") else {}),
            },
            engine={
                "name": "qdrant-edge",
                "version": version("qdrant-edge-py"),
                "exact_candidates": self._exact,
                "fusion": "engine",
            },
            last_run=read_run(self._folder),
            bytes=_bytes_by_part(self._files / _SHARD),
        )

    def _note_run(self, run: Mapping[str, Any]) -> None:
        with self._engine():
            write_run(self._folder, run)

    def _disk_bytes(self) -> int | None:
        """Bytes that the folder's files take on disk, the write-ahead log included."""
        with self._engine() as shard:
            if not self._read_only:
                shard.flush()
            return disk_bytes(self._folder)

    def _close(self) -> None:
        """Write everything out and unlock the folder; a second call does nothing."""
        with self._mutex:
            self._shard = None
            with _mapped_errors(self._where):
                self._free()


def _bytes_by_part(shard: Path) -> dict[str, int]:
    """Part → bytes that the engine's files of it take on disk, their indexes included."""
    found: dict[str, int] = {}
    for path in shard.rglob("*"):
        if not path.is_file():
            continue
        inside = path.relative_to(shard).parts
        folder = inside[2] if inside[0] == "segments" and len(inside) > 3 else ""
        if inside[0] == "wal":
            part = "write-ahead log"
        elif folder.startswith(("vector_storage-", "vector_index-")):
            part = folder.partition("-")[2]
        else:
            part = "text and payload" if folder.startswith("payload") else "other"
        found[part] = found.get(part, 0) + path.stat().st_blocks * 512
    return found


def _optional_filter(condition: Expression | None) -> edge.Filter | None:
    return None if condition is None else edge_filter(to_filter(condition))


def _require_free(folder: Path, *, where: str) -> None:
    """Check that a folder without ``m3.json`` may become a collection.

    Raises:
        CollectionMismatchError: the path is a file, or a folder with something else in it.
    """
    if folder.exists() and not folder.is_dir():
        raise CollectionMismatchError(f"{folder} is a file, and a collection is a folder: check the name")
    foreign = {entry.name for entry in folder.iterdir()} - OUR_FILES if folder.is_dir() else set()
    if foreign:
        raise CollectionMismatchError(
            f"{folder} has no m3.json but holds {', '.join(sorted(foreign)[:3])}, so it is not a {where}: give an "
            f"empty or new folder"
        )


def _load(folder: Path, identity: ModelIdentity, options: CollectionOptions, *, new: bool) -> edge.EdgeShard:
    """Open the engine, after making its files if the collection is new.

    Raises:
        CollectionMismatchError: the files are there, and would give other scores than M3's.
        StoreError: files are missing or damaged.
    """
    shard = folder / _SHARD
    fresh = folder / f"{_SHARD}.new"
    if not shard.exists() and (new or fresh.exists()):
        # Made aside and renamed, so that a process killed in the middle leaves nothing that looks like a shard.
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        edge.EdgeShard.create(str(fresh), to_config(identity, options)).close()
        fresh.rename(shard)
    if not shard.exists():
        raise StoreError(f"{shard} is missing: {RESTORE}")
    check_schema(_config(shard), identity, where=str(folder))
    try:
        return edge.EdgeShard.load(str(shard))
    except Exception as error:  # the engine raises plain Exception
        raise StoreError(f"{shard} cannot be opened ({brief(error)}){advice(str(error)) or f': {RESTORE}'}") from error


def _config(shard: Path) -> dict[str, Any]:
    """The engine's description of its files, which others may have made (from a server's snapshot, say).

    Raises:
        StoreError: it is damaged.
    """
    try:
        return dict(json.loads((shard / _CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise StoreError(f"{shard / _CONFIG} is damaged ({brief(error)}): {RESTORE}") from None


def _has_bm25(folder: Path) -> bool:
    return BM25 in (_config(folder / _SHARD).get("sparse_vectors") or {})


def _make_indexes(shard: edge.EdgeShard, options: CollectionOptions) -> None:
    """Make the requested indexes that are missing."""
    present = shard.info().payload_schema
    wanted: dict[str, Any] = {}
    for path, name in missing_indexes(options, present).items():
        is_tenant = name == options.tenant
        wanted[path] = edge.KeywordIndexParams(is_tenant=True) if is_tenant else INDEXES[options.payload_indexes[name]]
    if options.full_text and TEXT_FIELD not in present:
        wanted[TEXT_FIELD] = edge.TextIndexParams(tokenizer=edge.TokenizerType.Word, lowercase=True)
    for path, params in wanted.items():
        shard.update(edge.UpdateOperation.create_field_index(path, params))


def _kinds(present: Mapping[str, Any]) -> dict[str, str]:
    """Payload field → what its index holds."""
    kinds = {engine: kind for kind, engine in INDEXES.items()}
    names = {field_name(path): kinds.get(index.data_type) for path, index in present.items()}
    return {name: kind for name, kind in names.items() if name is not None and kind is not None}


@contextmanager
def _mapped_errors(where: str) -> Iterator[None]:
    """The one place where errors of qdrant-edge become errors of m3-vdb.

    Raises:
        StoreRequestError: the engine refused, or panicked; its message is part of ours.
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
