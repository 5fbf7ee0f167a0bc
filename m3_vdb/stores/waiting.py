"""Waiting for a server's own work (indexing, flushing): with a limit, and with words for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from m3_vdb.errors import StoreError
from m3_vdb.notices import log

OPTIMIZE_SECONDS: Final = 3600.0
"""Limit of ``optimize``: 100,000 documents of 100 rows take minutes on two cores."""
_POLL_SECONDS: Final = 0.2
_TOLD_FROM: Final = 5.0

Waiting: TypeAlias = Callable[[str, float], None]
"""Called while something is waited for: with what that is, and the seconds so far."""


def wait_for(poll: Callable[[], str], *, where: str, timeout: float, waiting: Waiting | None) -> None:
    """Ask until nothing is left to wait for.

    Args:
        poll: what is still waited for; "" if nothing is.
        where: names the collection.
        timeout: seconds to wait at most.
        waiting: called after every answer but the last; without it, a long wait is logged once.

    Raises:
        StoreError: the time is up.
    """
    begun, is_told = time.monotonic(), waiting is not None
    while what := poll():
        seconds = time.monotonic() - begun
        if waiting is not None:
            waiting(what, seconds)
        if seconds >= timeout:
            raise not_done(where, what, timeout)
        if not is_told and seconds >= _TOLD_FROM:
            log.warning("%s: %s; waiting for up to %g s", where, what, timeout)
            is_told = True
        time.sleep(min(_POLL_SECONDS, timeout))


def not_done(where: str, what: str, timeout: float) -> StoreError:
    """The error of a wait whose time is up."""
    return StoreError(
        f"{where}: {what} after {timeout:g} s. The server goes on by itself, and searches are answered meanwhile: look "
        f"at its log, and wait once more, or longer: optimize(timeout=…)"
    )
