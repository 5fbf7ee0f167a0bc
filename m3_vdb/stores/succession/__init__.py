"""A collection and its successor, of another model: made beside it, and put in its place in one step.

On a server the place is an alias. A store that was opened by an alias stays with the collection that it found, so an
old model never meets new vectors; what the collection's marker says is asked after each write, before the write is
acknowledged (``check_place``). A file of milvus-lite is such a server of one process, with an alias of a fixed name.
The place of a folder is its path: ``m3.json`` there names model and files, and is replaced as a whole. In memory there
is no such place.

A marker is ``{"to": successor, "state": "building" | "closed" | "moved", "open": name to open}`` on the old collection
and ``{"from": old collection}`` on the successor; {} is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError
from m3_vdb.imports import log_handlers_kept, no_usage_data
from m3_vdb.stores import open_store
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.names import Folder, Memory, Server, read_name
from m3_vdb.stores.succession.aliases import Aliases, AliasSuccession
from m3_vdb.stores.succession.base import Succession
from m3_vdb.stores.succession.folder import FolderSuccession

__all__ = ["AliasSuccession", "FolderSuccession", "Succession", "succession"]


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
        path = place.path.absolute()
        if alias is not None:
            raise ConfigError(f"alias {alias!r}: a folder needs none, its path stays; leave it out")
        return _in_file(path, identity) if place.engine == "milvus" else FolderSuccession(path, identity)
    base = url.rstrip("/").rpartition("/")[0]

    def named(name: str) -> str:
        return f"{base}/{quote(name, safe='')}"

    def opening(name: str, identity: ModelIdentity | None = None, **options: Any) -> VectorStore:  # noqa: ANN401
        return open_store(named(name), identity, api_key=api_key, timeout=timeout, **options)

    aliases = _aliases(place, api_key=api_key, timeout=timeout)
    with _closed_on_error(aliases):
        return AliasSuccession(aliases, place.collection, identity, alias=alias, where=base, url=named, opening=opening)


def _aliases(place: Server, *, api_key: str | None, timeout: int) -> Aliases:
    if place.engine == "milvus":
        with log_handlers_kept():
            from m3_vdb.stores.milvus.aliases import MilvusAliases  # noqa: PLC0415 - optional
        return MilvusAliases.of(place, api_key=api_key, timeout=timeout)
    with no_usage_data():
        from m3_vdb.stores.qdrant.aliases import QdrantAliases  # noqa: PLC0415 - optional
    return QdrantAliases.of(place, api_key=api_key, timeout=timeout)


def _in_file(path: Path, identity: ModelIdentity | None) -> AliasSuccession:
    """Of a file of milvus-lite, which stays open to this process alone until the succession is closed."""
    with log_handlers_kept():
        from m3_vdb.stores.milvus.aliases import FileAliases  # noqa: PLC0415 - optional
    aliases = FileAliases(path)
    with _closed_on_error(aliases):
        name = aliases.name()
        return AliasSuccession(
            aliases,
            name,
            identity,
            alias=aliases.alias,
            where=str(path),
            url=lambda _: str(path),
            opening=aliases.open,
        )


@contextmanager
def _closed_on_error(aliases: Aliases) -> Iterator[None]:
    try:
        yield
    except BaseException:
        aliases.close()
        raise
