"""Refusals of a database, whichever client reports them: errors of gRPC, their HTTP status, and when to retry."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package that would serve this file alone

from m3_vdb.errors import StoreConnectionError, StoreError, StoreRequestError

NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Codes that come from the connection and not from the database."""
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
TOO_LARGE: Final = 413
TOO_MANY: Final = 429
_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TOO_MANY,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.ABORTED: 503,
}
_LARGE: Final = ("larger than max", "message length too large")
"""How gRPC's implementations (C and Go; Rust) word a message beyond their limit, as RESOURCE_EXHAUSTED or OUT_OF_RANGE:
sent again it is refused again, in smaller parts it is not."""


def http_status(code: grpc.StatusCode | None, words: str) -> int | None:
    """The status that the same refusal has over REST; None if it has none.

    Args:
        code: of the call.
        words: the server's explanation.
    """
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE) and any(w in words for w in _LARGE):
        return TOO_LARGE
    return _STATUS.get(code)


def from_grpc(error: grpc.RpcError, where: str, variable: str) -> StoreError:
    """The error of m3-vdb for one of gRPC.

    Args:
        error: of a call.
        where: names the collection.
        variable: of the environment, from which the key is read.
    """
    code = error.code() if isinstance(error, grpc.Call) else None
    words = str((error.details() if isinstance(error, grpc.Call) else None) or error)
    if code in NO_ANSWER:
        return StoreConnectionError(f"{where}: no answer ({code.name}: {words}); {_check(words)}")
    status = http_status(code, words)
    return StoreRequestError(f"{where}: the server refused: {words}{key_advice(status, variable)}", status=status)


def key_advice(status: int | None, variable: str) -> str:
    """What to do about a refusal for lack of a key, appended to its message; "" for other refusals.

    Args:
        status: of the refusal.
        variable: of the environment, from which the key is read.
    """
    if status == FORBIDDEN:
        return f"; the key may not do that: give one that may, as api_key= or in {variable}"
    return f"; give the server's key as api_key= or in {variable}" if status == UNAUTHORIZED else ""


def _check(words: str) -> str:
    """What to look at when gRPC got no answer."""
    if "CERTIFICATE" in words:
        return untrusted("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    if "SSL" in words or "andshake" in words:
        return "does the server speak TLS there? qdrant+grpc:// and milvus:// are without"
    if "refused" in words or "Deadline" in words or "Timeout" in words:
        return "is the server running there?"
    return "is the server running there, is it the port of gRPC, and if it speaks TLS, does the store URL say so?"


def untrusted(variable: str) -> str:
    """What to do about a certificate that no authority here has signed.

    Args:
        variable: of the environment, which names further authorities.
    """
    return f"its certificate is not trusted here: name the file of the authority that signed it in {variable}"


def seconds_to_wait(value: str | None) -> float | None:
    """``Retry-After``: seconds, or a date; None if it is neither.

    Args:
        value: of the header.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
