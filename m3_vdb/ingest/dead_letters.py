"""The file of rejected rows: JSON lines, of which only whole ones count."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from m3_vdb.errors import ConfigError
from m3_vdb.ingest.outputs import is_letter
from m3_vdb.ingest.rows import LETTER_FIELDS, Rejected


class DeadLetters:
    """Rows that were not stored, each with file, line, id, reason and the row itself, so that it can be mended.

    Rows of earlier runs stay until somebody removes the file. Those of this run come behind them, unless they are there
    already, so that running a command again leaves the same file.

    Args:
        path: made when the first row is rejected; None keeps nothing.
        keep: bytes of the file that are rows of earlier runs, or of the interrupted one that resumes; what is beyond
            was not finished and is removed.
        before: bytes that are rows of earlier runs.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path | None, *, keep: int = 0, before: int = 0) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._known: set[bytes] = set()
        self.size = 0
        if path is None or not path.is_file():  # a device such as /dev/null is left alone
            return
        self.size = min(keep, path.stat().st_size)
        os.truncate(path, self.size)
        with path.open("rb") as file:
            while file.tell() < before and (line := file.readline()):
                self._known.add(_digest(line))

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Add rows and hand them to the operating system.

        Raises:
            OSError: they cannot be written.
        """
        lines = [json.dumps(_as_dict(one)).encode() + b"\n" for one in rejected]
        data = b"".join(line for line in lines if not self._known or _digest(line) not in self._known)
        if self._path is None or not data:
            return
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size += len(data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def letters_length(path: Path | None) -> int:
    """Length of the whole lines of a dead-letter file; 0 if there is none.

    Raises:
        ConfigError: there is a file of another kind, which is not written to.
        OSError: it cannot be read.
    """
    if path is None or not path.is_file():
        return 0
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not length and not is_letter(line):
                raise ConfigError(f"{path} exists and does not hold rejected rows of m3-vdb: name another file")
            length += len(line) if line.endswith(b"\n") else 0
    return length


def _digest(line: bytes) -> bytes:
    return blake2b(line, digest_size=8).digest()


def _as_dict(rejected: Rejected) -> dict[str, object]:
    return {name: getattr(rejected, name) for name in LETTER_FIELDS}
