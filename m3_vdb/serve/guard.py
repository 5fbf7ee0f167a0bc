"""Stands before every endpoint: keys, sizes, callers who leave, errors that nobody caught, and counting."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m3_vdb.serve.answers import RequestError, read_error, refusal
from m3_vdb.serve.metrics import Metrics
from m3_vdb.serve.page import FILES
from m3_vdb.serve.service import Limits

FREE: Final = frozenset({"/health", *FILES})
"""Paths that need no key."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LEFT: Final = 499
"""The status of a request whose caller left, as nginx has it."""
_DISCARDED: Final = 16
"""A larger body is read to its end, up to this multiple of the limit: some clients see no answer that comes before."""


class Guard:
    """ASGI middleware.

    Args:
        app: answers the requests that pass.
        keys: one of them has to come with a request; none needs none.
        limits: sizes of bodies, and requests at the same time.
        metrics: counts requests.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in keys]
        self._limits = limits
        self._metrics = metrics
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), _LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._running += 1
        self._metrics.running.inc()
        try:
            await self._pass(scope, receive, noted)
        except Exception as error:
            refused = read_error(error)  # logs what is not the caller's fault
            if status == _LEFT:  # nothing was sent yet
                await refusal(scope["path"], refused)(scope, receive, noted)
        finally:
            self._running -= 1
            self._metrics.running.dec()
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.count(route=route, method=method, status=status, seconds=time.perf_counter() - begun)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in FREE:
            await self._app(scope, receive, send)
            return
        self._check_key(scope)
        if self._running > self._limits.requests:
            raise RequestError(429, "overloaded", f"{self._limits.requests} requests are answered now", retry_after=1)
        body = await self._body(scope, receive)
        if body is not None:
            await self._answer(scope, receive, send, body)

    def _check_key(self, scope: Scope) -> None:
        """Compare the key with all keys, in a time that says nothing about them.

        Raises:
            RequestError: it is none of them.
        """
        if not self._keys:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        is_known = False
        for one in self._keys:
            is_known |= hmac.compare_digest(one, digest)
        if not is_known or scheme.lower() != b"bearer":
            raise RequestError(401, "authentication", "send a key of this server: Authorization: Bearer KEY")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the caller left.

        Raises:
            RequestError: it is too large.
        """
        limit = self._limits.body
        too_large = RequestError(413, "validation", f"the body has more than {limit} bytes: send less at once")
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > _DISCARDED * limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            size += len(message.get("body", b""))
            if size <= limit:
                parts.append(message.get("body", b""))
            if size > _DISCARDED * limit or (size > limit and not message.get("more_body")):
                raise too_large
            if not message.get("more_body"):
                return b"".join(parts)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Let the request pass; cancel it if its caller leaves."""
        is_read = False

        async def replay() -> Message:
            nonlocal is_read
            if is_read:
                await left
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def until_left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        left = asyncio.ensure_future(until_left())
        answering = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({left, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not answering.done():
                answering.cancel()
        try:
            await answering
        except asyncio.CancelledError:
            if not left.done() or left.cancelled():
                raise


def _digest(key: bytes) -> bytes:
    """Of fixed length, so that a comparison says nothing about that of a key."""
    return sha256(key).digest()
