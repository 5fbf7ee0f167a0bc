"""A collection of Qdrant, whichever engine keeps it: everything that the server and the embedded engine have in common.

One request per query: a prefetch finds the candidates, the three vectors score the same candidates, and a formula adds
the three (``requests.py``). Where the engine does not allow that, other requests give the same scores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.fusion import Found, Plan, best_first, fuse, make_plan, read_page, read_parts, vectors_to_score
from m3_vdb.stores.options import INDEX_TYPES, IndexType, Search
from m3_vdb.stores.points import (
    ID_FIELD,
    Point,
    batches,
    make_points,
    pack,
    point_id,
    read_embedding,
    read_id,
    read_point,
)
from m3_vdb.stores.qdrant.requests import (
    Request,
    among,
    candidate_requests,
    fused_request,
    prefetches,
    score_requests,
)
from m3_vdb.stores.qdrant.schema import QdrantCapabilities
from m3_vdb.types import Document, Hit, M3Embedding, M3Embeddings, Scores

_UNDERSAMPLED: Final = 128
"""From this limit on, a server asks each of several shards for fewer hits than it might need."""


class QdrantCollection(VectorStore):
    """A collection of Qdrant. A subclass sends the requests; hits and records have ``id`` and ``payload``."""

    _identity: ModelIdentity
    _capabilities: QdrantCapabilities
    _exact: bool
    """Candidates by a full scan."""

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

    @abstractmethod
    def _engine(self) -> AbstractContextManager[Any]:
        """What answers requests, with its errors mapped; may be entered again within."""

    @property
    @abstractmethod
    def _max_bytes(self) -> int:
        """Upserts are sent in requests of this size at most, measured as JSON."""

    @abstractmethod
    def _write(self, points: Sequence[Point]) -> None: ...

    @abstractmethod
    def _records(self, point_ids: list[str]) -> Sequence[Any]: ...

    @abstractmethod
    def _scroll_page(self, offset: Any, limit: int) -> tuple[Sequence[Any], Any]:  # noqa: ANN401 - the engine's own
        """Records with their vectors, and the offset of the next page, None after the last one."""

    @abstractmethod
    def _answer(self, request: Request) -> Sequence[Any]: ...

    @abstractmethod
    def _answers(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]: ...

    def _upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        can = self._capabilities
        points = make_points(
            documents, embeddings, identity=self._identity, max_floats=can.max_floats, types=self.field_types
        )
        with self._engine():
            for batch in batches(
                points, lambda point: point.json_bytes, max_bytes=self._max_bytes, max_items=can.max_upsert
            ):
                self._write(batch)

    def _get(self, ids: Sequence[str]) -> list[Document]:
        found = self._payloads(ids)
        return [read_point(found[i]) for i in ids if i in found]

    def _payloads(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Id → payload of those that exist."""
        with self._engine():
            records = self._records([point_id(i) for i in ids]) if ids else []
        return {read_id(record.payload): record.payload for record in records}

    def _scroll(self, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
        offset: Any = None
        while True:
            with self._engine():
                records, offset = self._scroll_page(offset, batch)
            if records:
                documents = [read_point(record.payload) for record in records]
                yield documents, pack([read_embedding(record.vector) for record in records])
            if offset is None:
                return

    def _query(self, query: M3Embedding, search: Search, *, explain: bool) -> list[Hit]:
        found = self._search(query, search, explain=explain, ids_only=False)
        return [Hit(read_point(hit.payload), hit.score, hit.parts) for hit in found]

    def _rank(self, query: M3Embedding, search: Search) -> list[tuple[str, float]]:
        return [(hit.id, hit.score) for hit in self._search(query, search, explain=False, ids_only=True)]

    def _search(self, query: M3Embedding, search: Search, *, explain: bool, ids_only: bool) -> list[Found]:
        """The hits, best first, with their payload or only with their ids.

        Raises:
            ConfigError: strict mode allows fewer candidates.
        """
        plan, can = make_plan(query, search), self._capabilities
        if not plan.rescores:
            return []
        self._check_limit(plan)
        found = prefetches(query, plan, search, exact=self._exact)
        with self._engine():  # of an embedded search with several requests nobody sees half
            ids = self._candidates(found) if can.shards > 1 else None
            if ids == []:
                return []
            # Ranks are added here, or equal scores would have any rank; and over several shards all but the formula.
            is_fused_there = search.fusion == "weighted_sum" or (search.fusion == "dbsf" and ids is None)
            if can.may_be_exact and is_fused_there:
                rounds = (plan, found) if ids is None else among(plan, ids)
                hits = self._fused(query, search, *rounds, ids_only=ids_only)
                return self._explained(query, plan, hits) if explain and hits else hits
            size = _UNDERSAMPLED - 1
            parts = self._parts(
                query,
                [(plan, found)] if ids is None else [among(plan, ids[i : i + size]) for i in range(0, len(ids), size)],
                vectors_to_score(query, plan, explain=explain),
            )
            best = best_first(fuse(parts, search), search)
            names = [name for name, _ in best]
            payloads = {name: {ID_FIELD: name} for name in names} if ids_only else self._payloads(names)
        # A document that was deleted meanwhile has none.
        return [
            Found(name, total, payloads[name], parts[name] if explain else None)
            for name, total in best
            if name in payloads
        ]

    def _check_limit(self, plan: Plan) -> None:
        largest = self._capabilities.max_limit
        if largest is not None and max(plan.prefetch_limit, plan.rescore_limit) > largest:
            lists = plan.rescore_limit // plan.prefetch_limit
            raise ConfigError(
                f"the {self._where} allows {largest} hits per request (strict mode), and this query needs "
                f"{plan.rescore_limit}: ask for at most {largest // lists} candidates"
            )

    def _candidates(self, found: list[Request]) -> list[str]:
        """Points that the prefetches find over all shards, each once."""
        answers = self._answers(candidate_requests(found, may_be_exact=self._capabilities.may_be_exact))
        return list(dict.fromkeys(str(point.id) for points in answers for point in points))

    def _fused(
        self, query: M3Embedding, search: Search, plan: Plan, found: list[Request], *, ids_only: bool
    ) -> list[Found]:
        """A page fused by the engine: one request, two more where equal scores lie across one of its edges."""
        request = fused_request(plan, found, query, search)

        def ask(offset: int, limit: int, only_ids: bool) -> list[Found]:
            page = {**request, "offset": offset, "limit": limit, "with_payload": [ID_FIELD] if only_ids else True}
            return [Found(read_id(point.payload), point.score, point.payload) for point in self._answer(page)]

        return read_page(search, plan.rescore_limit, ask, None if ids_only else self._payloads)

    def _explained(self, query: M3Embedding, plan: Plan, hits: list[Found]) -> list[Found]:
        """The same hits with their raw scores, which are asked for of them alone."""
        rounds = [among(plan, [point_id(hit.id) for hit in hits])]
        parts = self._parts(query, rounds, vectors_to_score(query, plan, explain=True))
        return [replace(hit, parts=parts[hit.id]) for hit in hits if hit.id in parts]

    def _parts(
        self, query: M3Embedding, rounds: list[tuple[Plan, list[Request]]], names: Sequence[str]
    ) -> dict[str, Scores]:
        """Id → raw scores, by a request for each vector and round."""
        exact = self._capabilities.may_be_exact
        parts = [score_requests(plan, found, query, names, may_be_exact=exact) for plan, found in rounds]
        requests = [request for part in parts for request in part]
        answers: dict[str, dict[str, float]] = {name: {} for name in names}
        for request, points in zip(requests, self._answers(requests), strict=True):
            answers[request["using"]].update((read_id(point.payload), point.score) for point in points)
        return read_parts(query, answers)
