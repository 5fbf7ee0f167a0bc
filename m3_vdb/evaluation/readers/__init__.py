"""Readers of retrieval collections: one module a layout, and one function that finds out which it is.

Queries and judgements are read at once, documents when they are needed. A malformed line is an error that names file
and line, a missing file one that says what was expected. A document without text is kept, as it is part of the corpus:
``document.content.strip()`` is empty, and an encoder makes of it whatever it makes of "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.readers import beir, flagembedding, miracl, mkqa, mldr, trec
from m3_vdb.evaluation.readers._layout import Layout, find_folders

__all__ = ["LAYOUTS", "open_collections"]

LAYOUTS: Final[dict[str, Layout]] = {
    layout.name: layout
    for layout in (beir.LAYOUT, miracl.LAYOUT, mldr.LAYOUT, mkqa.LAYOUT, trec.LAYOUT, flagembedding.LAYOUT)
}
"""By name, in the order in which messages list them."""


def open_collections(
    place: str | Path, *, layout: str = "auto", split: str | None = None, lang: str | Sequence[str] | None = None
) -> list[Collection]:
    """The collections at a place.

    Args:
        place: a folder in one of the layouts, a folder of such folders, or a glob pattern of either.
        layout: name of the layout; "auto" goes by the files that are there.
        split: of the judgements, e.g. "dev"; None is what the layout usually reports ("dev" for MIRACL, else "test").
        lang: one language or several, as the collections write them; only queries in these are kept. None keeps all.

    Returns:
        The collections in the order of the folders, with queries. A name is the folder's, or ``miracl-LANG``,
        ``mldr-LANG``, ``mkqa``; where two would be equal, they have their folder's path before them.

    Raises:
        ConfigError: there is no collection, a folder could be of two layouts, a file is missing or wrong as a whole,
            or there are no queries in a language.
        DocumentError: a line of the queries is malformed; file and line are in the message.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r}: expected auto, {', '.join(LAYOUTS)}")
    candidates = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    langs = None if lang is None else frozenset([lang] if isinstance(lang, str) else lang)
    folders = find_folders(place, lambda folder: any(one.recognise(folder) for one in candidates))
    if not folders:
        layouts = "; ".join(f"{one.name}: {one.expected}" for one in candidates)
        raise ConfigError(
            f"no collection in {place}: expected a folder, a folder of such folders, or a glob pattern – {layouts}"
        )
    found = [
        (folder, collection)
        for folder in folders
        for one in [_layout_of(folder, candidates)]
        for collection in one.read(folder, split or one.split, langs)
    ]
    _require_languages(langs, [collection for _, collection in found], place)
    return _with_unique_names(found)


def _layout_of(folder: Path, candidates: Sequence[Layout]) -> Layout:
    first, *others = [layout for layout in candidates if layout.recognise(folder)]
    if others:
        names = ", ".join(layout.name for layout in (first, *others))
        raise ConfigError(f"{folder} could be of several layouts ({names}): choose one with layout=")
    return first


def _require_languages(langs: frozenset[str] | None, collections: Sequence[Collection], place: str | Path) -> None:
    there = {query.lang for collection in collections for query in collection.queries.values()}
    if missing := sorted((langs or frozenset()) - there):
        raise ConfigError(
            f"no queries in {', '.join(map(repr, missing))} in {place}: lang= takes what is written there"
        )


def _with_unique_names(found: Sequence[tuple[Path, Collection]]) -> list[Collection]:
    names = [collection.name for _, collection in found]
    return [
        collection if names.count(collection.name) == 1 else replace(collection, name=_long_name(folder, collection))
        for folder, collection in found
    ]


def _long_name(folder: Path, collection: Collection) -> str:
    return (folder if folder.name == collection.name else folder / collection.name).as_posix()
