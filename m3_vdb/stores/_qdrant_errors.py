"""The one place where errors of qdrant-client become errors of m3-vdb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_vdb.errors import StoreConnectionError, StoreRequestError

_NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Run calls of qdrant-client; ``where`` names the collection in messages.

    Raises:
        StoreConnectionError: the server did not answer, or not in time.
        StoreRequestError: the server refused; its own words are in the message.
    """
    try:
        yield
    except ResponseHandlingException as error:
        if isinstance(error.source, ValidationError):  # it answered, but not in Qdrant's words
            raise StoreRequestError(f"{where}: the answer is not Qdrant's: {error.source}") from error
        raise StoreConnectionError(f"{where}: no answer ({error.source}); is the server running there?") from error
    except UnexpectedResponse as error:
        raise StoreRequestError(f"{where}: the server refused: {error.status_code} {_words(error)}") from error
    except QdrantException as error:
        raise StoreRequestError(f"{where}: the server refused: {error}") from error
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else None
        if code in _NO_ANSWER:
            raise StoreConnectionError(f"{where}: no answer ({code.name}); is the server running there?") from error
        raise StoreRequestError(f"{where}: the server refused: {error}") from error


def _words(error: UnexpectedResponse) -> str:
    """The server's own explanation, or the start of whatever came back."""
    try:
        return str(json.loads(error.content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return repr(error.content[:200])
