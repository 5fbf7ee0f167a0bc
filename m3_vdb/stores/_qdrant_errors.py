"""The one place where errors of qdrant-client become errors of m3-vdb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_vdb.errors import StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.stores._refusals import NO_ANSWER, TOO_MANY, http_status, seconds_to_wait

_DATE: Final = "Retry-After header value is not a valid integer: "
"""What qdrant-client makes of a date in that header, of an answer 429."""


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Run calls of qdrant-client; ``where`` names the collection in messages.

    Raises:
        StoreConnectionError: the server did not answer, or not in time.
        StoreRequestError: the server refused; its own words are in the message.
        StoreError: the client is closed.
    """
    try:
        yield
    except ResponseHandlingException as error:
        if isinstance(error.source, ValidationError):  # it answered, but not in Qdrant's words
            raise StoreRequestError(f"{where}: the answer is not Qdrant's: {error.source}") from error
        raise StoreConnectionError(f"{where}: no answer ({error.source}); is the server running there?") from error
    except UnexpectedResponse as error:
        words = f"{where}: the server refused: {error.status_code} {_words(error)}"
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
        raise _from_grpc(error, where) from error
    except RuntimeError as error:  # nothing narrower is raised for a closed client
        if "closed" not in str(error):
            raise
        raise StoreError(f"{where} is closed; open it again") from error


def _from_grpc(error: grpc.RpcError, where: str) -> StoreError:
    code = error.code() if isinstance(error, grpc.Call) else None
    if code in NO_ANSWER:
        return StoreConnectionError(f"{where}: no answer ({code.name}); is the server running there?")
    words = str((error.details() if isinstance(error, grpc.Call) else None) or error)
    return StoreRequestError(f"{where}: the server refused: {words}", status=http_status(code, words))


def _words(error: UnexpectedResponse) -> str:
    """The server's own explanation, or the start of whatever came back."""
    try:
        return str(json.loads(error.content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return repr(error.content[:200])
