"""A search on a Qdrant server, in the form that the server allows; ``_qdrant_requests.py`` describes the four."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from qdrant_client import QdrantClient, models

from m3_vdb.errors import ConfigError
from m3_vdb.stores._plan import Plan, fuse_answers, make_plan, vectors_to_score
from m3_vdb.stores._qdrant_requests import among, candidate_requests, fused, leaves, part_requests
from m3_vdb.stores._qdrant_schema import QdrantCapabilities
from m3_vdb.stores.search import Search
from m3_vdb.types import M3Embedding, Scores

_UNDERSAMPLED: Final = 128
"""From this limit on, a server asks each of several shards for fewer hits than it might need."""


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as the server gives it."""

    payload: Mapping[str, Any]
    score: float
    parts: Scores | None = None


@dataclass(frozen=True, slots=True)
class Searcher:
    """Searches one collection.

    Attributes:
        client: a connected client.
        collection: name of the collection.
        can: what the server is.
        exact: candidates by a full scan.
    """

    client: QdrantClient
    collection: str
    can: QdrantCapabilities
    exact: bool

    def search(self, query: M3Embedding, search: Search, *, explain: bool, payload: bool | list[str]) -> list[Found]:
        """The hits, best first, with as much of their payload as is asked for.

        Raises:
            ConfigError: strict mode allows fewer candidates.
        """
        plan = make_plan(query, search)
        if not plan.branches:
            return []
        self._check_limit(plan)
        found = leaves(query, plan, search, exact=self.exact)
        if self.can.shards == 1:
            if explain or not self.can.may_be_exact:
                return self._batch(query, search, [(plan, found)], plan, explain=explain, payload=payload)
            return self._fused(query, search, plan, found, payload=payload)
        ids = self._candidates(found)
        if not ids:
            return []
        if explain or not self.can.may_be_exact or search.fusion != "exact":
            size = _UNDERSAMPLED - 1
            rounds = [among(plan, ids[i : i + size]) for i in range(0, len(ids), size)]
            return self._batch(query, search, rounds, plan, explain=explain, payload=payload)
        return self._fused(query, search, *among(plan, ids), payload=payload)

    def _check_limit(self, plan: Plan) -> None:
        largest = self.can.max_limit
        if largest is not None and max(plan.leaf_limit, plan.branch_limit) > largest:
            lists = plan.branch_limit // plan.leaf_limit
            raise ConfigError(
                f"Qdrant collection {self.collection!r} allows {largest} hits a request (strict mode), and this query "
                f"needs {plan.branch_limit}: ask for at most {largest // lists} candidates"
            )

    def _fused(
        self,
        query: M3Embedding,
        search: Search,
        plan: Plan,
        found: list[models.Prefetch],
        *,
        payload: bool | list[str],
    ) -> list[Found]:
        """One request, fused by the server."""
        one = fused(plan, found, query, search)
        answer = self.client.query_points(
            self.collection,
            prefetch=one.prefetch,
            query=one.query,
            limit=search.limit,
            offset=one.offset,
            search_params=one.params,
            score_threshold=one.score_threshold,
            with_payload=payload,
        )
        return [Found(point.payload or {}, point.score) for point in answer.points]

    def _batch(
        self,
        query: M3Embedding,
        search: Search,
        rounds: list[tuple[Plan, list[models.Prefetch]]],
        whole: Plan,
        *,
        explain: bool,
        payload: bool | list[str],
    ) -> list[Found]:
        """A request for each vector and round, fused here; then the payload of the best."""
        names = vectors_to_score(query, whole, explain=explain)
        exact = self.can.may_be_exact
        parts = [part_requests(plan, found, query, names, may_be_exact=exact) for plan, found in rounds]
        requests = [request for part in parts for request in part]
        answers: dict[str, dict[str, float]] = {name: {} for name in names}
        for request, points in zip(requests, self._answers(requests), strict=True):
            answers[str(request.using)].update((str(point.id), point.score) for point in points)
        best = fuse_answers(query, answers, search)
        payloads = self._payloads([name for name, _, _ in best], payload)
        # A document that was deleted meanwhile has none.
        hits = [(payloads[name], total, parts) for name, total, parts in best if name in payloads]
        return [Found(kept, total, parts if explain else None) for kept, total, parts in hits]

    def _candidates(self, found: list[models.Prefetch]) -> list[str]:
        """Points that the leaves find over all shards, each once."""
        answers = self._answers(candidate_requests(found, may_be_exact=self.can.may_be_exact))
        return list(dict.fromkeys(str(point.id) for points in answers for point in points))

    def _answers(self, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """Answers to requests, in as few calls as the server allows."""
        size = self.can.max_batch or len(requests)
        calls = [requests[i : i + size] for i in range(0, len(requests), size)]
        return [answer.points for call in calls for answer in self.client.query_batch_points(self.collection, call)]

    def _payloads(self, ids: Sequence[str], payload: bool | list[str]) -> dict[str, Mapping[str, Any]]:
        if not ids:
            return {}
        records = self.client.retrieve(self.collection, list(ids), with_payload=payload)
        return {str(record.id): record.payload or {} for record in records}
