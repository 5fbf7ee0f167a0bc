"""The folder of an embedded collection: taken, made, opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import qdrant_edge as edge

from m3_vdb.errors import CollectionMismatchError
from m3_vdb.stores._edge_schema import INDEXES, edge_config, index_operations
from m3_vdb.stores._folder import OUR_FILES
from m3_vdb.stores._points import field_name
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.options import CollectionOptions, IndexType

_SHARD: Final = "shard"
_CONFIG: Final = "edge_config.json"
"""The engine's own description of its files."""


def claim(folder: Path, *, where: str) -> None:
    """Make the folder, or take an empty one.

    Raises:
        CollectionMismatchError: the path is a file, or a folder with something else in it.
    """
    if folder.exists() and not folder.is_dir():
        raise CollectionMismatchError(f"{folder} is a file; a collection needs a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = {entry.name for entry in folder.iterdir()} - OUR_FILES
    if foreign:
        raise CollectionMismatchError(
            f"{folder} has no m3.json but holds {', '.join(sorted(foreign)[:3])}, so it is no {where}: give an empty "
            f"or new folder"
        )


def load(folder: Path, identity: ModelIdentity, options: CollectionOptions) -> edge.EdgeShard:
    """Open the engine, after making its files if there are none.

    Raises:
        CollectionMismatchError: the files are there, and would give other scores than M3's.
    """
    shard = folder / _SHARD
    if not shard.exists():
        # Made aside and renamed, so that a process killed in the middle leaves nothing that looks like a shard.
        fresh = folder / f"{_SHARD}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        edge.EdgeShard.create(str(fresh), edge_config(identity, options)).close()
        fresh.rename(shard)
    _check_config(shard)
    return edge.EdgeShard.load(str(shard))


def _check_config(shard: Path) -> None:
    """Refuse files that others made (from a server's snapshot, say) in another way than ``edge_config``.

    Raises:
        CollectionMismatchError: vectors are quantised or rounded to bytes, or the sparse one is re-weighted.
    """
    config = json.loads((shard / _CONFIG).read_text(encoding="utf-8"))
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
