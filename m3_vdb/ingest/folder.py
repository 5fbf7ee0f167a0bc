"""A folder as a corpus: which of its files are read, as what, in the same order in every run; and what is left out.

What m3-vdb itself writes is known by its content: none of it is ever read as a corpus, or written over as if ours.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from m3_vdb import streams
from m3_vdb.ingest.ledger import APPLICATION_ID
from m3_vdb.ingest.readers import MARKDOWN
from m3_vdb.ingest.rich_text import PACKAGES, is_installed
from m3_vdb.ingest.rows import LETTER_FIELDS
from m3_vdb.stores.folder import IDENTITY_FILE, LOCK_FILE

SUFFIXES: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    **dict.fromkeys((".txt", ".text", ".rst", ".adoc", ".asciidoc", ".org", ".tex", *MARKDOWN), "text"),
}
WHOLE_FILES: Final = ("text", *PACKAGES)
"""Formats whose files are one document each."""
LACKS_EXTRA: Final = " without m3-vdb[readers]"
PACKED: Final = ("", ".gz", ".zst")
_SQLITE: Final = b"SQLite format 3\x00"
_LETTER: Final = b'{"file": '
"""How a row of a dead-letter file begins."""
_APPLICATION_AT: Final = 68
"""Where a SQLite file says whose it is."""
_JOURNALS: Final = ("-wal", "-shm", "-journal")
_HEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class File:
    """A file of a corpus.

    Attributes:
        path: where it is.
        format: how it is read.
        id: of the document, if it is a text.
        found: it was not named by the user but found in a folder: what is wrong with it costs it alone.
    """

    path: str
    format: str
    id: str = ""
    found: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is read file by file.

    Hidden files, and what m3-vdb writes itself, are never read, and links to folders are not followed.

    Attributes:
        path: the folder.
        format: "auto" goes by the suffix; "text" reads all texts, whatever their suffix; others what has their suffix.
        include: patterns of names or relative paths; None reads what has a format.
        exclude: patterns of what is not read.
    """

    path: Path
    format: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def files(
        self, *, leave: Callable[[Path], bool], left: Counter[str], unreadable: Callable[[OSError], None]
    ) -> Iterator[File]:
        """The files that are read, sorted.

        Args:
            leave: whether a file is left out without a word.
            left: what is left out is counted here, by suffix.
            unreadable: called with the error of a folder that cannot be listed.
        """
        for root, folders, names in os.walk(self.path, onerror=unreadable):
            kept = []
            for path in (Path(root, name) for name in sorted(folders) if not name.startswith(".")):
                kind = "links to folders" if path.is_symlink() else "collections" if is_collection(path) else None
                if kind is None:
                    kept.append(path.name)
                else:
                    left[kind] += 1
            folders[:] = kept
            inside = Path(root).relative_to(self.path).as_posix()
            before = "" if inside == "." else f"{inside}/"
            for path in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
                if leave(path) or is_output(path):
                    continue
                name = f"{before}{path.name}"
                format = self._format(path, name)
                if format is None:
                    lacks = not is_readable(SUFFIXES.get(suffix(path), "")) and self.format == "auto"
                    left[f"{suffix(path) or 'without a suffix'}{LACKS_EXTRA if lacks else ''}"] += 1
                else:
                    yield File(str(path), format, name, found=True)

    def _format(self, path: Path, name: str) -> str | None:
        included = _matches(name, self.include)
        if _matches(name, self.exclude) or (self.include and not included):
            return None
        known = SUFFIXES.get(suffix(path))
        if known is not None and not is_readable(known):
            known = None
        if self.format not in ("auto", "text"):
            return self.format if included or known == self.format else None
        if self.format == "auto" and known is not None:
            return known
        if known == "text" or included:
            return "text"
        return "text" if (self.format == "text" or not suffix(path)) and _is_text(path) else None


def is_readable(format: str) -> bool:
    """Whether what reads a format is installed, as far as it is looked for before a file is opened."""
    return format not in PACKAGES or is_installed(format)


def suffix(path: Path) -> str:
    """The suffix that says a file's format: without that of its packing, in small letters."""
    found = path.suffix.lower()
    return Path(path.stem).suffix.lower() if found in PACKED[1:] else found


def counted(counts: Counter[str]) -> str:
    """Counts in words: "3 .png, 1 .css"."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a relative path, its name, or a folder above it."""
    if not patterns:
        return False
    path = Path(name)
    names = (name, path.name, *(folder.as_posix() for folder in path.parents if folder.name))
    return any(fnmatch(one, pattern.rstrip("/")) for one in names for pattern in patterns)


def _is_text(path: Path) -> bool:
    """Whether a file holds text; what cannot be opened counts, so that whoever reads it says why."""
    if not path.is_file():
        return True
    try:
        with streams.open_stream(path) as file:
            head = streams.peek(file)
    except streams.damage():
        return True
    return 0 not in head and streams.is_utf8(head)


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
            head = file.read(len(_SQLITE))
            if not head.startswith((_SQLITE, _LETTER)):
                return False
            head += file.read(_HEAD)
    except OSError:
        return False
    if head.startswith(_SQLITE):
        return int.from_bytes(head[_APPLICATION_AT : _APPLICATION_AT + 4], "big") == APPLICATION_ID
    return is_letter(head)


def is_letter(head: bytes) -> bool:
    """Whether a file that begins so holds dead letters."""
    if not head.startswith(_LETTER):
        return False
    line, ended, _ = head.partition(b"\n")
    try:
        fields = json.loads(line)
    except ValueError:  # cut off: by the limit here, or with the run that wrote it
        return not ended
    return isinstance(fields, dict) and tuple(fields) == LETTER_FIELDS
