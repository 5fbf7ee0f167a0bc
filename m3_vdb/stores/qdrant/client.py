"""From the place of a collection to a client of its Qdrant server. Imported only when such a store is opened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlsplit

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from httpx import ByteStream, ReadError, RemoteProtocolError, Request, Response
from pydantic import ValidationError
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_vdb.errors import ConfigError, StoreConnectionError, StoreError, StoreRequestError, StoreUrlError
from m3_vdb.stores.names import GRPC_PORT, KEY_VARIABLES, Server, masked, read_key
from m3_vdb.stores.refusals import TOO_MANY, from_grpc, key_advice, seconds_to_wait, untrusted

REST_PORT: Final = 6333
NOT_FOUND: Final = 404
_POLL_SECONDS: Final = 0.2
_REST_SECONDS: Final = 3
"""A REST port behind a firewall does not answer at all, and gRPC need not wait for it."""
_PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy")


def connect(
    place: Server, *, api_key: str | None, timeout: int, prefer_grpc: bool = False, grpc_port: int | None = None
) -> QdrantClient:
    """A client; nothing is sent yet.

    Args:
        place: the server.
        api_key: the key; None takes the environment's.
        timeout: seconds per request.
        prefer_grpc: talk gRPC; a URL for gRPC needs no word of it.
        grpc_port: the port for that, if the URL says REST's; None for 6334 beside 6333.

    Raises:
        ConfigError: the key cannot be sent, or gRPC's port is not known.
        StoreError: the environment names a proxy that cannot be used.
    """
    key = read_key(api_key, place)
    port = urlsplit(place.url).port or REST_PORT
    if place.grpc and grpc_port is not None:
        raise ConfigError(f"grpc_port={grpc_port}: the store URL is one for gRPC, and names its port ({port}) already")
    if prefer_grpc and not place.grpc and grpc_port is None and port != REST_PORT:
        scheme = "qdrant+grpcs" if place.url.startswith("https:") else "qdrant+grpc"
        raise ConfigError(
            f"gRPC with {place.url}: {port} is REST's port, and that of gRPC is not known: write it in the store URL, "
            f"{scheme}://HOST:PORT/{place.collection} (in Python also grpc_port=)"
        )
    try:
        client = QdrantClient(
            place.url,
            headers={"api-key": key} if key else None,  # as api_key= it would warn, on loopback too
            prefer_grpc=prefer_grpc or place.grpc,
            grpc_port=grpc_port or (port if place.grpc else GRPC_PORT),
            timeout=timeout,
            check_compatibility=False,  # it would warn on a terminal; what matters is checked when a collection opens
        )
        client.http.client.add_middleware(_send)
        return client
    except (ImportError, ValueError) as error:
        proxies = sorted(name for name in os.environ if name.lower() in _PROXIES)
        if not proxies:
            raise
        # The client's message may show the proxy's password.
        lacks = " (a SOCKS proxy needs: pip install 'httpx[socks]')" if isinstance(error, ImportError) else ""
        raise StoreError(
            f"{place.url}: the proxy that {' or '.join(proxies)} names cannot be used{lacks}; unset the variable, or "
            f"name the server's host in NO_PROXY"
        ) from None


def why_rest(place: Server, *, prefer_grpc: bool | None, grpc_port: int | None) -> str:
    """Why gRPC is not tried beside REST; "" if it is (``wire.py``). The arguments are those of ``open_store``."""
    if prefer_grpc is not None:
        return "as asked for"
    if grpc_port is None and urlsplit(place.url).port not in (None, REST_PORT):
        return "the port of gRPC is not known: name it in the URL, qdrant+grpc://HOST:PORT/…, or by grpc_port="
    return ""


def _send(request: Request, send: Callable[[Request], Response]) -> Response:
    """Send a request, and free an answer of megabytes when it has been read.

    httpx lets an answer's stream refer to the answer, so it would stay until a full garbage collection.
    """
    response = send(request)
    response.stream = ByteStream(b"")
    return response


@contextmanager
def one_server(client: QdrantClient, place: Server, *, api_key: str | None) -> Iterator[None]:
    """Open a collection inside the ``with`` block, and check that the URL's REST port and gRPC's are of one server.

    Each server has a number of its own, which its cluster knows (``collection_cluster_info``; without a cluster, too).
    Where REST does not answer, or a key may not ask, there is nothing to compare, and gRPC alone decides.

    Args:
        client: speaks gRPC, or else nothing is checked.
        place: where REST is.
        api_key: as for ``connect``.

    Raises:
        StoreUrlError: they are of two servers.
    """
    if place.grpc or not client.init_options["prefer_grpc"]:
        yield
        return
    rest = connect(place, api_key=api_key, timeout=_REST_SECONDS)
    port = client.init_options["grpc_port"]
    two = StoreUrlError(
        f"REST at {masked(place.url)} and gRPC at port {port} are two servers: name the gRPC port of the one you mean "
        f"in the store URL, qdrant+grpc://HOST:PORT/{place.collection}"
    )
    try:
        same = _are_same(client, rest, place.collection)
        if same is False:
            raise two
        yield
        until = time.monotonic() + _REST_SECONDS  # another node of a cluster may hear later of a new collection
        while same is None and not (same := _are_same(client, rest, place.collection)):
            if time.monotonic() > until:
                raise StoreUrlError(f"{two} (the empty collection just made over gRPC stays there)")
            same = None
            time.sleep(_POLL_SECONDS)
    finally:
        rest.close()


def _are_same(client: QdrantClient, rest: QdrantClient, collection: str) -> bool | None:
    """Whether two clients ask one server; None if neither knows the collection. True where one of them cannot tell."""
    by_rest = peers(rest, collection)
    by_grpc = None if by_rest is None else peers(client, collection)
    if by_rest is None or by_grpc is None or by_rest & by_grpc:
        return True
    return False if by_rest or by_grpc else None


def peers(client: QdrantClient, collection: str) -> set[int] | None:
    """The servers that keep a collection, as the one that is asked sees them; empty if there is none; None: no answer.

    With several nodes behind one address the next answer may be another node's; each knows the others.
    """
    try:
        with mapped_errors(""):
            info = client.collection_cluster_info(collection)
    except StoreRequestError as error:
        return set() if error.status == NOT_FOUND else None
    except StoreError:
        return None
    return {info.peer_id, *(shard.peer_id for shard in info.remote_shards)}


def where(client: QdrantClient, collection: str) -> str:
    """How messages name a collection and its server."""
    options = client.init_options
    server = options["url"] or options["host"] or options["location"]
    if options["path"] is not None or server in (None, ":memory:"):
        return f"Qdrant collection {collection!r}"
    grpc_port = f" at port {options['grpc_port']}" if urlsplit(str(server)).port != options["grpc_port"] else ""
    by_grpc = f" (gRPC{grpc_port})" if options["prefer_grpc"] else ""
    return f"Qdrant collection {collection!r} at {masked(str(server))}{by_grpc}"


def store_url(client: QdrantClient, collection: str) -> str:
    """The URL that opens a collection on the same server in the same way; "" for a client that was made without one."""
    options = client.init_options
    given = str(options["url"] or options["location"])
    scheme, found, rest = given.partition("://")
    if not found:
        return ""
    tls = scheme == "https"
    if options["prefer_grpc"] and urlsplit(given).port == options["grpc_port"]:
        ours = "qdrant+grpcs" if tls else "qdrant+grpc"
    else:
        ours = "qdrant+https" if tls else "qdrant"
    return f"{ours}://{rest}/{quote(collection, safe='')}"


_KEY_VARIABLE: Final = KEY_VARIABLES["qdrant"]
_NOT_QDRANT: Final = (301, 302, 307, 308, 400, 404, 405, 501)
"""What other servers answer to Qdrant's requests; a proxy before Qdrant answers with others."""
_DATE: Final = "Retry-After header value is not a valid integer: "
"""What qdrant-client makes of a date in that header, of an answer 429."""


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Run calls of qdrant-client; ``where`` names the collection in messages.

    Raises:
        StoreConnectionError: the server did not answer, or not in time.
        StoreRequestError: the server refused; its message is part of ours.
        StoreError: the client is closed.
    """
    try:
        yield
    except ResponseHandlingException as error:
        if isinstance(error.source, ValidationError):  # it answered, but not as Qdrant does
            raise StoreRequestError(f"{where}: the answer is not Qdrant's: {error.source}") from error
        words = str(error.source) or type(error.source).__name__
        raise StoreConnectionError(f"{where}: no answer ({words}); {_check(error.source, words)}") from error
    except UnexpectedResponse as error:
        words = f"{where}: {_refusal(error)}{key_advice(error.status_code, _KEY_VARIABLE)}"
        wait = seconds_to_wait(error.headers.get("Retry-After"))
        raise StoreRequestError(words, status=error.status_code, retry_after=wait) from error
    except ResourceExhaustedResponse as error:
        words = f"{where}: the server refused: {error}"
        raise StoreRequestError(words, status=TOO_MANY, retry_after=float(error.retry_after_s)) from error
    except QdrantException as error:
        _, found, date = str(error).partition(_DATE)
        status, wait = (TOO_MANY, seconds_to_wait(date)) if found else (None, None)
        raise StoreRequestError(f"{where}: the server refused: {error}", status=status, retry_after=wait) from error
    except grpc.RpcError as error:
        raise from_grpc(error, where, _KEY_VARIABLE) from error
    except RuntimeError as error:  # nothing narrower is raised for a closed client
        if "closed" not in str(error):
            raise
        raise StoreError(f"the {where} is closed; open it again") from error


def _check(error: Exception, words: str) -> str:
    """What to look at when there was no answer."""
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return untrusted("SSL_CERT_FILE")
    if "SSL" in words and ("WRONG_VERSION" in words or "RECORD_LAYER" in words):
        return "the server speaks no TLS there: qdrant:// is without"
    if isinstance(error, RemoteProtocolError):
        return "is it a Qdrant server, and if it speaks TLS, does the URL begin with qdrant+https://?"
    if isinstance(error, ReadError):  # it hung up: killed, or a TLS server that was not spoken to in TLS
        return "is the server running there, and if it speaks TLS, does the URL begin with qdrant+https://?"
    return "is the server running there?"


def _refusal(error: UnexpectedResponse) -> str:
    """The server's own explanation, or the start of whatever came back."""
    try:
        return f"the server refused: {error.status_code} {json.loads(error.content)['status']['error']}"
    except (ValueError, KeyError, TypeError):
        content = error.content[:200].decode(errors="replace")
        if error.status_code in _NOT_QDRANT:
            return f"the answer is not Qdrant's ({error.status_code} {content!r}): is another server at this address?"
        return f"the server refused: {error.status_code} {content}"
