"""The folder of an embedded collection: taken, made, opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import qdrant_edge as edge

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.model_files import brief
from m3_vdb.errors import CollectionMismatchError, StoreError
from m3_vdb.stores.folder import OUR_FILES, RESTORE, advice
from m3_vdb.stores.options import CollectionOptions, IndexType
from m3_vdb.stores.points import field_name
from m3_vdb.stores.qdrant.embedded_schema import INDEXES, edge_config, index_operations

_SHARD: Final = "shard"
_CONFIG: Final = "edge_config.json"
"""The engine's own description of its files."""


def require_free(folder: Path, *, where: str) -> None:
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


def load(folder: Path, identity: ModelIdentity, options: CollectionOptions, *, new: bool) -> edge.EdgeShard:
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
        edge.EdgeShard.create(str(fresh), edge_config(identity, options)).close()
        fresh.rename(shard)
    if not shard.exists():
        raise StoreError(f"{shard} is missing: {RESTORE}")
    _check_config(shard)
    try:
        return edge.EdgeShard.load(str(shard))
    except Exception as error:  # the engine raises plain Exception
        raise StoreError(f"{shard} cannot be opened ({brief(error)}){advice(str(error)) or f': {RESTORE}'}") from error


def _check_config(shard: Path) -> None:
    """Refuse files that others made (from a server's snapshot, say) in another way than ``edge_config``.

    Raises:
        StoreError: the description is damaged.
        CollectionMismatchError: vectors are quantised or rounded to bytes, or the sparse one is re-weighted.
    """
    try:
        config = dict(json.loads((shard / _CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise StoreError(f"{shard / _CONFIG} is damaged ({brief(error)}): {RESTORE}") from None
    sparse = config.get("sparse_vectors") or {}
    for name, vector in {"": config, **(config.get("vectors") or {}), **sparse}.items():
        fault = None
        if vector.get("quantization_config") is not None:
            fault = "quantised, and M3 scores need the vectors themselves"
        elif vector.get("datatype") == "uint8":
            fault = "stored as uint8, and M3 scores need floats"
        elif name in sparse and vector.get("modifier") == "idf":
            fault = "re-weighted by IDF, and M3 scores need the raw weights"
        if fault is not None:
            raise CollectionMismatchError(f"{shard.parent}: {name or 'every vector'} is {fault}")


def make_indexes(shard: edge.EdgeShard, options: CollectionOptions, *, create: bool) -> dict[str, IndexType]:
    """Make the payload indexes that are missing; all indexed fields with what they hold."""
    kinds = {engine: kind for kind, engine in INDEXES.items()}
    names = {field_name(path): kinds.get(index.data_type) for path, index in shard.info().payload_schema.items()}
    present = {name: kind for name, kind in names.items() if name is not None and kind is not None}
    if create:
        for operation in index_operations(options, names.keys()):
            shard.update(operation)
        return {**options.payload_indexes, **present}
    return present
