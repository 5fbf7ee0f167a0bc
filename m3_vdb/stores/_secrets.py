"""Keys of servers: read here, and never shown."""

from __future__ import annotations

import os
import re
from typing import Final

from m3_vdb.errors import ConfigError

_LOGIN: Final = re.compile(r"^([a-z][a-z0-9+.-]+:/*).*@", re.IGNORECASE | re.DOTALL)
_AFTER_PATH: Final = re.compile(r"[?#].*", re.DOTALL)


def masked(url: str) -> str:
    """A URL as messages may show it: without what may be a key or a password.

    Args:
        url: as given, however malformed; a path comes back as it is.
    """
    if not re.match(r"[a-z][a-z0-9+.-]+:/", url, re.IGNORECASE):
        return url
    return _AFTER_PATH.sub(lambda found: f"{found[0][0]}***", _LOGIN.sub(r"\1***@", url))


def read_key(given: str | None, variable: str) -> str | None:
    """The key for a server, or None.

    Args:
        given: by the caller; None or "" takes the environment's.
        variable: of the environment.

    Raises:
        ConfigError: it cannot be sent; the client's own message would show it.
    """
    key = (given or os.environ.get(variable) or "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{'api_key' if given else variable} has characters that no key has: copy it once more")
    return key or None
