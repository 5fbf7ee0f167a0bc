"""A collection of Qdrant, whichever engine keeps it: everything that the server and the embedded engine have in common.

One request per query: a prefetch finds the candidates, the three vectors score the same candidates, and a formula adds
the three (``requests.py``). Where the engine does not allow that, other requests give the same scores.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np

from m3_vdb.bm25 import bm25_document
from m3_vdb.boosts import boost_score
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError
from m3_vdb.filters import Expression
from m3_vdb.marks import MARKS_FIELD, to_json
from m3_vdb.notices import say_once
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import Found, Plan, best_first, fuse, make_plan, page_window, read_parts, take_page
from m3_vdb.stores.options import BM25, DENSE, INDEX_TYPES, MULTI_VECTOR, SPARSE, IndexType, Search
from m3_vdb.stores.points import ID_FIELD, point_id, read_id, read_point
from m3_vdb.stores.qdrant.requests import (
    Request,
    among,
    candidate_requests,
    fused_request,
    prefetches,
    score_requests,
    to_filter,
)
from m3_vdb.stores.qdrant.schema import QdrantCapabilities, helpful_indexes, index_advice
from m3_vdb.stores.reading import READ_AT_ONCE
from m3_vdb.types import Document, Hit, M3Embedding, Scores, SparseVector

INDEX_WORTH: Final = 2000
"""Documents from which on a filter without an index is worth a word: at 3,000 it takes most of a query's time."""
_UNDERSAMPLED: Final = 128
"""From this limit on, a server asks each of several shards for fewer hits than it might need."""


class QdrantCollection(VectorStore):
    """A collection of Qdrant. A subclass sends the requests; hits and records have ``id`` and ``payload``."""

    _identity: ModelIdentity
    _capabilities: QdrantCapabilities
    _exact: bool
    """Candidates by a full scan."""

    _lists_first: ClassVar[bool] = False
    """A request more costs nothing: the lists of candidates are searched once, not in every rescore."""

    _size: int
    """Documents when it was opened."""

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""
        return self._identity

    @property
    def max_rows(self) -> int | None:
        """Multi-vector rows that a document may have: what the server, or its strict mode, takes."""
        floats = self._capabilities.max_floats
        return None if floats is None else (floats - 1) // self._identity.multi_vector_dim

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields with an index → what they hold."""
        return {name: kind for name, kind in self._capabilities.indexes.items() if kind in INDEX_TYPES}

    @property
    def has_bm25(self) -> bool:
        """Whether the collection has the sparse vector ``bm25``."""
        return self._capabilities.bm25

    @property
    def has_full_text(self) -> bool:
        """Whether the collection has an index of the words of its texts."""
        return self._capabilities.full_text

    @property
    @abstractmethod
    def _url(self) -> str:
        """What opens this collection; "" if nothing does."""

    @abstractmethod
    def _engine(self) -> AbstractContextManager[Any]:
        """What answers requests, with its errors mapped; may be nested."""

    @abstractmethod
    def _set_payload(self, point_ids: list[str], fields: dict[str, Any]) -> None:
        """Replace these top-level fields of points that exist."""

    @abstractmethod
    def _records(self, point_ids: list[str], vectors: Sequence[str] = ()) -> Sequence[Any]:
        """Those that exist, with their payloads and the named vectors."""

    @abstractmethod
    def _scroll_page(
        self,
        offset: Any,  # noqa: ANN401 - the engine's own
        limit: int,
        condition: Request | None,
    ) -> tuple[Sequence[Any], Any]:
        """Records without vectors that meet a filter, and the offset of the next page, None after the last one."""

    @abstractmethod
    def _put_words(self, words: Mapping[Any, SparseVector]) -> None:
        """Store the vector ``bm25`` of points that exist, by their ids; their other vectors stay."""

    @abstractmethod
    def _answer(self, request: Request) -> Sequence[Any]: ...

    @abstractmethod
    def _answers(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]: ...

    def _update(self, documents: Sequence[Document]) -> None:
        ids: dict[str, list[str]] = {}  # those with the same fields are one request
        for document in documents:
            fields = json.dumps({"payload": dict(document.payload), MARKS_FIELD: to_json(document)})
            ids.setdefault(fields, []).append(point_id(document.id))
        with self._engine():
            for fields, points in ids.items():
                self._set_payload(points, json.loads(fields))

    def _get(self, ids: Sequence[str]) -> list[Document]:
        found = self._payloads(ids)
        return [read_point(found[i]) for i in ids if i in found]

    def _payloads(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Id → payload of those that exist."""
        with self._engine():
            records = self._records([point_id(i) for i in ids]) if ids else []
        return {read_id(record.payload): record.payload for record in records}

    def _documents(self, batch: int, condition: Expression | None) -> Iterator[list[Document]]:
        for records in self._scroll(batch, None if condition is None else to_filter(condition)):
            yield [read_point(record.payload) for record in records]

    def _scroll(self, batch: int, condition: Request | None) -> Iterator[Sequence[Any]]:
        offset: Any = None
        while True:
            with self._engine():
                records, offset = self._scroll_page(offset, batch, condition)
            if records:
                yield records
            if offset is None:
                return

    def _fill_words(self) -> None:
        """Give exact words to the points without: a collection that got them later, or other writers' points.

        A process that is killed has filled some of them, and the next one fills the rest.
        """
        for records in self._scroll(READ_AT_ONCE, {"must_not": [{"has_vector": BM25}]}):
            words = {record.id: bm25_document(read_point(record.payload).content) for record in records}
            with self._engine():
                self._put_words(words)

    def _read(self, ids: Sequence[str]) -> list[tuple[Document, M3Embedding]]:
        with self._engine():
            records = self._records([point_id(i) for i in ids], (DENSE, SPARSE, MULTI_VECTOR))
        return [(read_point(record.payload), _embedding(record.vector)) for record in records]

    def _search(self, queries: Sequence[M3Embedding], search: Search) -> list[list[Hit]]:
        can = self._capabilities
        if search.filter is not None:
            self._advise(search.filter)
        hits: list[list[Hit]] = [[] for _ in queries]
        with self._engine():  # the embedded engine runs all requests of a search without writes between them
            fused: dict[int, tuple[Plan, Request]] = {}
            for i, query in enumerate(queries):
                plan = make_plan(query, search)
                if not plan.rescores:
                    continue
                self._check_limit(plan)
                found = prefetches(query, plan, search, exact=self._exact)
                lists_first = self._lists_first and search.fusion == "weighted_sum" and len(plan.rescores) > 1
                ids = self._candidates(found) if can.shards > 1 or lists_first else None
                if ids == []:
                    continue
                # Ranks are added here, or equal scores would have any rank; over several shards all but the formula.
                # The engine would normalise b where b / (b + c) is meant.
                dbsf_there = search.fusion == "dbsf" and ids is None and not search.weights.bm25
                is_fused_there = search.fusion == "weighted_sum" or dbsf_there
                if can.may_be_exact and is_fused_there:
                    plan, found = (plan, found) if ids is None else among(plan, ids)
                    offset, limit = page_window(search, plan.rescore_limit)
                    page = {"offset": offset, "limit": limit, "with_payload": [ID_FIELD] if search.ids_only else True}
                    if limit:
                        fused[i] = plan, {**fused_request(plan, found, query, search), **page}
                else:
                    hits[i] = self._scored(query, search, plan, found, ids)
            requests = [request for _, request in fused.values()]
            answers = self._answers(requests) if len(requests) > 1 else map(self._answer, requests)
            for (i, (plan, request)), points in zip(fused.items(), answers, strict=True):
                hits[i] = self._page(queries[i], search, plan, request, points)
        return hits

    def _advise(self, condition: Expression) -> None:
        """Say once which indexes would make a filter faster."""
        if self._size >= INDEX_WORTH and self._url:
            for name, kind in helpful_indexes(condition, self._capabilities.indexes).items():
                say_once(index_advice(name, kind, self._url))

    def _page(
        self, query: M3Embedding, search: Search, plan: Plan, request: Request, points: Sequence[Any]
    ) -> list[Hit]:
        """The page that the engine has fused; one or two requests more where equal scores cross an edge of it."""
        found = [Found(read_id(point.payload), point.score, point.payload) for point in points]
        page = take_page(found, search)
        if page is None:
            every = {**request, "offset": 0, "limit": plan.rescore_limit, "with_payload": [ID_FIELD]}
            totals = {read_id(point.payload): point.score for point in self._answer(every)}
            page = self._best(totals, search, {one.id: one.payload for one in found})
        if not search.explain or not page:
            return [Hit(_document(hit.payload), hit.score) for hit in page]
        parts = self._parts(query, search, [among(plan, [point_id(hit.id) for hit in page])])
        return [Hit(_document(hit.payload), hit.score, parts[hit.id]) for hit in page if hit.id in parts]

    def _scored(
        self, query: M3Embedding, search: Search, plan: Plan, found: list[Request], ids: list[str] | None
    ) -> list[Hit]:
        """The page fused here, from the scores of all candidates by each vector."""
        size = _UNDERSAMPLED - 1
        rounds = [(plan, found)]
        if ids is not None:
            rounds = [among(plan, ids[i : i + size]) for i in range(0, len(ids), size)]
        parts = self._parts(query, search, rounds)
        page = self._best(fuse(parts, search), search, {})
        return [Hit(_document(hit.payload), hit.score, parts[hit.id] if search.explain else None) for hit in page]

    def _best(self, totals: Mapping[str, float], search: Search, known: Mapping[str, Mapping[str, Any]]) -> list[Found]:
        """The page among all candidates, by id → fused score; a document that was deleted meanwhile is missing.

        Args:
            totals: id → fused score.
            search: which hits to return.
            known: payloads that need not be requested.
        """
        best = best_first(totals, search)
        names = [name for name, _ in best]
        payloads = {name: {ID_FIELD: name} for name in names} if search.ids_only else dict(known)
        if missing := [name for name in names if name not in payloads]:
            payloads |= self._payloads(missing)
        return [Found(name, total, payloads[name]) for name, total in best if name in payloads]

    def _check_limit(self, plan: Plan) -> None:
        largest = self._capabilities.max_limit
        if largest is not None and max(plan.prefetch_limit, plan.rescore_limit) > largest:
            lists = -(-plan.rescore_limit // plan.prefetch_limit)
            raise ConfigError(
                f"the {self._where} allows {largest} hits per request (strict mode), and this query needs "
                f"{plan.rescore_limit}: ask for at most {largest // lists} candidates"
            )

    def _candidates(self, found: list[Request]) -> list[Any]:
        """Points that the prefetches find over all shards, each once."""
        answers = self._answers(candidate_requests(found, may_be_exact=self._capabilities.may_be_exact))
        return list(dict.fromkeys(point.id for points in answers for point in points))

    def _parts(self, query: M3Embedding, search: Search, rounds: list[tuple[Plan, list[Request]]]) -> dict[str, Scores]:
        """Id → raw scores, by a request for each vector and round; only those with a weight, unless explained.

        Those of tokens are skipped where nothing can be found by them: every score is 0 then.
        """
        assert query.sparse is not None
        names = [rescore.vector for rescore in rounds[0][0].rescores]
        if search.explain:
            names += [name for name in (DENSE, SPARSE, MULTI_VECTOR, BM25) if name not in names]
        tokens = {SPARSE: query.sparse, BM25: query.bm25}
        names = [name for name in names if name not in tokens or ((part := tokens[name]) and len(part.ids))]
        exact = self._capabilities.may_be_exact
        parts = [
            score_requests(plan, found, query, names, boosts=search.boosts, may_be_exact=exact)
            for plan, found in rounds
        ]
        requests = [request for part in parts for request in part]
        answers: dict[str, dict[str, float]] = {name: {} for name in names}
        boosts: dict[str, float] = {}
        for request, points in zip(requests, self._answers(requests), strict=True):
            answers[request["using"]].update((read_id(point.payload), point.score) for point in points)
            if search.boosts:
                boosts.update(
                    (read_id(one.payload), boost_score(one.payload.get("payload", {}), search.boosts, search.now))
                    for one in points
                )
        found = read_parts(query, answers)
        return {i: replace(scores, boost=boosts.get(i)) for i, scores in found.items()} if boosts else found


def _document(payload: Mapping[str, Any]) -> Document:
    return read_point(payload) if len(payload) > 1 else Document(read_id(payload), "")


def _embedding(vectors: Mapping[str, Any]) -> M3Embedding:
    """The three named vectors of a point, as an engine returns them: lists or arrays, the sparse one as its class."""
    sparse = vectors[SPARSE]
    ids, weights = np.asarray(sparse.indices, np.int32), np.asarray(sparse.values, np.float32)
    order = np.argsort(ids)
    return M3Embedding(
        dense=np.asarray(vectors[DENSE], np.float32),
        sparse=SparseVector(ids[order], weights[order]),
        multi_vector=np.asarray(vectors[MULTI_VECTOR], np.float32),
    )
