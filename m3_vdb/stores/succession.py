"""A collection and its successor, of another model: made beside it, and put in its place in one step.

On a server the place is an alias. A store that was opened by an alias stays with the collection that it found, so an
old model never meets new vectors; what the collection's marker says is asked after each write, before the write is
acknowledged (``check_place``). The place of a folder is its path: ``m3.json`` there names model and files, and is
replaced as a whole. In memory, and in a file of milvus-lite, there is no such place.

A marker is ``{"to": successor, "state": "building" | "closed" | "moved", "open": name to open}`` on the old collection
and ``{"from": old collection}`` on the successor; {} is none.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, ConfigError, StoreError
from m3_vdb.imports import no_usage_data
from m3_vdb.stores import open_store
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import IDENTITY_FILE, MOVED_LAYOUT, PLACE, FolderLock, read_metadata, write_metadata
from m3_vdb.stores.markers import BUILDING, CLOSED, MOVED
from m3_vdb.stores.names import Folder, Memory, Server, read_name
from m3_vdb.stores.options import CollectionOptions

_PREVIOUS: Final = "previous"
"""In ``m3.json``: where the files of the model before are, until they are dropped."""
_SHARD: Final = "shard"


class Succession(ABC):
    """A collection, and the one of another model that will take its place.

    Attributes:
        old: how messages name the collection.
        new: how they name its successor.
        place: what programs open before and after the switch.
    """

    old: str
    new: str
    place: str

    @abstractmethod
    def open_old(self) -> VectorStore:
        """The collection that is served."""

    @abstractmethod
    def check(self, identity: ModelIdentity) -> None:
        """Check that a migration to this model may begin or go on; nothing is changed.

        Raises:
            ConfigError: it may not; the message says what to do.
        """

    def begin(self) -> None:  # noqa: B027 - a folder has nothing to say
        """Say on the collection, where that is possible, that its successor is being made."""

    @abstractmethod
    def open_new(self, identity: ModelIdentity, options: CollectionOptions, *, exact: bool | None) -> VectorStore:
        """The successor, made if it does not exist."""

    @abstractmethod
    def closed(self) -> Any:  # noqa: ANN401 - a context manager of VectorStore
        """The collection, while no write to it is acknowledged; open again afterwards, unless it was replaced."""

    @abstractmethod
    def switch(self) -> None:
        """Put the successor in the place. It is not open, and holds everything."""

    @abstractmethod
    def finish(self, identity: ModelIdentity) -> bool:
        """Whether the place has this model's collection already; then also what a killed process has left to do."""

    @abstractmethod
    def drop_old(self) -> str | None:
        """Delete the collection that was replaced; its name, or None if there is none."""

    @abstractmethod
    def cancel(self) -> str | None:
        """Delete a successor that is not in its place yet; its name, or None if there is none."""

    def close(self) -> None:  # noqa: B027 - a folder has none
        """End the connection."""


def suffix(identity: ModelIdentity) -> str:
    """The end of a successor's name."""
    return f"m3-{identity.fingerprint[:8]}"


def succession(
    url: str, identity: ModelIdentity | None, *, alias: str | None = None, api_key: str | None = None, timeout: int = 60
) -> Succession:
    """The collection that a URL names, and its successor.

    Args:
        url: as ``open_store``.
        identity: of the new model; None only to drop or cancel.
        alias: on a server, for a collection that was opened by its own name: the name to open after the switch.
        api_key: for a server.
        timeout: seconds to wait for a server's answer.

    Raises:
        ConfigError: this kind of store has no place that can be switched.
    """
    place = read_name(url)
    if isinstance(place, Memory):
        raise ConfigError("memory:// ends with its process: make a new one with the new model")
    if isinstance(place, Folder):
        if place.engine == "milvus":
            raise ConfigError(
                f"{url}: a file of milvus-lite holds one collection and has no alias: backfill into a new file "
                f"(m3-vdb backfill {url} --store NEW.milvus.db), and open that"
            )
        if alias is not None:
            raise ConfigError(f"alias {alias!r}: a folder needs none, its path stays; leave it out")
        return FolderSuccession(place.path.absolute(), identity)
    if place.engine == "milvus":
        raise ConfigError(
            f"{url}: a migration moves aliases of Qdrant, not yet of Milvus: backfill into a new collection (m3-vdb "
            f"backfill {url} --store …), then move the alias with pymilvus' alter_alias"
        )
    with no_usage_data():
        from m3_vdb.stores.qdrant.aliases import QdrantAliases  # noqa: PLC0415 - optional

    aliases = QdrantAliases.of(place, api_key=api_key, timeout=timeout)
    base = url.rstrip("/").rpartition("/")[0]
    try:
        return ServerSuccession(place, base, aliases, identity, alias=alias, api_key=api_key, timeout=timeout)
    except BaseException:
        aliases.close()
        raise


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
            raise ConfigError(_kept(str(self._folder), str(self._folder / metadata[_PREVIOUS])))
        others = [path for path in self._unfinished() if path.name != suffix(identity)]
        if others:
            raise ConfigError(_unfinished(str(self._folder), str(others[0])))

    def begin(self) -> None:
        """Clear away a subfolder whose process was killed while it made it: it has no engine's files yet."""
        path = self._folder / self._name
        if path.exists() and not (path / _SHARD).exists():
            shutil.rmtree(path)

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


class Aliases(Protocol):
    """Collections of a server: their aliases and markers."""

    def target(self, name: str) -> str | None:
        """The collection behind an alias; None if there is no such alias."""
        ...

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection; not by an alias."""
        ...

    def marker(self, collection: str) -> Mapping[str, Any]:
        """What is marked on a collection."""
        ...

    def mark(self, collection: str, marker: Mapping[str, Any]) -> None:
        """Replace the marker."""
        ...

    def point(self, alias: str, collection: str) -> None:
        """Make or move an alias, in one step."""
        ...

    def drop(self, collection: str) -> None:
        """Delete a collection."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class ServerSuccession(Succession):
    """Of a server: both are collections, and an alias moves.

    Args:
        place: the collection, by its own name or by an alias.
        base: URL without the collection's name.
        aliases: of the server.
        identity: of the new model.
        alias: the alias, for a collection named directly.
        api_key: of the server.
        timeout: seconds.
    """

    def __init__(
        self,
        place: Server,
        base: str,
        aliases: Aliases,
        identity: ModelIdentity | None,
        *,
        alias: str | None,
        api_key: str | None,
        timeout: int,
    ) -> None:
        self._aliases = aliases
        self._base = base
        self._open = partial(open_store, api_key=api_key, timeout=timeout)
        target = aliases.target(place.collection)
        if target is not None and alias not in (None, place.collection):
            raise ConfigError(f"alias {alias!r}: {place.collection!r} is an alias already, and it moves; leave it out")
        if target is None and not aliases.exists(place.collection):
            raise CollectionNotFoundError(f"there is no collection {place.collection!r} at {base}: check the name")
        self._alias = place.collection if target is not None else alias
        self.old = target or place.collection
        self.new = "" if identity is None else f"{self.old.partition('--m3-')[0]}--{suffix(identity)}"
        self.place = self._url(self._alias or self.old)

    def _url(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='')}"

    def open_old(self) -> VectorStore:
        """The collection by its own name."""
        return self._open(self._url(self.old), create=False)

    def check(self, identity: ModelIdentity) -> None:
        """Check names, and that no other migration is unfinished, and none before is still kept."""
        name, marker = self._alias, self._aliases.marker(self.old)
        if name is None:
            example = f"{self.old}-live"
            raise ConfigError(
                f"{self.old!r} is a collection's own name, and no alias can have it: pass the name that programs open "
                f"from then on (--alias {example}), after the switch {self._url(example)}"
            )
        behind = self._aliases.target(name)
        if behind not in (None, self.old, self.new) or (behind is None and self._aliases.exists(name)):
            what = "a collection" if behind is None else f"an alias of {behind!r}"
            raise ConfigError(f"alias {name!r}: that is {what} already; pass another name")
        if (before := marker.get("from")) and self._aliases.exists(before):
            raise ConfigError(_kept(self.place, before))
        if marker.get("state") == MOVED:
            raise ConfigError(f"{self.old!r} was replaced by {marker['to']!r} already: open {marker.get('open')}")
        if marker.get("to") not in (None, self.new):
            raise ConfigError(_unfinished(self.place, marker["to"]))
        if marker.get("to") is None and self._aliases.exists(self.new):
            raise ConfigError(f"there is a collection {self.new!r} already, of no migration: delete it, or use it")

    def begin(self) -> None:
        """Mark the old one; writes to it are acknowledged (again, after a process that was killed)."""
        self._mark_old(BUILDING)

    def open_new(self, identity: ModelIdentity, options: CollectionOptions, *, exact: bool | None) -> VectorStore:
        """The collection beside it."""
        return self._open(self._url(self.new), identity, options=options, exact=exact)

    @contextmanager
    def closed(self) -> Iterator[VectorStore]:
        """The collection, marked: writers are told to try again."""
        with self.open_old() as old:
            self._mark_old(CLOSED)
            try:
                yield old
            finally:
                if self._target() != self.new:
                    self._mark_old(BUILDING)

    def switch(self) -> None:
        """Move the alias."""
        assert self._alias is not None
        self._aliases.mark(self.new, {"from": self.old})
        self._aliases.point(self._alias, self.new)
        self._mark_old(MOVED)

    def finish(self, identity: ModelIdentity) -> bool:
        """Say on the old collection that it was replaced."""
        if self._target() != self.new:
            return False
        before = self._aliases.marker(self.new).get("from")
        if before and self._aliases.exists(before) and self._aliases.marker(before).get("state") != MOVED:
            self._aliases.mark(before, {"to": self.new, "state": MOVED, "open": self.place})
        return True

    def drop_old(self) -> str | None:
        """Delete the collection that was replaced, whether it is named itself or its alias is."""
        marker = self._aliases.marker(self.old)
        if marker.get("state") == MOVED and self._aliases.exists(marker["to"]):
            current, before = str(marker["to"]), self.old
        else:
            current, before = self.old, str(marker.get("from", ""))
        if not before:
            return None
        existed = self._aliases.exists(before)
        if existed:
            self._aliases.drop(before)
        self._aliases.mark(current, {})
        return before if existed else None

    def cancel(self) -> str | None:
        """Delete a successor that the alias does not name."""
        marker = self._aliases.marker(self.old)
        name = marker.get("to")
        if name is None or marker.get("state") == MOVED or self._aliases.marker(name).get("from"):
            return None  # in its place, or about to be: then the migration is to be finished
        if self._aliases.exists(name):
            self._aliases.drop(name)
        self._aliases.mark(self.old, {})
        return str(name)

    def close(self) -> None:
        """Close the client."""
        self._aliases.close()

    def _target(self) -> str | None:
        """What the alias names now."""
        return self._aliases.target(self._alias) if self._alias else None

    def _mark_old(self, state: str) -> None:
        self._aliases.mark(self.old, {"to": self.new, "state": state, "open": self.place})


def _kept(place: str, name: str) -> str:
    return (
        f"{place} was migrated before, and {name} is still kept: delete it first (m3-vdb migrate --store {place} "
        f"--drop-old)"
    )


def _unfinished(place: str, name: str) -> str:
    return (
        f"{place}: a migration to {name} is not finished: finish it with its model, or give it up (m3-vdb migrate "
        f"--store {place} --cancel)"
    )
