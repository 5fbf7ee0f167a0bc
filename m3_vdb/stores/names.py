"""Names of stores (memory, a folder, or a collection on a server), and the keys of servers, which are never shown."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from m3_vdb.errors import ConfigError, StoreUrlError
from m3_vdb.notices import say_once
from m3_vdb.stores.folder import IDENTITY_FILE

Engine: TypeAlias = Literal["qdrant", "milvus"]

MEMORY: Final = "memory://"
KEY_VARIABLES: Final[dict[Engine, str]] = {"qdrant": "QDRANT_API_KEY", "milvus": "MILVUS_TOKEN"}
SUFFIXES: Final[dict[str, Engine]] = {".qdrant": "qdrant", ".milvus.db": "milvus"}
_SCHEMES: Final[dict[str, tuple[Engine, str]]] = {
    "qdrant": ("qdrant", "http"),
    "qdrant+https": ("qdrant", "https"),
    "qdrant+grpc": ("qdrant", "http"),
    "qdrant+grpcs": ("qdrant", "https"),
    "http": ("qdrant", "http"),
    "https": ("qdrant", "https"),
    "milvus": ("milvus", "http"),
    "milvus+https": ("milvus", "https"),
}
_GRPC: Final = ("qdrant+grpc", "qdrant+grpcs")
_PORTS: Final[dict[Engine, int]] = {"qdrant": 6333, "milvus": 19530}
GRPC_PORT: Final = 6334
"""Of a Qdrant server whose REST port is 6333."""
_FORMS: Final = (
    "memory://, a folder such as ./notes.qdrant or ./notes.milvus.db, or a server as qdrant://HOST:6333/COLLECTION or "
    "milvus://HOST:19530/COLLECTION (qdrant+https://, milvus+https:// for TLS; qdrant+grpc://HOST:6334/COLLECTION for "
    "gRPC, qdrant+grpcs:// with TLS)"
)


@dataclass(frozen=True, slots=True)
class Memory:
    """In this process, and gone with it."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine.

    Attributes:
        path: of the folder.
        engine: whose files it holds.
    """

    path: Path
    engine: Engine

    @property
    def files(self) -> str:
        """How the names of files about the store begin: they lie beside it."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Server:
    """A collection on a server.

    Attributes:
        engine: of the server.
        url: of the server, as its client takes it; the port is gRPC's if ``grpc``.
        database: of Milvus; "" for its default.
        collection: on the server.
        grpc: talk gRPC to a Qdrant server, at this port, and nothing else.
    """

    engine: Engine
    url: str
    database: str
    collection: str
    grpc: bool = False

    @property
    def files(self) -> str:
        """How the names of files about the store begin: they lie in the current folder."""
        return re.sub(r"[^\w.-]", "_", self.collection)


Place: TypeAlias = Memory | Folder | Server


def read_name(name: str | os.PathLike[str]) -> Place:
    """Where a store is.

    Args:
        name: a URL, or the path of a folder; a ``PathLike`` is always a path.

    Raises:
        StoreUrlError: it names neither.
    """
    if isinstance(name, os.PathLike):
        path = os.fspath(name)
        if re.match(r"[a-z][a-z0-9+]+:/", path, re.IGNORECASE):
            raise StoreUrlError(f"{masked(path)!r} is a path that was made of a URL: pass the URL as str")
        return _folder(path)
    if not isinstance(name, str):
        raise StoreUrlError(f"a store URL must be a str or a path, got {type(name).__name__}; expected {_FORMS}")
    if name == MEMORY:
        return Memory()
    if name[:5].lower() == "file:":
        return _folder(_file_path(name))
    scheme, separator, _ = name.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        if scheme.lower() not in _SCHEMES:
            raise StoreUrlError(f"unrecognised store URL {masked(name)!r}; expected {_FORMS}")
        return _server(name)
    if not name.rstrip("/").lower().endswith(tuple(SUFFIXES)):
        path = os.path.expanduser(name)
        if not os.path.isfile(os.path.join(path, IDENTITY_FILE)):
            what = " (a folder without m3.json)" if name and os.path.isdir(path) else ""
            raise StoreUrlError(f"unrecognised store URL {masked(name)!r}{what}; expected {_FORMS}")
    return _folder(name)


def _file_path(url: str) -> str:
    """The path of ``file:relative``, ``file:///absolute`` or ``file://localhost/absolute``; it has no query."""
    path = url[5:]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        path = slash + rest if host.lower() in ("", "localhost") else ""
    if not path:
        raise StoreUrlError(f"{url!r}: expected file:relative/path or file:///absolute/path")
    return unquote(path)


def _folder(path: str) -> Folder:
    folder = Path(os.path.expanduser(path))
    engines = (engine for suffix, engine in SUFFIXES.items() if folder.name.lower().endswith(suffix))
    return Folder(folder, next(engines, "qdrant"))


def _server(url: str) -> Server:
    """A collection on a server; before its name comes a proxy's prefix (Qdrant) or a database (Milvus)."""
    try:
        parts = urlsplit(url)
        given_port = parts.port
    except ValueError:  # its message may show a part of a password
        raise StoreUrlError(
            f"{masked(url)!r}: expected HOST:PORT/COLLECTION after {url.partition('://')[0]}://"
        ) from None
    engine, scheme = _SCHEMES[parts.scheme]
    milvus, grpc = engine == "milvus", parts.scheme in _GRPC
    prefix, _, name = parts.path.rstrip("/").rpartition("/")
    database = unquote(prefix[1:]) if milvus else ""
    default = GRPC_PORT if grpc else _PORTS[engine]
    port = default if given_port is None else given_port
    if parts.query or parts.fragment or "@" in parts.netloc or "@" in prefix:
        raise StoreUrlError(
            f"{masked(url)!r}: a store URL holds no user, password or options: a key goes to api_key= or "
            f"{KEY_VARIABLES[engine]} (in names write %23 for #, %3F for ?, %40 for @)"
        )
    odd = (milvus and prefix and not re.fullmatch("/[^/]+", prefix)) or (grpc and prefix)
    if not parts.hostname or not name or not port or odd:
        ways = "COLLECTION or …/DATABASE/COLLECTION" if milvus else "COLLECTION"
        raise StoreUrlError(f"{masked(url)!r}: expected {parts.scheme}://HOST:PORT/{ways}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    server = f"{scheme}://{host}:{port}"
    return Server(engine, server if milvus else server + prefix, database, unquote(name), grpc)


_LOGIN: Final = re.compile(r"^([a-z][a-z0-9+.-]+:/*).*@", re.IGNORECASE | re.DOTALL)
_AFTER_PATH: Final = re.compile(r"[?#].*", re.DOTALL)


def masked(url: str) -> str:
    """A URL as messages may show it: without what may be a key or a password.

    Args:
        url: as given, however malformed; a path comes back as it is.
    """
    if not re.match(r"[a-z][a-z0-9+.-]+:/", url, re.IGNORECASE):
        return url
    return _AFTER_PATH.sub(lambda found: f"{found[0][0]}***", _LOGIN.sub(r"\1***@", url))


def read_key(given: str | None, place: Server) -> str | None:
    """The key for a server, or None; says once if it is about to travel in the clear, not within this machine.

    Args:
        given: by the caller; None or "" takes the environment's.
        place: the server.

    Raises:
        ConfigError: it cannot be sent; the client's own message would show it.
    """
    variable = KEY_VARIABLES[place.engine]
    key = (given or os.environ.get(variable) or "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{'api_key' if given else variable} has characters that no key has: copy it once more")
    url = urlsplit(place.url)
    if key and url.scheme == "http" and not _is_loopback(url.hostname or ""):
        tls = "qdrant+grpcs" if place.grpc else f"{place.engine}+https"
        say_once(f"the key travels unencrypted to {url.netloc}: if the server has TLS, write {tls}://{url.netloc}/…")
    return key or None


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
