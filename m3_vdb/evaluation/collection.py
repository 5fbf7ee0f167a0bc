"""Documents, queries and judgements of one retrieval task, whatever files they were read from (``datasets``).

Documents are a stream that can be read again; queries and judgements are in memory. Subsamples are chosen by hash, so
the same queries and documents are taken on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        question: id of the question, where several queries ask it in different languages (MKQA); else "".
    """

    text: str
    lang: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """One retrieval task.

    A document without text is kept (``document.content.strip()`` is empty). A judged document may be missing from the
    corpus; it counts as not found.

    Attributes:
        name: for tables, file names and the store's collection.
        documents: what is searched; ids are unique.
        queries: query id → query, all that are measured.
        qrels: judgements of these queries; empty where answers decide.
        answers: query id → answer strings, where a passage is relevant because it contains one (MKQA); else empty.
        lang: language of the documents, "" if they have several or it is unknown.

    Raises:
        ConfigError: a judgement or an answer belongs to a query that is not there.
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


def subsample(
    collection: Collection, *, max_documents: int | None = None, max_queries: int | None = None, seed: int = 0
) -> Collection:
    """A smaller task, the same on every machine; a larger count only adds queries or documents.

    First queries are chosen, then documents. Every judged document of the kept queries stays, and so does every
    document that contains an answer of one, even if that makes more than ``max_documents``. The corpus is read once;
    only the ids that are kept are in memory.

    Args:
        collection: the whole.
        max_documents: documents kept; None keeps all.
        max_queries: queries kept per language, the same questions in all of them; None keeps all.
        seed: of the choice.

    Raises:
        ConfigError: a count is below 1, or the corpus cannot be read.
        DocumentError: a document is malformed.
    """
    for name, value in (("max_documents", max_documents), ("max_queries", max_queries)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: at least 1, or None")
    if max_queries is not None:
        question = {name: query.question or name for name, query in collection.queries.items()}
        kept = [
            heapq.nsmallest(max_queries, names, key=lambda name: (_hash(question[name], seed), name))
            for names in collection.by_language().values()
        ]
        collection = collection.only(name for names in kept for name in names)
    if max_documents is not None:
        collection = replace(collection, documents=_some_documents(collection, max_documents, seed))
    return collection


def subsample_splits(
    test: Sequence[Collection],
    dev: Sequence[Collection],
    *,
    max_documents: int | None = None,
    max_queries: int | None = None,
    seed: int = 0,
) -> tuple[list[Collection], list[Collection]]:
    """Subsample collections together with their dev queries; the judged documents of both stay.

    Args:
        test: what is reported.
        dev: collections of the same names with other queries, or none.
        max_documents: as in ``subsample``.
        max_queries: as in ``subsample``, for each of the two.
        seed: as in ``subsample``.

    Raises:
        ConfigError: a dev collection has no counterpart or shares a query with it, or two collections have one name.
    """
    tests, devs = (
        {one.name: subsample(one, max_queries=max_queries, seed=seed) for one in part} for part in (test, dev)
    )
    for part in (test, dev):
        names = [one.name for one in part]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two collections have the name {twice!r}: their figures could not be told apart")
    check_splits(list(tests.values()), list(devs.values()))
    for name, one in tests.items():
        other = devs.get(name, replace(one, queries={}, qrels={}, answers={}))
        both = replace(
            one,
            queries={**one.queries, **other.queries},
            qrels={**one.qrels, **other.qrels},
            answers={**one.answers, **other.answers},
        )
        documents = subsample(both, max_documents=max_documents, seed=seed).documents
        tests[name] = replace(one, documents=documents)
        if name in devs:
            devs[name] = replace(other, documents=documents)
    return list(tests.values()), list(devs.values())


def check_splits(test: Sequence[Collection], dev: Sequence[Collection]) -> None:
    """Refuse dev queries that tune nothing, or that are also reported.

    Raises:
        ConfigError: a dev collection has no counterpart, or shares a query with it.
    """
    queries = {collection.name: collection.queries.keys() for collection in test}
    for one in dev:
        if one.name not in queries:
            raise ConfigError(f"{one.name}: no such collection is evaluated, so its dev queries tune nothing")
        if shared := sorted(one.queries.keys() & queries[one.name]):
            raise ConfigError(f"{one.name}: query {shared[0]!r} is in dev and in test: tune on other queries")


def choose(names: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """``count`` of the names by hash, whatever their order; a larger count only adds names."""
    return heapq.nsmallest(count, names, key=lambda name: (_hash(name, seed), name))


def _hash(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()


def _some_documents(collection: Collection, count: int, seed: int) -> Documents:
    judged = {document for grades in collection.qrels.values() for document in grades}
    answers = {answer for of_query in collection.answers.values() for answer in of_query}
    matcher = AnswerMatcher(answers) if answers else None
    kept, total = set[str](), 0

    def others() -> Iterator[str]:
        nonlocal total
        for document in collection.documents:
            total += 1
            if document.id in judged or (matcher is not None and matcher.found_in(document.content)):
                kept.add(document.id)
            else:
                yield document.id

    others_by_hash = choose(others(), count, seed)
    if count >= total:
        return collection.documents
    return _Selection(collection.documents, kept.union(others_by_hash[: max(0, count - len(kept))]))


@dataclass(frozen=True, slots=True)
class _Selection:
    """Some of the documents, found again whenever they are read."""

    documents: Documents
    ids: set[str]

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self.documents if document.id in self.ids)

    def __len__(self) -> int:
        return len(self.ids)
