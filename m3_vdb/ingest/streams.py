"""Bytes of a corpus, line by line: plain, gzip or Zstandard, from a file or standard input, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Final, cast

from m3_vdb.errors import MissingExtraError

STDIN: Final = "-"
MAX_ROW_BYTES: Final = 16 * 1024 * 1024
"""A longer row is rejected: it would be held in memory several times, and no model reads a thousandth of it."""
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PACKED: Final = {".gz": _GZIP, ".zst": _ZSTD}
_BUFFER: Final = 1 << 18
_ZSTD_BYTES: Final = 1 << 14
"""Packed bytes taken at once; they may unfold to a hundred times as many."""


class DamagedError(Exception):
    """A file cannot be read on; never leaves this package."""


class Counter(io.RawIOBase):
    """A raw file that tells how many bytes were taken from it."""

    def __init__(self, raw: io.RawIOBase | BinaryIO, told: Callable[[int], None]) -> None:
        self._raw = raw
        self._told = told

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer; the number of bytes."""
        data = self._raw.read(len(buffer)) or b""
        buffer[: len(data)] = data
        self._told(len(data))
        return len(data)

    def close(self) -> None:
        """Close the file below too."""
        self._raw.close()
        super().close()


def open_stream(path: str | Path, told: Callable[[int], None]) -> BinaryIO:
    """Open a file, or standard input for ``-``; what is packed is unpacked on the way.

    Args:
        path: gzip and Zstandard are known by their first bytes.
        told: called with the number of bytes of each read.

    Raises:
        OSError: the file cannot be opened.
        DamagedError: it is called ``.gz`` or ``.zst`` and is none.
        MissingExtraError: Zstandard without its package.
    """
    raw = _stdin() if str(path) == STDIN else Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed by the reader
    file = io.BufferedReader(Counter(raw, told), _BUFFER)
    head = file.peek(4)[:4]
    expected = _PACKED.get(Path(path).suffix)
    if expected is not None and head and not head.startswith(expected):
        file.close()
        raise DamagedError(f"it is called {Path(path).suffix} and is not packed that way")
    if head.startswith(_GZIP):
        # Not inside another buffer, which would lose what was unpacked just before the damage.
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if head.startswith(_ZSTD):
        require_zstd()
        return io.BufferedReader(_Zstd(file), _BUFFER)
    return file


def _stdin() -> BinaryIO:
    """Standard input under a second descriptor.

    A thread that waits in ``sys.stdin`` when the program ends would make the interpreter abort over that file's lock.
    """
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    except (OSError, ValueError):  # a test's stand-in has no descriptor
        return sys.stdin.buffer


def require_zstd() -> None:
    """Check that Zstandard files can be read.

    Raises:
        MissingExtraError: they cannot.
    """
    if find_spec("zstandard") is None:
        raise MissingExtraError("a .zst file", extra="zstd")


class _Zstd(io.RawIOBase):
    """The content of a Zstandard file; the library's own reader says nothing when the file is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415 - optional

        self._file = file
        self._fresh = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._fresh()
        self._begun = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer; the number of bytes."""
        while not self._ready:
            packed = self._frame.unused_data or self._file.read(_ZSTD_BYTES)
            if self._frame.eof:
                self._frame, self._begun = self._fresh(), False
            if not packed:
                if self._begun:
                    raise EOFError("the file ends inside a Zstandard frame")
                return 0
            self._begun = True
            self._ready = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()


def damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises, whatever packed it."""
    known: tuple[type[Exception], ...] = (DamagedError, OSError, EOFError, zlib.error)
    zstandard = sys.modules.get("zstandard")
    return known if zstandard is None else (*known, zstandard.ZstdError)


def read_lines(file: BinaryIO, *, limit: int = MAX_ROW_BYTES) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, line, whole) of every line; of a line beyond the limit, only its beginning."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        whole = len(line) <= limit or line.endswith(b"\n")
        if not whole:
            while (more := file.readline(_BUFFER)) and not more.endswith(b"\n"):
                pass
        yield number, line if whole else line[:1000], whole
