"""Files as bytes: plain, gzip or Zstandard, UTF-8 or UTF-16, from a file, a pipe or standard input, in bounded memory.

What a file is shows in its first bytes: a Git LFS pointer, an error page or a picture under the name of a corpus is
refused as a whole, in words that say what it is.
"""

from __future__ import annotations

import codecs
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
_BUFFER: Final = 1 << 16
"""Small, since what is read ahead is counted as read: the rest of a corpus is estimated from it."""
HEAD: Final = 4096
"""First bytes of a file, which say what it is."""
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_KINDS: Final = {
    _LFS: "a Git LFS pointer, not the file itself: run git lfs pull",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF-": "a PDF document: name it .pdf, or pass --format pdf",
    b"PK\x03\x04": "a ZIP archive (as Excel and Word files are): unpack it, or save it as CSV",
    b"PAR1": "a Parquet file: name it .parquet, or pass --format parquet",
    b"SQLite format 3\x00": "a SQLite database: export its rows first",
    b"ARROW1": "an Arrow file: convert it to Parquet",
    b"BZh": "packed by bzip2: unpack it first",
    b"\xfd7zXZ": "packed by xz: unpack it first",
    codecs.BOM_UTF32_LE: "UTF-32: convert it with iconv -f utf-32 -t utf-8",
}
_UTF16: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_ZSTD_BYTES: Final = 1 << 14
"""Packed bytes taken at once; they may unfold to a hundred times as many."""


class DamagedError(Exception):
    """A file cannot be read on; readers of files turn it into their own error."""


class _Stream(io.RawIOBase):
    """A file over another one, whose content comes in pieces.

    Args:
        file: the one below, closed with this one.
    """

    def __init__(self, file: io.RawIOBase | BinaryIO) -> None:
        self._file = file
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def piece(self, size: int) -> bytes:
        """The next bytes, any number of them; b"" at the end. Those that are passed on: at most ``size``."""
        raise NotImplementedError

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer; the number of bytes."""
        self._ready = self._ready or memoryview(self.piece(len(buffer)))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()


class Counter(_Stream):
    """A raw file that tells how many bytes were taken from it."""

    def __init__(self, raw: io.RawIOBase | BinaryIO, on_bytes_read: Callable[[int], None]) -> None:
        super().__init__(raw)
        self._on_bytes_read = on_bytes_read

    def piece(self, size: int) -> bytes:
        """As the file gives them."""
        data = self._file.read(size) or b""
        self._on_bytes_read(len(data))
        return data


def open_stream(
    path: str | Path,
    on_bytes_read: Callable[[int], None] = lambda _: None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> BinaryIO:
    """Open a file, or standard input for ``-``: unpacked, UTF-16 as UTF-8, without a byte order mark.

    Args:
        path: gzip, Zstandard and UTF-16 are known by their first bytes.
        on_bytes_read: called with the number of bytes of each read.
        note: called with what the user should know of the file.

    Raises:
        OSError: the file cannot be opened.
        DamagedError: it is called ``.gz`` or ``.zst`` and is not one, nothing of it can be unpacked, or it is a Git LFS
            pointer.
        MissingExtraError: Zstandard without its package.
    """
    place = Path(path)
    raw = _stdin() if str(path) == STDIN else place.open("rb", buffering=0)  # closed by the reader
    file = _unpacked(io.BufferedReader(Counter(raw, on_bytes_read), _BUFFER), place.suffix.lower())
    try:
        head = peek(file)
    except damage() as error:  # nothing of it can be unpacked, and a second attempt would find an empty file
        file.close()
        raise DamagedError(f"is damaged from its first bytes on: {error}") from error
    if head.startswith(_LFS):
        file.close()
        raise DamagedError(f"is {_KINDS[_LFS]}")
    encoding = _UTF16.get(head[:2])
    if encoding is not None and not head.startswith(codecs.BOM_UTF32_LE):
        note(f"{path} is UTF-16 and read as such; most tools expect UTF-8 (iconv -f utf-16 -t utf-8 converts it)")
        file = io.BufferedReader(_Utf16(file, encoding), _BUFFER)
        head = peek(file)
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    return file


def _unpacked(file: io.BufferedReader, suffix: str) -> BinaryIO:
    head = file.peek(HEAD)
    expected = _PACKED.get(suffix)
    if expected is not None and head and not head.startswith((expected, _LFS)):
        file.close()
        kind = foreign(head)
        raise DamagedError(
            f"is called {suffix} but is {kind or 'not packed that way: rename it, or download it again'}"
        )
    if head.startswith(_GZIP):
        # Not inside another buffer, which would lose what was unpacked just before the damage.
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if head.startswith(_ZSTD):
        require_zstd()
        return io.BufferedReader(_Zstd(file), _BUFFER)
    return file


def peek(file: BinaryIO) -> bytes:
    """The first bytes of an open stream, which are still there to be read."""
    return cast("io.BufferedReader", file).peek(HEAD)[:HEAD]


def foreign(head: bytes) -> str | None:
    """What a file is that begins with these bytes, in words, if it cannot hold rows; None if it may.

    Bytes that are not UTF-8 alone are not enough: rows in another encoding are rejected one by one, with their lines.
    """
    kind = next((kind for mark, kind in _KINDS.items() if head.startswith(mark)), None)
    if kind is not None:
        return kind
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps an error or a login in place of the download: fetch it again"
    first = head.split(b"\n", 1)[0]
    zeros = head[::2].count(0), head[1::2].count(0)
    if 0 in first and max(zeros) > 0.2 * len(head) and min(zeros) < 0.01 * len(head):
        order = "le" if zeros[1] > zeros[0] else "be"
        return f"UTF-16 without a byte order mark: convert it with iconv -f utf-16{order} -t utf-8"
    if 0 in head and (0 in first or not is_utf8(first)):
        return "a binary file"
    return None


def is_utf8(head: bytes) -> bool:
    """Whether these bytes begin a text in UTF-8; a character may be cut off at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


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


class _Zstd(_Stream):
    """The content of a Zstandard file; the library's own reader says nothing when the file is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415 - optional

        super().__init__(file)
        self._fresh = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._fresh()
        self._begun = False

    def piece(self, size: int) -> bytes:
        """What the next packed bytes hold."""
        data = b""
        while not data:
            packed = self._frame.unused_data or self._file.read(_ZSTD_BYTES)
            if self._frame.eof:
                self._frame, self._begun = self._fresh(), False
            if not packed:
                if self._begun:
                    raise EOFError("the file ends inside a Zstandard frame")
                break
            self._begun = True
            data = self._frame.decompress(packed)
        return data


class _Utf16(_Stream):
    """The content of a UTF-16 file as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file)
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def piece(self, size: int) -> bytes:
        """What the next bytes spell."""
        while True:
            data = self._file.read(_BUFFER) or b""
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise DamagedError(f"is UTF-16, and damaged: {error.reason}") from None
            if text or not data:
                return text.encode()


def damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises, whatever packed it."""
    known: tuple[type[Exception], ...] = (DamagedError, OSError, EOFError, zlib.error)
    zstandard = sys.modules.get("zstandard")
    return known if zstandard is None else (*known, zstandard.ZstdError)


def numbered_lines(file: BinaryIO, *, limit: int = MAX_ROW_BYTES) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, line, whole) of every line; of a line beyond the limit, only its beginning."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        whole = len(line) <= limit or line.endswith(b"\n")
        if not whole:
            while (more := file.readline(_BUFFER)) and not more.endswith(b"\n"):
                pass
        yield number, line if whole else line[:1000], whole
