"""BEIR: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``, each also as ``.gz``; one collection a folder.

A query's language is its field ``lang``, or that of its ``metadata``, or the name of the folder if that is a language
tag (``de``, ``pt-br``, ``zh_CN``), which is the documents' language too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import DocumentError
from m3_vdb.evaluation.collection import Collection, Query
from m3_vdb.evaluation.readers._documents import jsonl_documents
from m3_vdb.evaluation.readers._files import find_file, has_file, read_objects
from m3_vdb.evaluation.readers._layout import Languages, Layout
from m3_vdb.evaluation.readers._tables import add_query, in_languages, only_judged, read_qrels

CORPUS_FILE: Final = "corpus.jsonl"
QUERIES_FILE: Final = "queries.jsonl"
ISO_639_1: Final = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
TAG: Final = re.compile(r"([a-z]{2})(?:[-_](?:[A-Za-z]{2}|hans|hant|latn|cyrl|Hans|Hant|Latn|Cyrl))?")


def recognise(folder: Path) -> bool:
    """Whether a folder looks like BEIR."""
    return has_file(folder, CORPUS_FILE) and (has_file(folder, QUERIES_FILE) or (folder / "qrels").is_dir())


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collection in a folder.

    Raises:
        ConfigError: a file is missing, or judges a query that is not there.
        DocumentError: a line of the queries is malformed.
    """
    queries, qrels = read_judged(folder, split)
    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUT.expected)])
    collection = Collection(folder.resolve().name, documents, queries, qrels, lang=language_of(folder))
    return [collection.only(kept)] if (kept := in_languages(queries, langs)) else []


def read_judged(folder: Path, split: str) -> tuple[dict[str, Query], dict[str, dict[str, int]]]:
    """Queries and judgements of a folder, of the judged queries only.

    Raises:
        ConfigError: a file is missing, or judges a query that is not there.
        DocumentError: a line of the queries is malformed.
    """
    source = find_file(folder, QUERIES_FILE, expected=LAYOUT.expected)
    judgements = find_file(folder / "qrels", f"{split}.tsv", expected="the judgements of the split")
    queries: dict[str, Query] = {}
    for index, fields in read_objects(source):
        where = f"{source}, line {index + 1}"
        lang = _language(fields, where, index) or language_of(folder)
        add_query(queries, fields.get("_id"), fields.get("text"), where, index, lang=lang)
    qrels = read_qrels(judgements)
    return only_judged(queries, qrels, qrels=judgements, source=source), qrels


def language_of(folder: Path) -> str:
    """The name of a folder if it is a language tag, else ""."""
    name = folder.resolve().name
    tag = TAG.fullmatch(name)
    return name if tag and tag[1] in ISO_639_1.split() else ""


def _language(fields: Mapping[str, Any], where: str, index: int) -> str:
    metadata = fields.get("metadata")
    lang = fields.get("lang") or (metadata.get("lang") if isinstance(metadata, dict) else None) or ""
    if not isinstance(lang, str):
        raise DocumentError(f"{where}: 'lang' must be a string, got {lang!r}", index=index)
    return lang


LAYOUT: Final = Layout(
    "beir", "corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each also as .gz", "test", recognise, read
)
