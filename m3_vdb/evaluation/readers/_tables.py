"""Judgements and queries: BEIR's and TREC's qrels, tab-separated topics, and what every layout asks of its queries."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.collection import Query
from m3_vdb.evaluation.readers._files import check_strings, identifier, read_text

GRADE: Final = re.compile(r"[+-]?[0-9]{1,9}")


def read_qrels(path: Path, *, trec: bool = False) -> dict[str, dict[str, int]]:
    """Judgements: query id, document id and grade between tabs, after a line with names or without one.

    Args:
        path: the file.
        trec: TREC's columns instead: query id, a word that means nothing, document id, grade, between white space.

    Raises:
        ConfigError: the file cannot be read, holds no judgement, a line is none, or one contradicts another.
        DocumentError: a line is not UTF-8.
    """
    expected = f"query id, {'Q0, ' * trec}document id and a whole number"
    qrels: dict[str, dict[str, int]] = {}
    for number, (index, line) in enumerate(read_text(path)):
        fields = line.split() if trec else [field.strip() for field in line.split("\t")]
        if len(fields) == 3 + trec and number == 0 and not any(character.isdigit() for character in line):
            continue  # the names of the columns
        if len(fields) != 3 + trec or not all(fields) or not GRADE.fullmatch(fields[-1]):
            raise ConfigError(f"{path}, line {index + 1}: expected {expected}, got {line!r}")
        query, document, grade = fields[0], fields[-2], int(fields[-1])
        earlier = qrels.setdefault(query, {}).setdefault(document, grade)
        if earlier != grade:
            raise ConfigError(
                f"{path}, line {index + 1}: {document!r} has grade {grade} for {query!r}, and {earlier} further up"
            )
    if not qrels:
        raise ConfigError(f"{path} holds no judgements: expected lines of {expected}")
    return qrels


def read_topics(path: Path, *, lang: str = "") -> dict[str, Query]:
    """Queries: id and text in a line, a tab between them.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is something else, or repeats an id.
    """
    queries: dict[str, Query] = {}
    for index, line in read_text(path):
        fields = [field.strip() for field in line.split("\t")]
        where = f"{path}, line {index + 1}"
        if len(fields) != 2 or not all(fields):
            raise DocumentError(f"{where}: expected query id, tab and text, got {line!r}", index=index)
        add_query(queries, fields[0], fields[1], where, index, lang=lang)
    return queries


def add_query(
    queries: dict[str, Query], name: object, text: object, where: str, index: int, *, lang: str = "", question: str = ""
) -> None:
    """Put a query among the others.

    Raises:
        DocumentError: the id is none or not unique, the text no string, or one of them no Unicode.
    """
    key = identifier(name)
    if not key or not isinstance(text, str):
        raise DocumentError(
            f"{where}: expected a query's id (a string or a whole number) and its text, got {name!r} and {text!r}",
            index=index,
        )
    if key in queries:
        raise DocumentError(f"{where}: the query id {key!r} is not unique", index=index)
    check_strings([key, text], where, index)
    queries[key] = Query(text, lang, question)


def only_judged(
    queries: Mapping[str, Query], judgements: Mapping[str, Any], *, qrels: Path, source: Path
) -> dict[str, Query]:
    """The queries that were judged, in their order.

    Raises:
        ConfigError: a judged query is not among them.
    """
    if unknown := sorted(judgements.keys() - queries.keys()):
        raise ConfigError(f"{qrels}: the judged query {unknown[0]!r} is not in {source.name}")
    return {name: query for name, query in queries.items() if name in judgements}


def in_languages(queries: Mapping[str, Query], langs: Collection[str] | None) -> dict[str, Query]:
    """The queries of some languages; of all for None."""
    return {name: query for name, query in queries.items() if langs is None or query.lang in langs}
