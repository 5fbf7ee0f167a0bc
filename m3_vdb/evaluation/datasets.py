"""Test collections on disk: ``open_collections`` finds out which layout they have, and reads them (``layouts``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.layouts import LAYOUTS, Layout, folders_in


def open_collections(
    places: str | Path | Iterable[str | Path],
    *,
    layout: str = "auto",
    split: str | None = None,
    lang: str | Sequence[str] | None = None,
) -> list[Collection]:
    """The collections at one place or several.

    Args:
        places: each a folder in one of the layouts, a folder of such folders, or a glob pattern of either.
        layout: name of the layout; "auto" goes by the files that are there.
        split: of the judgements, e.g. "dev"; None is what the layout usually reports ("dev" for MIRACL, else "test").
        lang: one language or several, as the collections write them; only queries in these are kept. None keeps all.

    Returns:
        The collections in the order of the folders, with queries. A name is the folder's, or ``miracl-LANG``,
        ``mldr-LANG``, ``mkqa``; where two would be equal, they have their folder's path before them.

    Raises:
        ConfigError: a place has no collection, a folder could be of two layouts, a file is missing or wrong as a
            whole, or there are no queries in a language.
        DocumentError: a line of the queries is malformed; file and line are in the message.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r}: expected auto, {', '.join(LAYOUTS)}")
    candidates = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    langs = None if lang is None else frozenset([lang] if isinstance(lang, str) else lang)
    places = [places] if isinstance(places, (str, Path)) else list(places)
    found: list[tuple[Path, Collection]] = []
    for folder in dict.fromkeys(folder for place in places for folder in _find_folders(place, candidates)):
        first, *others = [one for one in candidates if one.recognise(folder)]
        if others:
            several = ", ".join(one.name for one in (first, *others))
            raise ConfigError(f"{folder} could be of several layouts ({several}): choose one with layout=")
        found += [(folder, collection) for collection in first.read(folder, split or first.split, langs)]
    there = {query.lang for _, collection in found for query in collection.queries.values()}
    if missing := sorted((langs or frozenset()) - there):
        raise ConfigError(
            f"no queries in {', '.join(map(repr, missing))} in {', '.join(map(str, places))}: "
            f"lang= takes what is written there"
        )
    names = [one.name for _, one in found]
    return [
        one
        if names.count(one.name) == 1
        else replace(one, name=(folder if folder.name == one.name else folder / one.name).as_posix())
        for folder, one in found
    ]


def _find_folders(place: str | Path, layouts: Sequence[Layout]) -> list[Path]:
    """The folders at a place that look like collections: itself, else its sub-folders; a pattern may match several."""

    def recognised(folder: Path) -> bool:
        return any(layout.recognise(folder) for layout in layouts)

    matches = [Path(place)] if Path(place).exists() else [Path(match) for match in sorted(glob(str(place)))]
    found: dict[Path, None] = {}
    for match in filter(Path.is_dir, matches):
        found |= dict.fromkeys([match] if recognised(match) else filter(recognised, folders_in(match)))
    if not found:
        expected = "; ".join(f"{one.name}: {one.expected}" for one in layouts)
        raise ConfigError(
            f"no collection in {place}: expected a folder, a folder of such folders, or a glob pattern – {expected}"
        )
    return list(found)
