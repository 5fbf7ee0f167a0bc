"""Requests to a store that fail: which may succeed later, after which pause, and which are about what was sent."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from m3_vdb.errors import ConfigError, StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.notices import log

T = TypeVar("T")
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_ASKED: Final = 600.0
"""Seconds that a store may ask for (``Retry-After``); who asks for more is not waited for, and its answer is raised."""
_TOLD_FROM: Final = 5.0
"""Seconds of a pause that is logged."""
_ABOUT_CONTENT: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and after which pauses a request to the store is repeated.

    The n-th pause is drawn from 0 … min(longest, first · 2ⁿ): full jitter, so that writers that failed together do not
    return together. A store that says when to come back (``Retry-After``) is given that time, up to ten minutes,
    and the draw on top.

    Attributes:
        attempts: requests in all, the first included; 10 last some two minutes.
        first: seconds.
        longest: seconds.
    """

    attempts: int = 10
    first: float = 0.5
    longest: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first < 0 or self.longest < 0:
            raise ConfigError(f"{self}: expected at least one attempt and pauses of 0 seconds or more")

    def pause(self, failures: int, error: StoreError) -> float:
        """Seconds to wait after N failures in a row."""
        return retry_after(error) + random.uniform(0, min(self.longest, self.first * 2**failures))


ONCE: Final = Retry(attempts=1)
"""Every failure is raised."""


class Retrier:
    """Decides about failed requests: those that fail in a way that may pass are made again, after a pause.

    Args:
        retry: how often and how long; by default a request is made once.
        stop: set when the run is to end: no more waiting.

    Attributes:
        retries: requests that were made again.
    """

    def __init__(self, retry: Retry = ONCE, stop: threading.Event | None = None) -> None:
        self._retry = retry
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self.retries = 0

    def add(self, retries: int) -> None:
        """Count requests that were made again elsewhere."""
        with self._lock:
            self.retries += retries

    def again(self, error: StoreError, failures: int) -> bool:
        """Whether to make a request again that failed; waits until it is time, and logs a pause of some seconds.

        Args:
            error: of the last attempt.
            failures: attempts that failed, this one included.
        """
        if failures >= self._retry.attempts or not is_transient(error) or retry_after(error) > LONGEST_ASKED:
            return False
        pause = self._retry.pause(failures, error)
        if pause >= _TOLD_FROM:
            attempts = self._retry.attempts
            log.warning("%s; attempt %d of %d follows in %.0f s", error, failures + 1, attempts, pause)
        if self._stop.wait(pause):
            return False
        self.add(1)
        return True

    def call(self, request: Callable[..., T], /, *arguments: Any) -> T:  # noqa: ANN401 - those of the request
        """The request's result.

        Raises:
            StoreError: the last failure, or the first that no waiting mends.
        """
        failures = 0
        while True:
            try:
                return request(*arguments)
            except StoreError as error:
                failures += 1
                if not self.again(error, failures):
                    raise


def is_transient(error: StoreError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, StoreConnectionError) or status(error) in _TRANSIENT


def about_content(error: StoreError) -> bool:
    """Whether a refusal is about what was sent, so that less of it may be accepted."""
    return status(error) in _ABOUT_CONTENT


def retry_after(error: StoreError) -> float:
    """Seconds that the store asked for; 0 if it did not."""
    return error.retry_after or 0.0 if isinstance(error, (StoreConnectionError, StoreRequestError)) else 0.0


def status(error: StoreError) -> int | None:
    """The HTTP status of a refusal, if it has one."""
    return error.status if isinstance(error, StoreRequestError) else None
