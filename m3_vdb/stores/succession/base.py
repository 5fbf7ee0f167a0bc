"""What every migration of a collection can do; the ways are ``folder`` and ``aliases``."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from typing import Any

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.options import CollectionOptions


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

    @abstractmethod
    def begun(self, stop: threading.Event) -> Any:  # noqa: ANN401 - a context manager
        """While the successor is made: this process alone does so, as far as the store can tell.

        Args:
            stop: set when another process has taken the migration over; leaving the context then raises.

        Raises:
            ConfigError: another process does so already, or has taken it over.
        """

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


def suffix(identity: ModelIdentity, joint: str = "-") -> str:
    """The end of a successor's name, of letters, digits and the joint alone."""
    return f"m3{joint}{re.sub(r'[^0-9A-Za-z]', joint, identity.fingerprint[:8])}"


def still_kept(place: str, name: str) -> ConfigError:
    """The error for a place whose former collection was not dropped."""
    return ConfigError(
        f"{place} was migrated before, and {name} is still kept: delete it first (m3-vdb migrate --store {place} "
        f"--drop-old)"
    )


def unfinished(place: str, name: str) -> ConfigError:
    """The error for a place that another model is about to take."""
    return ConfigError(
        f"{place}: a migration to {name} is not finished: finish it with its model, or give it up (m3-vdb migrate "
        f"--store {place} --cancel)"
    )
