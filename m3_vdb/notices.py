"""Words for users. What they should know though nothing failed: each notice once per process, through ``logging``.

A program that configures no logging shows a warning as its bare text on standard error. One that does gets it from the
logger ``m3_vdb.notices``, which can be filtered or silenced like any other.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

log: Final = logging.getLogger("m3_vdb.notices")
_said: Final[set[str]] = set()
_saying: Final = threading.Lock()


def counted(value: int, one: str, many: str = "") -> str:
    """``1 query``, ``12,345 queries``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def say_once(text: str) -> None:
    """Log a warning, unless the same text was logged before."""
    with _saying:
        if text in _said:
            return
        _said.add(text)
    log.warning("%s", text)
