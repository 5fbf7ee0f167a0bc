"""Whether the vectors of a REST client may travel over gRPC, where that costs less: found out once.

gRPC is used where its port is known, answers within a short time, takes the key, and belongs to the same server. In all
other cases, and as soon as it stops working, REST carries everything; ``Wire.why`` says the reason.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import certifi
import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from qdrant_client import QdrantClient
from qdrant_client import grpc as q
from qdrant_client.common.client_exceptions import QdrantException

from m3_vdb.notices import say_once
from m3_vdb.stores.points import Point
from m3_vdb.stores.qdrant.calls import GrpcCalls, LocalCalls, QdrantCalls, RestCalls, is_local
from m3_vdb.stores.qdrant.client import peers, where
from m3_vdb.stores.qdrant.requests import Request
from m3_vdb.stores.refusals import TOO_MANY, http_status, untrusted

Answer = TypeVar("Answer")
_PROBE_SECONDS: Final = 2
"""A port behind a firewall does not answer at all."""
_THE_SAME_OVER_REST: Final = (400, 404, 409, TOO_MANY)
"""Refusals of the server itself, whichever way it was asked; after any other failure REST may do better."""
_LARGE: Final = 8192
"""Numbers of a vector in a query from which on gRPC takes less of the client's time than REST (docs/log.md)."""
_MANY: Final = 10
"""Large queries after which a client that only searches asks for gRPC: a single one is not worth the wait."""
_grpc_of: int | None = None
"""The process that has used gRPC beside REST: it does not survive a fork, so children stay with REST."""


class Wire:
    """What carries the vectors of one client.

    Args:
        client: the connection.
        why_rest: why gRPC is not tried; "" tries it, at the client's port of gRPC. Means nothing for a client that
            speaks gRPC anyway, or keeps its collections in this process.

    Attributes:
        why: what is used and why, in one line, as far as it is known.
    """

    def __init__(self, client: QdrantClient, why_rest: str) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._by_grpc: bool | None = False if why_rest else None
        self.why = f"REST ({why_rest})"
        if client.init_options.get("prefer_grpc"):
            self.why = "gRPC (as asked for)"

    @property
    def is_known(self) -> bool:
        """Whether it has been found out."""
        return self._by_grpc is not None

    def calls(self, collection: str) -> QdrantCalls:
        """The calls for a collection."""
        if is_local(self._client):
            return LocalCalls(self._client, collection)
        if self._client.init_options["prefer_grpc"]:
            return GrpcCalls(self._client, collection)
        return RestCalls(self._client, collection) if self._by_grpc is False else EitherCalls(self, collection)

    def is_grpc(self, collection: str) -> bool:
        """Whether gRPC carries vectors; the first call finds it out.

        Args:
            collection: exists.
        """
        with self._lock:
            if self._by_grpc is None:
                fault = self._fault(collection)
                self._by_grpc = not fault
                port = self._client.init_options["grpc_port"]
                self.why = (fault and f"REST ({fault})") or f"gRPC for vectors (port {port} is of the same server)"
            return self._by_grpc

    def told(self, collection: str) -> str:
        """``why``, once it is known.

        Args:
            collection: exists.
        """
        if not self._client.init_options["prefer_grpc"]:
            self.is_grpc(collection)
        return self.why

    def lose_grpc(self, error: Exception) -> None:
        """REST has done what gRPC could not, and does it from now on."""
        with self._lock:
            self._by_grpc, self.why = False, f"REST (gRPC stopped working: {_words(error)})"

    def _fault(self, collection: str) -> str:
        """Why gRPC cannot be used; "" if it can."""
        global _grpc_of  # noqa: PLW0603 - a fact about the process
        if _grpc_of not in (None, os.getpid()):
            return "this process was forked from one that spoke gRPC, which does not survive that"
        options = self._client.init_options
        port, url = options["grpc_port"], urlsplit(str(options["url"] or options["location"]))
        if url.scheme == "https" and (tls := _tls_fault(url.hostname or "", port)):
            return f"no gRPC at port {port}: {tls}"
        _grpc_of = os.getpid()
        request = q.CollectionClusterInfoRequest(collection_name=collection)
        try:
            found = self._client.grpc_collections.CollectionClusterInfo(request, timeout=_PROBE_SECONDS)
        except (grpc.RpcError, QdrantException) as error:
            if not isinstance(error, grpc.Call) or error.code() != grpc.StatusCode.NOT_FOUND:
                return f"no gRPC at port {port}: {_words(error)}"
            by_grpc = set[int]()
        else:
            by_grpc = {found.peer_id, *(shard.peer_id for shard in found.remote_shards)}
        by_rest = peers(self._client, collection)
        if by_rest is None:
            return f"it does not tell whether gRPC at port {port} is of the same server"
        if by_rest & by_grpc:
            return ""
        fault = f"gRPC at port {port} is of another server"
        say_once(f"{where(self._client, collection)}: {fault}, so everything goes over REST")
        return fault


class EitherCalls(RestCalls):
    """Over REST, but what holds vectors over gRPC as long as that works.

    Args:
        wire: of the client.
        collection: its name.
    """

    def __init__(self, wire: Wire, collection: str) -> None:
        super().__init__(wire._client, collection)
        self._wire = wire
        self._grpc = GrpcCalls(wire._client, collection)
        self._large = 0

    def write(self, points: Sequence[Point], *, max_items: int | None) -> None:
        """See ``QdrantCalls``."""
        self._either(
            lambda: self._grpc.write(points, max_items=max_items),
            lambda: super(EitherCalls, self).write(points, max_items=max_items),
        )

    def retrieve(self, ids: Sequence[str], vectors: Sequence[str]) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        if not vectors:
            return super().retrieve(ids, vectors)
        return self._either(
            lambda: self._grpc.retrieve(ids, vectors), lambda: super(EitherCalls, self).retrieve(ids, vectors)
        )

    def query(self, request: Request) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        if not self._is_large(request):
            return super().query(request)
        return self._either(lambda: self._grpc.query(request), lambda: super(EitherCalls, self).query(request))

    def query_batch(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """See ``QdrantCalls``."""
        if not any(self._is_large(request) for request in requests):
            return super().query_batch(requests)
        return self._either(
            lambda: self._grpc.query_batch(requests), lambda: super(EitherCalls, self).query_batch(requests)
        )

    def _is_large(self, request: Request) -> bool:
        """Whether gRPC is worth while, and worth asking for."""
        vectors = (one.get("query") for one in (request, *(request.get("prefetch") or ())))
        if all(getattr(vector, "size", 0) < _LARGE for vector in vectors):
            return False
        self._large += 1
        return self._wire.is_known or self._large > _MANY

    def _either(self, over_grpc: Callable[[], Answer], over_rest: Callable[[], Answer]) -> Answer:
        if not self._wire.is_grpc(self._collection):
            return over_rest()
        try:
            return over_grpc()
        except (grpc.RpcError, QdrantException) as error:
            if _status(error) in _THE_SAME_OVER_REST:
                raise
            failure = error
        answer = over_rest()  # where this fails, too, the server is away, and gRPC may come back with it
        self._wire.lose_grpc(failure)
        return answer


def _tls_fault(host: str, port: int) -> str:
    """Why TLS to a port fails, with the authorities that gRPC trusts; "" if it does not.

    gRPC itself would print its errors, and REST may well go by a certificate that gRPC does not know.
    """
    authorities = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH") or certifi.where()
    try:
        context = ssl.create_default_context(cafile=authorities)
        with socket.create_connection((host, port), _PROBE_SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"{error.verify_message}; {untrusted('GRPC_DEFAULT_SSL_ROOTS_FILE_PATH')}"
    except OSError as error:
        return str(error)
    return ""


def _status(error: Exception) -> int | None:
    """That of a refusal over gRPC; the client's own exception is about a rate."""
    return http_status(error.code(), _words(error)) if isinstance(error, grpc.Call) else TOO_MANY


def _words(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
