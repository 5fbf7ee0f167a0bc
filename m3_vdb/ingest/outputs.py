"""What m3-vdb itself writes, known by its content: none of it is ever read as a corpus, or written over as if ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from m3_vdb.ingest.ledger import APPLICATION_ID
from m3_vdb.ingest.rows import LETTER_FIELDS
from m3_vdb.stores.folder import IDENTITY_FILE, LOCK_FILE

_SQLITE: Final = b"SQLite format 3\x00"
_APPLICATION_AT: Final = 68
"""Where a SQLite file says whose it is."""
_JOURNALS: Final = ("-wal", "-shm", "-journal")
_HEAD: Final = 1 << 16


def is_collection(folder: Path) -> bool:
    """Whether a folder holds a collection: one of ours, or a database of milvus-lite."""
    if any((folder / name).is_file() for name in (IDENTITY_FILE, LOCK_FILE)):
        return True
    return folder.name.endswith(".milvus.db") or ((folder / "LOCK").is_file() and (folder / "collections").is_dir())


def is_output(path: Path) -> bool:
    """Whether a file is a checkpoint (or its journal) or dead letters, of whatever run."""
    for end in _JOURNALS:
        if path.name.endswith(end) and is_output(path.with_name(path.name.removesuffix(end))):
            return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head.startswith(_SQLITE):
        return int.from_bytes(head[_APPLICATION_AT : _APPLICATION_AT + 4], "big") == APPLICATION_ID
    return is_letter(head)


def is_letter(head: bytes) -> bool:
    """Whether a file that begins so holds dead letters."""
    if not head.startswith(b'{"file": '):
        return False
    line, ended, _ = head.partition(b"\n")
    try:
        fields = json.loads(line)
    except ValueError:  # cut off: by the limit here, or with the run that wrote it
        return not ended
    return isinstance(fields, dict) and tuple(fields) == LETTER_FIELDS
