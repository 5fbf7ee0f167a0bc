"""Passages, queries and judgements of one retrieval task, whichever layout they were read from (``readers``).

Documents are a stream that can be read again; queries and judgements are in memory. Thinning chooses by hash, so that
the same queries and documents are taken on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol, TypeAlias

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.answers import AnswerMatcher
from m3_vdb.types import Document

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; above 0 is relevant."""


class Documents(Protocol):
    """A stream of documents that can be read more than once."""

    def __iter__(self) -> Iterator[Document]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        text: what is asked.
        lang: its language, "" if unknown.
        question: id of what is asked, where several queries ask it in different languages (MKQA); "" if none does.
    """

    text: str
    lang: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """One retrieval task.

    A document without text stays one: ``document.content.strip()`` tells. A judged document may be missing from the
    corpus; it counts as not found.

    Attributes:
        name: for tables, file names and the store's collection.
        documents: what is searched; ids are unique.
        queries: query id → query, all that are measured.
        qrels: judgements of these queries; empty where answers decide.
        answers: query id → answer strings, where a passage is relevant because it contains one (MKQA); else empty.
        lang: language of the documents, "" if they have several or it is unknown.

    Raises:
        ConfigError: a judgement or an answer is of a query that is not there.
    """

    name: str
    documents: Documents
    queries: Mapping[str, Query]
    qrels: Qrels = field(default_factory=dict)
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lang: str = ""

    def __post_init__(self) -> None:
        if unknown := sorted((self.qrels.keys() | self.answers.keys()) - self.queries.keys()):
            raise ConfigError(f"{self.name}: the judged query {unknown[0]!r} is not among the queries")

    def by_language(self) -> dict[str, list[str]]:
        """Language → ids of its queries, languages in order."""
        groups: dict[str, list[str]] = {lang: [] for lang in sorted({query.lang for query in self.queries.values()})}
        for name, query in self.queries.items():
            groups[query.lang].append(name)
        return groups

    def only(self, names: Iterable[str]) -> Collection:
        """The same documents, with some of the queries in the order they have here."""
        kept = set(names)
        return replace(
            self,
            queries={name: query for name, query in self.queries.items() if name in kept},
            qrels={name: grades for name, grades in self.qrels.items() if name in kept},
            answers={name: answers for name, answers in self.answers.items() if name in kept},
        )


def thin(
    collection: Collection, *, max_documents: int | None = None, max_queries: int | None = None, seed: int = 0
) -> Collection:
    """A smaller task, the same on every machine; a larger count only adds queries or documents.

    First queries are chosen, then documents. Every judged document of the kept queries stays, and so does every
    document that contains an answer of one, even if that makes more than ``max_documents``. The corpus is read once;
    in memory are the ids that are kept.

    Args:
        collection: the whole.
        max_documents: documents kept; None keeps all.
        max_queries: queries kept of each language, the same questions in all of them; None keeps all.
        seed: another one takes another choice.

    Raises:
        ConfigError: a count is below 1, or the corpus cannot be read.
        DocumentError: a document is malformed.
    """
    for name, value in (("max_documents", max_documents), ("max_queries", max_queries)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: at least 1, or None")
    if max_queries is not None:
        collection = collection.only(_queries(collection, max_queries, seed))
    if max_documents is not None:
        collection = replace(collection, documents=_documents(collection, max_documents, seed))
    return collection


def choose(names: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """``count`` of the names by hash, whatever their order: a larger count only adds names.

    In memory are as many names as are kept.
    """
    return heapq.nsmallest(count, names, key=lambda name: (_hash(name, seed), name))


def _hash(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()


def _queries(collection: Collection, count: int, seed: int) -> list[str]:
    def place(name: str) -> tuple[bytes, str]:
        return _hash(collection.queries[name].question or name, seed), name

    return [name for group in collection.by_language().values() for name in heapq.nsmallest(count, group, key=place)]


def _documents(collection: Collection, count: int, seed: int) -> Documents:
    must_stay, judged, total = _must_stay(collection), set[str](), 0

    def others() -> Iterator[str]:
        nonlocal total
        for document in collection.documents:
            total += 1
            if must_stay(document):
                judged.add(document.id)
            else:
                yield document.id

    others_by_hash = choose(others(), count, seed)
    if count >= total:
        return collection.documents
    return _Selection(collection.documents, judged.union(others_by_hash[: max(0, count - len(judged))]))


def _must_stay(collection: Collection) -> Callable[[Document], bool]:
    judged = {document for grades in collection.qrels.values() for document in grades}
    answers = {answer for of_query in collection.answers.values() for answer in of_query}
    if not answers:
        return lambda document: document.id in judged
    matcher = AnswerMatcher(answers)
    return lambda document: document.id in judged or matcher.found_in(document.content)


class _Selection:
    """Some of the documents, found again whenever they are read."""

    def __init__(self, documents: Documents, ids: set[str]) -> None:
        self._documents = documents
        self._ids = ids

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self._documents if document.id in self._ids)

    def __len__(self) -> int:
        return len(self._ids)
