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
from m3_vdb.stores._folder import advice
from m3_vdb.stores._names import KEY_VARIABLES
from m3_vdb.stores._refusals import NO_ANSWER, TOO_MANY, http_status, key_advice

_KEY_VARIABLE: Final = KEY_VARIABLES["milvus"]

_CONNECTION: Final = (
    ConnectError,
    ConnectionConfigException,
    ConnectionNotExistException,
    MilvusUnavailableException,
)
_CONNECT_FAILED: Final = 2
"""pymilvus' own code for a server that it cannot reach (``pymilvus.client.types.Status``)."""
_STATUS: Final = {
    4: TOO_MANY,  # too many concurrent requests
    int(ErrorCode.RATE_LIMIT): TOO_MANY,
    12: 503,  # resource insufficient
    1400: 401,  # privilege not authenticated
    1401: 403,  # privilege not permitted
    int(ErrorCode.COLLECTION_NOT_FOUND): 404,
    1100: 400,  # parameter invalid
}
"""HTTP's words for codes of a Milvus server (pkg/util/merr/errors.go); 1 is also pymilvus' own default."""


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
        if isinstance(error, _CONNECTION) or code == _CONNECT_FAILED or code in NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({error.message}); is the server running there?") from error
        status = _status(error, code)
        words = f"{where}: the server refused: {code} {error.message}{advice(error.message)}"
        raise StoreRequestError(f"{words}{key_advice(status, _KEY_VARIABLE)}", status=status) from error
    except grpc.FutureTimeoutError as error:
        raise StoreConnectionError(f"{where}: no answer in time; is the server running there?") from error
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else None
        if code in NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({code.name}); is the server running there?") from error
        status = http_status(code, str(error))
        words = f"{where}: the server refused: {error}{key_advice(status, _KEY_VARIABLE)}"
        raise StoreRequestError(words, status=status) from error


def _status(error: MilvusException, code: object) -> int | None:
    """The HTTP status that a refusal would have; a Milvus server says no time after which to ask again."""
    if isinstance(code, grpc.StatusCode):
        return http_status(code, error.message)
    if isinstance(code, int) and code in _STATUS:
        return _STATUS[code]
    if getattr(error, "retriable", False):  # pymilvus 3 hands on what the server says of its own error
        return 503
    return 400 if getattr(error, "is_input_error", False) else None
