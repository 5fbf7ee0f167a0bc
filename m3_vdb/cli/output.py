"""Output of every command: text for people, JSON for programs, error messages and exit codes."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from typer.core import TyperGroup

from m3_vdb.errors import M3Error

EXIT_ERROR, EXIT_USAGE, EXIT_REJECTED, EXIT_INTERRUPTED = 1, 2, 3, 130
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 error, 2 wrong usage, 3 done but some rows were rejected, 130 interrupted (Ctrl-C)."
)
_UNPRINTABLE: Final = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\\ud800-\\udfff]"
)
"""Control characters except tab and newline, line separators, direction marks, lone surrogates."""


def printable(text: str) -> str:
    r"""The text with characters that control a terminal escaped, such as ``\x1b`` and ``\u202e``."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class SafeConsole(Console):
    """A console that prints text literally: without markup, and with control characters escaped."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - those of rich's own console
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape the text; Rich's own control codes (of progress bars) are kept."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


out = SafeConsole()
err = SafeConsole(stderr=True)


def say(text: str, *, style: str | None = None, console: Console = err) -> None:
    """Print one line without wrapping; line breaks become spaces."""
    console.print(" ".join(text.splitlines()), style=style, markup=False, highlight=False, soft_wrap=True)


def write_json(value: object) -> None:
    """Write one line of JSON to standard output, always UTF-8 and without colour.

    Control characters and line separators are written as JSON escapes, so the value does not change.
    """
    line = json.dumps(value, ensure_ascii=False, default=str)
    line = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(f"{line}\n".encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # such as "| head -1"
        out.on_broken_pipe()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors of m3-vdb, OSError and Ctrl-C into one line on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that an encoding such as cp1252 lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        with _interruptible():
            yield
    except (M3Error, OSError) as error:
        say(f"error: {error}", style="red")
        raise SystemExit(EXIT_ERROR) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(EXIT_INTERRUPTED) from None


class Commands(TyperGroup):
    """A group of commands that handles Ctrl-C itself, because Typer's handling differs between versions."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - click's type; some versions of Typer have their own
        """Run the command."""
        with _interruptible():
            return super().invoke(ctx)
