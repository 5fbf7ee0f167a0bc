"""A collection that an alias names is replaced: both are collections of one engine, and the alias moves."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, ConfigError, StoreError
from m3_vdb.notices import say_once
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.markers import BUILDING, CLOSED, MOVED
from m3_vdb.stores.options import CollectionOptions
from m3_vdb.stores.succession.base import Succession, still_kept, suffix, unfinished

MACHINE: Final = f"{socket.gethostname()} {os.getuid() if hasattr(os, 'getuid') else 0}"
"""Where a lock of files keeps two migrations of a place apart (``m3_vdb.ingest.migrating``)."""
BEAT_SECONDS: Final = 15
"""Between two signs of life of a migration."""
SILENT_SECONDS: Final = 40
"""Without one, the process that another machine's mark names is taken for dead. No clocks are compared."""


class Aliases(Protocol):
    """Collections of an engine: their aliases and markers.

    Attributes:
        joint: between a collection's name and what a successor's name adds to it; of characters that names may have.
        is_shared: other processes may use them at the same time.
    """

    joint: str
    is_shared: bool

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
        self._marking = threading.RLock()
        self._claim: Mapping[str, Any] = {}
        self._state = BUILDING
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

    @contextmanager
    def begun(self, stop: threading.Event) -> Iterator[None]:
        """The old one is marked, again and again; writes to it are acknowledged (again, after one that was killed)."""
        self.claim()
        ended, lost = threading.Event(), list[ConfigError]()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                try:
                    self.beat()
                except ConfigError as error:
                    lost.append(error)
                    stop.set()
                    return
                except StoreError:
                    continue  # the work itself will meet it, or not

        thread = threading.Thread(target=beat, name="m3-vdb migration", daemon=True)
        if self._aliases.is_shared:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()
        if lost:
            raise lost[0]
        if self._state != MOVED:
            self._mark_old(BUILDING, release=True)

    def claim(self) -> None:
        """Mark the old one as being migrated by this process.

        Raises:
            ConfigError: another machine is at it: its mark changes while it is looked at.
        """
        found = self._claimed()
        if found and found.get("machine") != MACHINE:  # on this one a lock says so
            say_once(
                f"{self.place}: {_name(found)} has begun to migrate it; looking for {SILENT_SECONDS} s if it lives"
            )
            time.sleep(SILENT_SECONDS)
            if self._claimed() not in ({}, found):
                raise ConfigError(f"{self.place} is being migrated by {_name(found)}: wait for it")
        self._claim = {"machine": MACHINE, "process": os.getpid(), "run": uuid.uuid4().hex, "beat": 0}
        self._state = BUILDING
        self._aliases.mark(self.old, self._marker())

    def beat(self) -> None:
        """Change the mark, as a sign of life.

        Raises:
            ConfigError: another machine has taken the migration over, or ended it.
        """
        with self._marking:
            if self._state != MOVED:
                self._claim = {**self._claim, "beat": self._claim["beat"] + 1}
                self._mark_old(self._state)

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
        self._check_claim()
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

    def _mark_old(self, state: str, *, release: bool = False) -> None:
        """Replace the mark of the old one.

        Args:
            state: of the migration.
            release: another machine may go on with it.

        Raises:
            ConfigError: another machine has taken the migration over, or ended it.
        """
        with self._marking:
            self._check_claim()
            self._state, self._claim = state, {} if release else self._claim
            self._aliases.mark(self.old, self._marker())

    def _check_claim(self) -> None:
        """Check that it is this process that migrates the old one, if it has begun to.

        Raises:
            ConfigError: it is not, any more.
        """
        if self._claim and (found := self._claimed()).get("run") != self._claim["run"]:
            who = f"{_name(found)} has taken the migration over" if found else "the migration was ended elsewhere"
            raise ConfigError(f"{self.place}: {who}: run one at a time")

    def _claimed(self) -> Mapping[str, Any]:
        """Who migrates the old one."""
        return self._aliases.marker(self.old).get("by") or {}

    def _marker(self) -> Mapping[str, Any]:
        by = {"by": dict(self._claim)} if self._claim and self._state != MOVED else {}
        return {"to": self.new, "state": self._state, "open": self.place, **by}


def _name(claim: Mapping[str, Any]) -> str:
    return f"process {claim.get('process')} on {str(claim.get('machine')).partition(' ')[0]}"
