"""What a layout is to ``open_collections``, and where collections are looked for."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TypeAlias

from m3_vdb.evaluation.collection import Collection

Languages: TypeAlias = Set[str] | None
"""The languages of queries that are wanted; None for all."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which collections lie in a folder.

    Attributes:
        name: what ``layout=`` calls it.
        expected: the files, in words, for messages.
        split: what is read if no split is asked for: the one that is usually reported.
        recognise: whether a folder looks like it; reads names of files and nothing else.
        read: folder, split and languages → the collections in it. Queries and judgements are read, documents not.
            Collections without a query in the languages are left out.
    """

    name: str
    expected: str
    split: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, str, Languages], list[Collection]]


def find_folders(place: str | Path, recognise: Callable[[Path], bool]) -> list[Path]:
    """The folders at a place that look like collections: itself, else its sub-folders; a pattern may match several."""
    matches = [Path(place)] if Path(place).exists() else [Path(match) for match in sorted(glob(str(place)))]
    found: dict[Path, None] = {}
    for match in filter(Path.is_dir, matches):
        found |= dict.fromkeys([match] if recognise(match) else filter(recognise, folders_in(match)))
    return list(found)


def folders_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The sub-folders with such a name, in order."""
    return sorted(path for path in folder.glob(pattern) if path.is_dir())
