"""What is marked on a collection of a server while another one takes its place (``m3_vdb.stores.succession``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from m3_vdb.errors import StoreRequestError

MARKER_KEY: Final = "m3_migration"
BUILDING: Final = "building"
CLOSED: Final = "closed"
MOVED: Final = "moved"
_TRY_AGAIN: Final = 503
_GONE: Final = 409


def check_place(marker: Mapping[str, Any], where: str) -> None:
    """Check that a write that was just made will be in the successor, if there is one.

    Args:
        marker: of the collection, read after the write.
        where: the collection, for messages.

    Raises:
        StoreRequestError: it may not be: status 503 while the last differences are copied, 409 after the switch.
    """
    state = marker.get("state")
    if state == CLOSED:
        raise StoreRequestError(
            f"{where} is being replaced by {marker['to']!r}, so this write may not be in it: try again in a moment "
            f"(if m3-vdb migrate was killed, run it again)",
            status=_TRY_AGAIN,
        )
    if state == MOVED:
        raise StoreRequestError(
            f"{where} was replaced by {marker['to']!r}, and this write is not in it: open {marker.get('open')} with "
            f"its model (m3-vdb migrate)",
            status=_GONE,
        )
