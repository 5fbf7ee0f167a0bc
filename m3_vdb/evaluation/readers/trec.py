"""TREC: topics, qrels and a corpus, each also as ``.gz``; one collection a folder.

``topics*`` holds ``<top>`` blocks, whose ``<title>`` is the query, or lines of id, tab and query. ``qrels*`` has four
columns. If there are several of either, the split's name must be a part of theirs (``qrels.dev.txt``). The corpus is
the files in ``corpus/`` or ``docs/``, or those called ``corpus*``, ``docs*``, ``documents*`` or ``collection*``:
``<DOC>`` blocks or JSONL. A folder that is called like a language tag says the language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.readers import _sgml
from m3_vdb.evaluation.readers._documents import FileDocuments, Place, read_jsonl
from m3_vdb.evaluation.readers._files import read_text
from m3_vdb.evaluation.readers._layout import Languages, Layout
from m3_vdb.evaluation.readers._tables import in_languages, only_judged, read_qrels, read_topics
from m3_vdb.evaluation.readers.beir import language_of
from m3_vdb.types import Document

CORPUS_FOLDERS: Final = ("corpus", "docs")
CORPUS_FILES: Final = ("corpus*", "docs*", "documents*", "collection*")
SPLITS: Final = frozenset({"train", "dev", "test"})


def recognise(folder: Path) -> bool:
    """Whether a folder looks like TREC."""
    return bool(_files(folder, "topics*") and _files(folder, "qrels*"))


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collection in a folder.

    Raises:
        ConfigError: a file is missing, or judges a query that is not there.
        DocumentError: a line of the topics is malformed.
    """
    topics, judgements = _of_split(folder, "topics*", split), _of_split(folder, "qrels*", split)
    lang = language_of(folder)
    queries = (_sgml.read_topics if _is_sgml(topics) else read_topics)(topics, lang=lang)
    qrels = read_qrels(judgements, trec=True)
    queries = only_judged(queries, qrels, qrels=judgements, source=topics)
    collection = Collection(folder.resolve().name, _documents(folder), queries, qrels, lang=lang)
    return [collection.only(kept)] if (kept := in_languages(queries, langs)) else []


def _documents(folder: Path) -> FileDocuments:
    paths = [path for name in CORPUS_FOLDERS for path in _files(folder / name, "**/*")]
    paths = paths or [path for pattern in CORPUS_FILES for path in _files(folder, pattern)]
    if not paths:
        raise ConfigError(f"{folder} has no corpus: expected {LAYOUT.expected}")

    def read() -> Iterator[tuple[Place, Document]]:
        for path in paths:
            yield from _sgml.read_documents(path) if _is_sgml(path) else read_jsonl(path)

    return FileDocuments(read, str(folder))


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _of_split(folder: Path, pattern: str, split: str) -> Path:
    """The file of the split: the one with its name, or the only one if that names no other split."""
    files = _files(folder, pattern)
    parts = {path: set(re.split(r"[._-]", path.name)) for path in files}
    named = [path for path in files if split in parts[path]]
    chosen = named or [path for path in files if not parts[path] & SPLITS]
    if len(chosen) != 1:
        there = ", ".join(path.name for path in files)
        raise ConfigError(f"{folder}: expected one {pattern} of the split {split!r}, there are {there}")
    return chosen[0]


def _is_sgml(path: Path) -> bool:
    _, line = next(read_text(path), (0, ""))
    return line.lstrip().startswith("<")


LAYOUT: Final = Layout(
    "trec", "topics*, qrels* and corpus/, docs/ or corpus*, with <DOC> blocks or JSONL", "test", recognise, read
)
