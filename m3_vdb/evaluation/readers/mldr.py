"""MLDR as it is on Hugging Face, one collection a language.

``mldr-v1.0-LANG/SPLIT.jsonl.gz`` with the queries and the passages judged for them, and
``mldr-v1.0-LANG/corpus.jsonl.gz``. The texts beside the judgements are those of the corpus and are not read. The files
that FlagEmbedding makes of them are the layout ``flagembedding``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.collection import Collection, Query
from m3_vdb.evaluation.readers._documents import jsonl_documents
from m3_vdb.evaluation.readers._files import find_file, identifier, read_objects
from m3_vdb.evaluation.readers._layout import Languages, Layout, folders_in
from m3_vdb.evaluation.readers._tables import add_query

FOLDER: Final = "mldr-v1.0-"
GRADES: Final = (("negative_passages", 0), ("positive_passages", 1))
"""The later one wins where a passage is both."""


def recognise(folder: Path) -> bool:
    """Whether a folder looks like MLDR."""
    return bool(_folders(folder))


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collections in a folder, languages in order.

    Raises:
        ConfigError: a file is missing or holds nothing.
        DocumentError: a line of the queries is malformed.
    """
    folders = {path.name.removeprefix(FOLDER): path for path in _folders(folder)}
    return [_read(path, lang, split) for lang, path in folders.items() if langs is None or lang in langs]


def _folders(folder: Path) -> list[Path]:
    if folder.resolve().name.startswith(FOLDER):
        return [folder.resolve()]
    return folders_in(folder, f"{FOLDER}*")


def _read(folder: Path, lang: str, split: str) -> Collection:
    source = find_file(folder, f"{split}.jsonl", expected="the queries of the split")
    corpus = find_file(folder, "corpus.jsonl", expected=LAYOUT.expected)
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for index, fields in read_objects(source):
        where, name = f"{source}, line {index + 1}", fields.get("query_id")
        add_query(queries, name, fields.get("query"), where, index, lang=lang)
        qrels[identifier(name)] = _grades(fields, where, index)
    if not queries:
        raise ConfigError(f"{source} holds no queries")
    return Collection(f"mldr-{lang}", jsonl_documents([corpus]), queries, qrels, lang=lang)


def _grades(fields: Mapping[str, Any], where: str, index: int) -> dict[str, int]:
    grades: dict[str, int] = {}
    for key, grade in GRADES:
        passages = fields.get(key) or []
        known = isinstance(passages, list) and all(isinstance(passage, dict) for passage in passages)
        ids = [identifier(passage.get("docid")) for passage in passages] if known else [""]
        if not all(ids):
            raise DocumentError(f'{where}: {key!r} must be a list of {{"docid": str, …}}', index=index)
        grades |= dict.fromkeys(ids, grade)
    if not any(grades.values()):
        raise DocumentError(f"{where}: 'positive_passages' must have at least one", index=index)
    return grades


LAYOUT: Final = Layout("mldr", "mldr-v1.0-LANG/ with SPLIT.jsonl.gz and corpus.jsonl.gz", "test", recognise, read)
