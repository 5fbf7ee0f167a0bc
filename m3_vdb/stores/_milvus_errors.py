"""The one place where errors of pymilvus become errors of m3-vdb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from pymilvus.exceptions import (
    ConnectError,
    ConnectionConfigException,
    ConnectionNotExistException,
    ErrorCode,
    MilvusException,
    MilvusUnavailableException,
)

from m3_vdb.errors import StoreConnectionError, StoreRequestError

_CONNECTION: Final = (
    ConnectError,
    ConnectionConfigException,
    ConnectionNotExistException,
    MilvusUnavailableException,
)
_CONNECT_FAILED: Final = 2
"""pymilvus' own code for a server that it cannot reach (``pymilvus.client.types.Status``)."""
_NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Run calls of pymilvus; ``where`` names the collection in messages.

    Raises:
        StoreConnectionError: the server did not answer, or not in time.
        StoreRequestError: the server, or pymilvus in its place, refused; its own words are in the message.
    """
    try:
        yield
    except MilvusException as error:
        code = error.code() if callable(error.code) else error.code  # pymilvus 2 keeps the method of gRPC's error
        if isinstance(error, _CONNECTION) or code == _CONNECT_FAILED or code in _NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({error.message}); is the server running there?") from error
        status = 429 if code == ErrorCode.RATE_LIMIT else None
        raise StoreRequestError(f"{where}: the server refused: {code} {error.message}", status=status) from error
    except grpc.FutureTimeoutError as error:
        raise StoreConnectionError(f"{where}: no answer in time; is the server running there?") from error
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else None
        if code in _NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({code.name}); is the server running there?") from error
        raise StoreRequestError(f"{where}: the server refused: {error}") from error
