"""The file of rejected rows: JSON lines, of which only whole ones count."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from m3_vdb.ingest.rows import Rejected


class DeadLetters:
    """Rows that were not stored, each with file, line, id, reason and the row itself, so that it can be mended.

    Args:
        path: made when the first row is rejected; None keeps nothing.
        keep: bytes of the file that belong to the interrupted run that goes on; anything beyond is removed.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path | None, *, keep: int = 0) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.size = 0
        if path is None or not path.is_file():  # a device such as /dev/null is left alone
            return
        if not keep:
            path.unlink()
            return
        self.size = min(keep, path.stat().st_size)
        os.truncate(path, self.size)

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Add rows and hand them to the operating system.

        Raises:
            OSError: they cannot be written.
        """
        if self._path is None or not rejected:
            return
        data = b"".join(json.dumps(_as_dict(one)).encode() + b"\n" for one in rejected)
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


def _as_dict(rejected: Rejected) -> dict[str, object]:
    return {
        "file": rejected.file,
        "line": rejected.line,
        "id": rejected.id,
        "kind": rejected.kind,
        "reason": rejected.reason,
        "row": rejected.row,
    }
