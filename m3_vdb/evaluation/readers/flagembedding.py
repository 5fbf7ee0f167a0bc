"""What FlagEmbedding 1.4 saves of any data set: ``corpus.jsonl``, ``SPLIT_queries.jsonl``, ``SPLIT_qrels.jsonl``.

One collection a folder; rows are ``{"id", "title"?, "text"}``, ``{"id", "text"}`` and ``{"qid", "docid",
"relevance"}``. A folder that is called like a language tag says the language.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.collection import Collection, Query
from m3_vdb.evaluation.readers._documents import jsonl_documents
from m3_vdb.evaluation.readers._files import find_file, has_file, identifier, read_objects
from m3_vdb.evaluation.readers._layout import Languages, Layout
from m3_vdb.evaluation.readers._tables import add_query, in_languages, only_judged
from m3_vdb.evaluation.readers.beir import language_of

CORPUS_FILE: Final = "corpus.jsonl"


def recognise(folder: Path) -> bool:
    """Whether a folder looks like FlagEmbedding's."""
    return has_file(folder, CORPUS_FILE) and any(folder.glob("*_queries.jsonl*"))


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collection in a folder.

    Raises:
        ConfigError: a file is missing, or judges a query that is not there.
        DocumentError: a line of the queries or judgements is malformed.
    """
    source = find_file(folder, f"{split}_queries.jsonl", expected="the queries of the split")
    judgements = find_file(folder, f"{split}_qrels.jsonl", expected="the judgements of the split")
    lang = language_of(folder)
    queries: dict[str, Query] = {}
    for index, fields in read_objects(source):
        where = f"{source}, line {index + 1}"
        add_query(queries, fields.get("id"), fields.get("text"), where, index, lang=lang)
    qrels = _qrels(judgements)
    queries = only_judged(queries, qrels, qrels=judgements, source=source)
    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUT.expected)])
    collection = Collection(folder.resolve().name, documents, queries, qrels, lang=lang)
    return [collection.only(kept)] if (kept := in_languages(queries, langs)) else []


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for index, fields in read_objects(path):
        query, document, grade = identifier(fields.get("qid")), identifier(fields.get("docid")), fields.get("relevance")
        if not query or not document or not isinstance(grade, int):
            raise DocumentError(
                f'{path}, line {index + 1}: expected {{"qid": str, "docid": str, "relevance": int}}', index=index
            )
        qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise ConfigError(f"{path} holds no judgements")
    return qrels


LAYOUT: Final = Layout(
    "flagembedding",
    "corpus.jsonl, SPLIT_queries.jsonl and SPLIT_qrels.jsonl, each also as .gz",
    "test",
    recognise,
    read,
)
