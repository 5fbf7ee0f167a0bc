"""From the place of a collection to a client of its Qdrant server. Imported only when such a store is opened."""

from __future__ import annotations

import os
from typing import Final

from qdrant_client import QdrantClient

from m3_vdb.errors import StoreError
from m3_vdb.stores._names import KEY_VARIABLES, Server
from m3_vdb.stores._secrets import masked, read_key

_PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy")


def connect(
    place: Server, *, api_key: str | None, timeout: int, prefer_grpc: bool = False, grpc_port: int = 6334
) -> QdrantClient:
    """A client; nothing is sent yet.

    Raises:
        ConfigError: the key cannot be sent.
        StoreError: the environment names a proxy that cannot be used.
    """
    key = read_key(api_key, KEY_VARIABLES[place.engine])
    try:
        return QdrantClient(
            place.url,
            api_key=key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=timeout,
            check_compatibility=False,  # it would warn on a terminal; what matters is checked when a collection opens
        )
    except (ImportError, ValueError) as error:
        proxies = sorted(name for name in os.environ if name.lower() in _PROXIES)
        if not proxies:
            raise
        # The client's own words may show the proxy's password.
        lacks = " (a SOCKS proxy needs: pip install 'httpx[socks]')" if isinstance(error, ImportError) else ""
        raise StoreError(
            f"{place.url}: the proxy that {' or '.join(proxies)} names cannot be used{lacks}; unset the variable, or "
            f"name the server's host in NO_PROXY"
        ) from None


def where(client: QdrantClient, collection: str) -> str:
    """A collection and its server, in words."""
    options = client.init_options
    server = options["url"] or options["host"] or options["location"]
    if options["path"] is not None or server in (None, ":memory:"):
        return f"Qdrant collection {collection!r}"
    port = f" (gRPC at port {options['grpc_port']})" if options["prefer_grpc"] else ""
    return f"Qdrant collection {collection!r} at {masked(str(server))}{port}"
