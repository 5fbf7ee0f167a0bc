"""A store that was opened by an alias follows it: to another collection of the same model, never to one of another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.notices import say_once

FOLLOW_SECONDS: Final = 1.0
"""How often at most a server is asked."""


class Followed:
    """The collection behind a name.

    Args:
        name: as given.
        target: the collection behind it, if it is an alias.

    Attributes:
        collection: by its own name.
        asked: when the alias was asked for, on the clock ``time.monotonic``.
    """

    def __init__(self, name: str, target: str | None) -> None:
        self.collection = target or name
        self.asked = time.monotonic()
        self._is_alias = target is not None

    def has_moved(
        self,
        target: Callable[[], str | None],
        metadata: Callable[[str], Mapping[str, Any] | None],
        identity: ModelIdentity,
        where: str,
    ) -> bool:
        """Ask, if it is time, and go to the collection that the alias names now, if that is of the same model.

        Args:
            target: what the alias names; None if that is not known.
            metadata: the identity stored with a collection.
            identity: of the store's model.
            where: the store, for messages.
        """
        now = time.monotonic()
        if not self._is_alias or now < self.asked + FOLLOW_SECONDS:
            return False
        self.asked = now
        found = target()
        if found is None or found == self.collection:
            return False
        stored = metadata(found) or {}
        if stored.get("fingerprint") != identity.fingerprint:
            say_once(
                f"{where} is a collection of the model {stored.get('name')!r} now; this store stays with "
                f"{self.collection!r}, until it is opened again with that model"
            )
            return False
        self.collection = found
        return True
