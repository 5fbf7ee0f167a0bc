"""When files of a corpus change: signals in batches, one for each burst of changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError, MissingExtraError

QUIET: Final = 1.0
"""Seconds without a change after which a burst has ended."""
_LONGEST: Final = 10
"""Quiet times after which a burst that goes on is taken as it is."""
_TICK: Final = 1000
"""Milliseconds between two signals without changes."""


def changes(
    paths: Iterable[str], *, leave: Callable[[Path], bool], stop: threading.Event, quiet: float = QUIET
) -> Iterator[int]:
    """The number of files that changed, after each burst; 0 at least every second without changes.

    The first signal, whatever it says, means that no later change is missed.

    Args:
        paths: files and folders; what is hidden in a folder does not count.
        leave: whether a file does not count.
        stop: ends the iteration.
        quiet: seconds that end a burst.

    Raises:
        ConfigError: a path is neither a file nor a folder.
        MissingExtraError: watchfiles is not installed.
    """
    try:
        from watchfiles import watch  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise MissingExtraError("watching files", extra="watch") from error
    given = [Path(path).resolve() for path in paths]
    for path in given:
        if not path.is_dir() and not path.is_file():
            raise ConfigError(f"{path} is not a file or folder: expected what can be watched")
    folders = [path for path in given if path.is_dir()]
    files = {path for path in given if not path.is_dir()}

    def counts(_: object, name: str) -> bool:
        path = Path(name)
        inside = (path.relative_to(folder) for folder in folders if path.is_relative_to(folder))
        shown = any(not any(part.startswith(".") for part in parts.parts) for parts in inside)
        return (shown or path in files) and not leave(path)

    step = max(1, round(1000 * quiet))
    signals = watch(
        *{*folders, *(path.parent for path in files)},  # a file that is replaced is another one: its folder tells
        watch_filter=counts,
        step=step,
        debounce=_LONGEST * step,
        rust_timeout=_TICK,
        yield_on_timeout=True,
        stop_event=stop,
    )
    for signal in signals:
        yield len(signal)
