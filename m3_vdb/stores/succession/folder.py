"""A folder's collection is replaced: its path stays, and ``m3.json`` names other files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, StoreError
from m3_vdb.stores import open_store
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import IDENTITY_FILE, MOVED_LAYOUT, PLACE, FolderLock, read_metadata, write_metadata
from m3_vdb.stores.options import CollectionOptions
from m3_vdb.stores.succession.base import Succession, still_kept, suffix, unfinished

_PREVIOUS: Final = "previous"
"""In ``m3.json``: where the files of the model before are, until they are dropped."""
_SHARD: Final = "shard"


class FolderSuccession(Succession):
    """Of a folder: the successor grows in a subfolder, and ``m3.json`` then names it.

    Args:
        folder: of the collection.
        identity: of the new model.
    """

    def __init__(self, folder: Path, identity: ModelIdentity | None) -> None:
        self._folder = folder
        self._name = "" if identity is None else suffix(identity)
        self._identity = identity
        self.place = str(folder)
        self.old = str(folder / self._read().get(PLACE, ""))
        self.new = str(folder / self._name)

    def open_old(self) -> VectorStore:
        """The collection in the folder."""
        return open_store(self._folder, create=False)

    def check(self, identity: ModelIdentity) -> None:
        """Check that no other migration is unfinished, and none before is still kept."""
        metadata = self._read()
        if _PREVIOUS in metadata:
            raise still_kept(str(self._folder), str(self._folder / metadata[_PREVIOUS]))
        others = [path for path in self._unfinished() if path.name != suffix(identity)]
        if others:
            raise unfinished(str(self._folder), str(others[0]))

    @contextmanager
    def begun(self, stop: threading.Event) -> Iterator[None]:
        """Clear away a subfolder whose process was killed while it made it: it has no engine's files yet.

        The successor is open meanwhile, and so locked.
        """
        path = self._folder / self._name
        if path.exists() and not (path / _SHARD).exists():
            shutil.rmtree(path)
        yield

    def open_new(self, identity: ModelIdentity, options: CollectionOptions, *, exact: bool | None) -> VectorStore:
        """The collection in the subfolder."""
        return open_store(self._folder / self._name, identity, options=options, exact=exact)

    @contextmanager
    def closed(self) -> Iterator[VectorStore]:
        """The open collection: no other process can have it open."""
        with self.open_old() as old:
            yield old

    def switch(self) -> None:
        """Replace ``m3.json``; the caller has the folder open."""
        assert self._identity is not None
        before = self._read().get(PLACE, "")
        moved = {"layout": MOVED_LAYOUT, PLACE: self._name, _PREVIOUS: before}
        write_metadata(self._folder, {**self._identity.as_metadata(), **moved})
        self.finish(self._identity)

    def finish(self, identity: ModelIdentity) -> bool:
        """The subfolder is no collection of its own any more: it would have a lock of its own."""
        metadata = self._read()
        if metadata.get("fingerprint") != identity.fingerprint:
            return False
        if metadata.get(PLACE):
            (self._folder / metadata[PLACE] / IDENTITY_FILE).unlink(missing_ok=True)
        return True

    def drop_old(self) -> str | None:
        """Delete the files of the model before, which nobody has open since the switch; others may use the new ones."""
        metadata = self._read()
        if _PREVIOUS not in metadata:
            return None
        previous = metadata.pop(_PREVIOUS)
        gone = self._folder / previous if previous else self._folder / _SHARD
        shutil.rmtree(gone, ignore_errors=True)
        if gone.exists():
            raise StoreError(f"{gone} cannot be deleted: delete it, then run this again")
        write_metadata(self._folder, {**metadata, "layout": MOVED_LAYOUT})
        return str(gone)

    def cancel(self) -> str | None:
        """Delete unfinished subfolders."""
        found = self._unfinished()
        for path in found:
            FolderLock(path).release()  # or its migration runs
            shutil.rmtree(path)
        return str(found[0]) if found else None

    def _unfinished(self) -> list[Path]:
        metadata = self._read()
        used = {metadata.get(PLACE), metadata.get(_PREVIOUS)}
        return sorted(path for path in self._folder.glob("m3-*") if path.is_dir() and path.name not in used)

    def _read(self) -> dict[str, Any]:
        metadata = read_metadata(self._folder)
        if metadata is None:
            raise CollectionNotFoundError(f"there is no collection in {self._folder}: check the name")
        return metadata
