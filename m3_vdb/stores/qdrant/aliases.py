"""Aliases and markers of a Qdrant server, for ``m3_vdb.stores.succession``; markers are collection metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import QdrantClient, models

from m3_vdb.errors import StoreRequestError
from m3_vdb.stores.markers import MARKER_KEY
from m3_vdb.stores.names import Server
from m3_vdb.stores.qdrant.client import NOT_FOUND, connect, mapped_errors


def alias_target(client: QdrantClient, name: str) -> str | None:
    """The collection behind an alias; None if there is no such alias."""
    return next((one.collection_name for one in client.get_aliases().aliases if one.alias_name == name), None)


def read_marker(info: models.CollectionInfo) -> Mapping[str, Any]:
    """The marker in a server's description of a collection."""
    return (info.config.metadata or {}).get(MARKER_KEY) or {}


class QdrantAliases:
    """``Aliases`` of a Qdrant server.

    Args:
        client: connected; closed by ``close``.
        where: the server, for messages.
    """

    joint = "--"
    is_shared = True

    def __init__(self, client: QdrantClient, where: str) -> None:
        self._client = client
        self._where = where

    @classmethod
    def of(cls, place: Server, *, api_key: str | None, timeout: int) -> QdrantAliases:
        """Those of the server of a collection."""
        return cls(connect(place, api_key=api_key, timeout=timeout), f"Qdrant server {place.url}")

    def target(self, name: str) -> str | None:
        """The collection behind an alias; None if there is no such alias."""
        with mapped_errors(self._where):
            return alias_target(self._client, name)

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection; not by an alias."""
        if self.target(collection) is not None:
            return False
        with mapped_errors(self._where):
            return self._client.collection_exists(collection)

    def marker(self, collection: str) -> Mapping[str, Any]:
        """What is marked on a collection; {} if there is none."""
        try:
            with mapped_errors(self._where):
                return read_marker(self._client.get_collection(collection))
        except StoreRequestError as error:
            if error.status != NOT_FOUND:
                raise
            return {}

    def mark(self, collection: str, marker: Mapping[str, Any]) -> None:
        """Replace the marker; a server merges the keys of metadata."""
        with mapped_errors(self._where):
            self._client.update_collection(collection, metadata={MARKER_KEY: dict(marker)})

    def point(self, alias: str, collection: str) -> None:
        """Make or move an alias, in one step."""
        steps: list[models.AliasOperations] = []
        if self.target(alias) is not None:
            steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        made = models.CreateAlias(collection_name=collection, alias_name=alias)
        steps.append(models.CreateAliasOperation(create_alias=made))
        with mapped_errors(self._where):
            self._client.update_collection_aliases(steps)

    def drop(self, collection: str) -> None:
        """Delete a collection, if there is one."""
        if self.exists(collection):
            with mapped_errors(self._where):
                self._client.delete_collection(collection)

    def close(self) -> None:
        """Close the client."""
        self._client.close()
