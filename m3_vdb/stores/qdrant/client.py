"""From the place of a collection to a client of its Qdrant server. Imported only when such a store is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from httpx import RemoteProtocolError
from pydantic import ValidationError
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_vdb.errors import StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.stores.names import KEY_VARIABLES, Server, masked, read_key
from m3_vdb.stores.refusals import TOO_MANY, from_grpc, key_advice, seconds_to_wait

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
        # The client's message may show the proxy's password.
        lacks = " (a SOCKS proxy needs: pip install 'httpx[socks]')" if isinstance(error, ImportError) else ""
        raise StoreError(
            f"{place.url}: the proxy that {' or '.join(proxies)} names cannot be used{lacks}; unset the variable, or "
            f"name the server's host in NO_PROXY"
        ) from None


def where(client: QdrantClient, collection: str) -> str:
    """How messages name a collection and its server."""
    options = client.init_options
    server = options["url"] or options["host"] or options["location"]
    if options["path"] is not None or server in (None, ":memory:"):
        return f"Qdrant collection {collection!r}"
    port = f" (gRPC at port {options['grpc_port']})" if options["prefer_grpc"] else ""
    return f"Qdrant collection {collection!r} at {masked(str(server))}{port}"


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
    if "SSL" in words and ("WRONG_VERSION" in words or "RECORD_LAYER" in words):
        return "the server speaks no TLS there: qdrant:// or http:// is without"
    if isinstance(error, RemoteProtocolError):
        return "is it a Qdrant server, and if it speaks TLS, does the URL begin with qdrant+https://?"
    return "is the server running there?"


def _refusal(error: UnexpectedResponse) -> str:
    """The server's own explanation, or the start of whatever came back."""
    try:
        return f"the server refused: {error.status_code} {json.loads(error.content)['status']['error']}"
    except (ValueError, KeyError, TypeError):
        content = repr(error.content[:200])
        if error.status_code in _NOT_QDRANT:
            return f"the answer is not Qdrant's ({error.status_code} {content}): is another server at this address?"
        return f"the server refused: {error.status_code} {content}"
