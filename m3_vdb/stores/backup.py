"""Backups of a collection: a folder that any store can make, and any store can be restored from.

It holds ``documents.parquet`` (``m3_vdb.stores.transfer``: ids, titles, texts, payloads, our marks, vectors) and
``manifest.json``: the model's identity, how the collection was made, the number of documents, and the size and SHA-256
of the file. Exact words are made from the texts again. A restore checks all of it before it writes anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import ConfigError, StoreError
from m3_vdb.stores import CollectionOptions, VectorStore, open_store
from m3_vdb.stores.folder import mapped_os_errors
from m3_vdb.stores.transfer import export_parquet, import_parquet, read_identity

MANIFEST: Final = "manifest.json"
DOCUMENTS: Final = "documents.parquet"
FORMAT: Final = 1
_OPTIONS: Final = ("storage", "indexes", "tenant", "bm25", "full_text")
"""Of ``CollectionOptions``; shards, replicas and memory belong to the server that a collection was on."""
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole.

    Attributes:
        folder: where it is.
        identity: the model.
        documents: how many rows it has; passages count.
        options: how the collection was made.
        time: when it was made, ISO 8601 in UTC.
    """

    folder: Path
    identity: ModelIdentity
    documents: int
    options: CollectionOptions
    time: str


def backup(store: VectorStore, folder: str | os.PathLike[str]) -> Backup:
    """Write everything that a collection holds into a new folder, completely or not at all.

    Args:
        store: the collection; documents that are written or deleted meanwhile may be in it or not.
        folder: the backup; must not exist.

    Raises:
        ConfigError: the folder exists.
        MissingExtraError: pyarrow is not installed.
        StoreError: the collection cannot be read, or the disk cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists: name a new folder for the backup")
    temporary = folder.with_name(f"{folder.name}.tmp")
    told = store.facts().options
    with mapped_os_errors(f"backup in {folder}"), ExitStack() as opened:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        opened.callback(shutil.rmtree, temporary, ignore_errors=True)
        number = export_parquet(store, temporary / DOCUMENTS)
        manifest = {
            "format": FORMAT,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "identity": store.identity.as_metadata(),
            "options": {name: told[name] for name in _OPTIONS if name in told},
            "documents": number,
            "bytes": (temporary / DOCUMENTS).stat().st_size,
            "sha256": _digest(temporary / DOCUMENTS),
        }
        with (temporary / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder)
    return _made(folder, manifest)


def check_backup(folder: str | os.PathLike[str]) -> Backup:
    """Read the manifest of a backup and check that its file is whole.

    Raises:
        StoreError: the folder is not a backup, or a file of it is missing, cut or damaged.
        CollectionMismatchError: a newer m3-vdb made it.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        made, size, digest = _made(folder, manifest), int(manifest["bytes"]), str(manifest["sha256"])
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{folder} is not a backup: it has no {MANIFEST}, which m3-vdb backup writes") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / MANIFEST} is damaged ({error!r}): take another backup") from None
    path = folder / DOCUMENTS
    with mapped_os_errors(f"backup in {folder}"):
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise StoreError(
                f"{path} has {'no bytes' if found is None else f'{found:,} bytes'}, and its manifest says {size:,}: it "
                f"is not whole, take another backup"
            )
        if _digest(path) != digest:
            raise StoreError(f"{path} has not the checksum of its manifest: it was damaged, take another backup")
    made.identity.require_same(read_identity(path), where=str(path))
    return made


def restore(
    folder: str | os.PathLike[str],
    url: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    into_existing: bool = False,
    long_documents: LongDocuments = DEFAULT_POLICY,
    api_key: str | None = None,
    prefer_grpc: bool | None = None,
) -> Backup:
    """Make a collection from a backup. Nothing is encoded; the backup is checked before anything is made.

    Args:
        folder: the backup.
        url: of the collection; see ``open_store``.
        options: of ``CollectionOptions``, where the new collection is to differ from the old one; a store that lacks an
            option of the old one is a ``ConfigError`` that names it.
        into_existing: the collection may hold documents already; those of the same id are replaced. To repeat a
            restore that was interrupted, too.
        long_documents: as ``m3_vdb.stores.transfer.copy``.
        api_key: as ``open_store``.
        prefer_grpc: as ``open_store``.

    Raises:
        StoreError: the backup is not whole, or the collection holds documents.
        CollectionMismatchError: the collection belongs to another model.
        ConfigError: an option that the store does not support.
        DocumentError: a document that the store cannot hold.
    """
    made = check_backup(folder)
    wanted = replace(made.options, **(options or {}))
    with open_store(url, made.identity, options=wanted, api_key=api_key, prefer_grpc=prefer_grpc) as store:
        store.check_writable()
        held = store.count()
        if held and not into_existing:
            raise StoreError(
                f"{url} holds {held:,} documents already: restore into a new collection, or with --into-existing "
                f"(into_existing=True), which replaces documents of the same id"
            )
        import_parquet(made.folder / DOCUMENTS, store, long_documents=long_documents)
        if not held and store.count() != made.documents:
            raise StoreError(f"{url} holds {store.count():,} documents, and the backup has {made.documents:,}")
    return made


def _made(folder: Path, manifest: Mapping[str, Any]) -> Backup:
    if manifest["format"] != FORMAT:
        raise StoreError(f"{folder} has format {manifest['format']!r}, and this m3-vdb reads {FORMAT}: upgrade it")
    identity = open_identity(None, manifest["identity"], where=str(folder))
    options = CollectionOptions(**manifest["options"])
    return Backup(folder, identity, int(manifest["documents"]), options, str(manifest["time"]))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
