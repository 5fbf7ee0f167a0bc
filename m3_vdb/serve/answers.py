"""Answers: JSON, and errors as one line without a traceback, a key or a path.

Errors have OpenAI's shape below /v1, and TEI's elsewhere: ``{"error": "…", "error_type": "…"}``.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from m3_vdb.errors import BusyError, ConfigError, ItemError, M3Error, StoreConnectionError, StoreError

log: Final = logging.getLogger("m3_vdb.serve")
Kind = Literal[
    "validation", "authentication", "forbidden", "not_found", "overloaded", "store", "unavailable", "internal"
]
_OPENAI_TYPES: Final = {
    "authentication": "authentication_error",
    "overloaded": "rate_limit_error",
    "unavailable": "server_error",
    "internal": "server_error",
}
_SHOWN: Final = 300
"""Characters of a message."""
_STORE_PAUSE: Final = 5
"""Seconds to wait for a store that does not answer."""
_MEANINGS: Final = {
    400: "The request is malformed, or a text is unusable.",
    401: "The key is missing or wrong.",
    403: "Writing is not allowed.",
    404: "There is no such document.",
    413: "The body, a text or the number of texts or tokens is too large.",
    422: "The request is malformed, or a text or document is unusable.",
    429: "Too much waits; Retry-After says how long to wait.",
    502: "The store refused the request.",
    503: "The store does not answer, or the server is about to end.",
}


class RequestError(M3Error):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        kind: the reason in a word.
        retry_after: seconds to wait before a retry; None if none would help.
    """

    def __init__(self, status: int, kind: Kind, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status: int = status
        self.kind: Kind = kind
        self.retry_after = retry_after


class Problem(BaseModel):
    """An error."""

    error: str
    error_type: str


class OpenAIError(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIError


def refusals(*statuses: int, shape: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for the OpenAPI document."""
    return {status: {"model": shape, "description": _MEANINGS[status]} for status in (401, *statuses)}


def json_answer(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON, NumPy arrays included; float32 is written with as many digits as it needs."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


async def render(request: Request, error: Exception) -> Response:
    """The answer to a request that failed."""
    return refusal(request.url.path, read_error(error))


def refusal(path: str, error: RequestError) -> Response:
    """An error as an answer.

    Args:
        path: of the request; decides about the shape.
        error: what is wrong.
    """
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    message = str(error).encode("utf-8", "replace").decode()
    if not path.startswith("/v1/"):
        return json_answer({"error": message, "error_type": error.kind}, status=error.status, headers=headers)
    shown = {
        "message": message,
        "type": _OPENAI_TYPES.get(error.kind, "invalid_request_error"),
        "param": None,
        "code": "invalid_api_key" if error.status == 401 else None,
    }
    status = 400 if error.status == 422 else error.status
    return json_answer({"error": shown}, status=status, headers=headers)


def read_error(error: Exception) -> RequestError:  # noqa: PLR0911 - one per kind of error
    """What to tell the caller."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RequestValidationError):
        return RequestError(422, "validation", _first_fault(error))
    if isinstance(error, HTTPException) and error.status_code == 400:  # FastAPI's, of whatever json raises
        return RequestError(422, "validation", "the body cannot be read as JSON")
    if isinstance(error, HTTPException):
        kind: Kind = "not_found" if error.status_code in (404, 405) else "validation"
        return RequestError(error.status_code, kind, f"{error.detail}: /openapi.json lists what there is")
    if isinstance(error, BusyError):  # the end of the message is for whoever started the server
        return RequestError(429, "overloaded", str(error).partition(":")[0], retry_after=error.retry_after)
    if isinstance(error, (ConfigError, ItemError)):
        return RequestError(422, "validation", _short(str(error)))
    return _server_fault(error)


def _server_fault(error: Exception) -> RequestError:
    """What is not the caller's fault is logged."""
    if isinstance(error, StoreConnectionError):
        log.error("the store does not answer: %s", error)
        pause = error.retry_after or _STORE_PAUSE
        return RequestError(503, "unavailable", "the store does not answer: try again", retry_after=pause)
    if isinstance(error, StoreError):
        log.error("the store failed: %s", error)
        return RequestError(502, "store", "the store refused the request: the server's log says why")
    log.error("a request failed", exc_info=error)
    return RequestError(500, "internal", "internal error: the server's log says what happened")


def _first_fault(error: RequestValidationError) -> str:
    """The first fault of a body, with where it is."""
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        return _short(f"the body is not JSON: {fault['ctx']['error']}")
    where = ".".join(str(part) for part in fault["loc"][1:]) or "the body"
    return _short(f"{where}: {fault['msg']}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
