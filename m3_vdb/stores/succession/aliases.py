"""A collection that an alias names is replaced: both are collections of one engine, and the alias moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, ConfigError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.markers import BUILDING, CLOSED, MOVED
from m3_vdb.stores.options import CollectionOptions
from m3_vdb.stores.succession.base import Succession, still_kept, suffix, unfinished


class Aliases(Protocol):
    """Collections of an engine: their aliases and markers.

    Attributes:
        joint: between a collection's name and what a successor's name adds to it; of characters that names may have.
    """

    joint: str

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
        """Delete a collection, if there is one."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class AliasSuccession(Succession):
    """Of what an alias names.

    Args:
        aliases: of the engine; closed by ``close``.
        name: the collection, by its own name or by an alias.
        identity: of the new model.
        alias: the alias, for a collection named directly.
        where: the engine, for messages.
        url: what programs open to use a name.
        opening: opens the collection of a name: (name, identity or None, create, options, exact).
    """

    def __init__(
        self,
        aliases: Aliases,
        name: str,
        identity: ModelIdentity | None,
        *,
        alias: str | None,
        where: str,
        url: Callable[[str], str],
        opening: Callable[..., VectorStore],
    ) -> None:
        self._aliases = aliases
        self._url = url
        self._open = opening
        target = aliases.target(name)
        if target is not None and alias not in (None, name):
            raise ConfigError(f"alias {alias!r}: {name!r} is an alias already, and it moves; leave it out")
        if target is None and not aliases.exists(name):
            raise CollectionNotFoundError(f"there is no collection {name!r} at {where}: check the name")
        self._alias = name if target is not None else alias
        self.old = target or name
        joint = aliases.joint
        first = self.old.partition(f"{joint}m3{joint[0]}")[0]
        self.new = "" if identity is None else first + joint + suffix(identity, joint[0])
        self.place = url(self._alias or self.old)

    def open_old(self) -> VectorStore:
        """The collection by its own name."""
        return self._open(self.old, create=False)

    def check(self, identity: ModelIdentity) -> None:
        """Check names, and that no other migration is unfinished, and none before is still kept."""
        name, marker = self._alias, self._aliases.marker(self.old)
        if name is None:
            example = f"{self.old}{self._aliases.joint[0]}live"
            raise ConfigError(
                f"{self.old!r} is a collection's own name, and no alias can have it: pass the name that programs open "
                f"from then on (--alias {example}), after the switch {self._url(example)}"
            )
        behind = self._aliases.target(name)
        if behind not in (None, self.old, self.new) or (behind is None and self._aliases.exists(name)):
            what = "a collection" if behind is None else f"an alias of {behind!r}"
            raise ConfigError(f"alias {name!r}: that is {what} already; pass another name")
        if (before := marker.get("from")) and self._aliases.exists(before):
            raise still_kept(self.place, before)
        if marker.get("state") == MOVED:
            raise ConfigError(f"{self.old!r} was replaced by {marker['to']!r} already: open {marker.get('open')}")
        if marker.get("to") not in (None, self.new):
            raise unfinished(self.place, marker["to"])
        if marker.get("to") is None and self._aliases.exists(self.new):
            raise ConfigError(f"there is a collection {self.new!r} already, of no migration: delete it, or use it")

    def begin(self) -> None:
        """Mark the old one; writes to it are acknowledged (again, after a process that was killed)."""
        self._mark_old(BUILDING)

    def open_new(self, identity: ModelIdentity, options: CollectionOptions, *, exact: bool | None) -> VectorStore:
        """The collection beside it."""
        return self._open(self.new, identity, options=options, exact=exact)

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
        self._aliases.drop(before)
        self._aliases.mark(current, {})
        return before if existed else None

    def cancel(self) -> str | None:
        """Delete a successor that the alias does not name."""
        marker = self._aliases.marker(self.old)
        name = marker.get("to")
        if name is None or marker.get("state") == MOVED or self._aliases.marker(name).get("from"):
            return None  # in its place, or about to be: then the migration is to be finished
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
