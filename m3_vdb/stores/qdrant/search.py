"""A search on a Qdrant server, in the form that the server allows; ``requests.py`` describes the four."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from qdrant_client import QdrantClient, models

from m3_vdb.errors import ConfigError
from m3_vdb.stores.fusion import Found, Plan, best_first, fuse, make_plan, read_page, read_parts, vectors_to_score
from m3_vdb.stores.options import Search
from m3_vdb.stores.points import ID_FIELD, point_id, read_id
from m3_vdb.stores.qdrant.requests import among, candidate_requests, fused, leaves, part_requests
from m3_vdb.stores.qdrant.schema import QdrantCapabilities
from m3_vdb.types import M3Embedding, Scores

_UNDERSAMPLED: Final = 128
"""From this limit on, a server asks each of several shards for fewer hits than it might need."""


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

    def search(self, query: M3Embedding, search: Search, *, explain: bool, ids_only: bool) -> list[Found]:
        """The hits, best first, with their payload or only with their ids.

        Raises:
            ConfigError: strict mode allows fewer candidates.
        """
        plan = make_plan(query, search)
        if not plan.branches:
            return []
        self._check_limit(plan)
        found = leaves(query, plan, search, exact=self.exact)
        ids = self._candidates(found) if self.can.shards > 1 else None
        if ids == []:
            return []
        # Ranks are added here, or equal scores would have any rank; and over several shards every fusion but a formula.
        by_server = search.fusion == "exact" or (search.fusion == "dbsf" and ids is None)
        if self.can.may_be_exact and by_server:
            plan, found = (plan, found) if ids is None else among(plan, ids)
            hits = self._fused(query, search, plan, found, ids_only=ids_only)
            return self._explained(query, plan, hits) if explain and hits else hits
        size = _UNDERSAMPLED - 1
        parts = [(plan, found)] if ids is None else [among(plan, ids[i : i + size]) for i in range(0, len(ids), size)]
        return self._batch(query, search, parts, plan, explain=explain, ids_only=ids_only)

    def _check_limit(self, plan: Plan) -> None:
        largest = self.can.max_limit
        if largest is not None and max(plan.leaf_limit, plan.branch_limit) > largest:
            lists = plan.branch_limit // plan.leaf_limit
            raise ConfigError(
                f"Qdrant collection {self.collection!r} allows {largest} hits a request (strict mode), and this query "
                f"needs {plan.branch_limit}: ask for at most {largest // lists} candidates"
            )

    def _fused(
        self, query: M3Embedding, search: Search, plan: Plan, found: list[models.Prefetch], *, ids_only: bool
    ) -> list[Found]:
        """A page fused by the server: one request, two more where equal scores lie across one of its edges."""
        one = fused(plan, found, query, search)

        def ask(offset: int, limit: int, only_ids: bool) -> list[Found]:
            answer = self.client.query_points(
                self.collection,
                prefetch=one.prefetch,
                query=one.query,
                limit=limit,
                offset=offset or None,
                search_params=one.params,
                score_threshold=one.score_threshold,
                with_payload=[ID_FIELD] if only_ids else True,
            )
            return [Found(read_id(point.payload), point.score, point.payload or {}) for point in answer.points]

        return read_page(search, plan.branch_limit, ask, None if ids_only else self._payloads)

    def _explained(self, query: M3Embedding, plan: Plan, hits: list[Found]) -> list[Found]:
        """The same hits with their raw scores, which are asked for of them alone."""
        parts = self._parts(query, [among(plan, [point_id(hit.id) for hit in hits])], plan, explain=True)
        return [replace(hit, parts=parts[hit.id]) for hit in hits if hit.id in parts]

    def _batch(
        self,
        query: M3Embedding,
        search: Search,
        rounds: list[tuple[Plan, list[models.Prefetch]]],
        whole: Plan,
        *,
        explain: bool,
        ids_only: bool,
    ) -> list[Found]:
        """All candidates by each vector, fused here; then the payload of the best."""
        parts = self._parts(query, rounds, whole, explain=explain)
        best = best_first(fuse(parts, search), search)
        ids = [name for name, _ in best]
        payloads = {name: {ID_FIELD: name} for name in ids} if ids_only else self._payloads(ids)
        # A document that was deleted meanwhile has none.
        return [
            Found(name, total, payloads[name], parts[name] if explain else None)
            for name, total in best
            if name in payloads
        ]

    def _parts(
        self, query: M3Embedding, rounds: list[tuple[Plan, list[models.Prefetch]]], whole: Plan, *, explain: bool
    ) -> dict[str, Scores]:
        """Id → raw scores, by a request for each vector and round."""
        names = vectors_to_score(query, whole, explain=explain)
        exact = self.can.may_be_exact
        parts = [part_requests(plan, found, query, names, may_be_exact=exact) for plan, found in rounds]
        requests = [request for part in parts for request in part]
        answers: dict[str, dict[str, float]] = {name: {} for name in names}
        for request, points in zip(requests, self._answers(requests), strict=True):
            answers[str(request.using)].update((read_id(point.payload), point.score) for point in points)
        return read_parts(query, answers)

    def _candidates(self, found: list[models.Prefetch]) -> list[str]:
        """Points that the leaves find over all shards, each once."""
        answers = self._answers(candidate_requests(found, may_be_exact=self.can.may_be_exact))
        return list(dict.fromkeys(str(point.id) for points in answers for point in points))

    def _answers(self, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """Answers to requests, in as few calls as the server allows."""
        size = self.can.max_batch or len(requests)
        calls = [requests[i : i + size] for i in range(0, len(requests), size)]
        return [answer.points for call in calls for answer in self.client.query_batch_points(self.collection, call)]

    def _payloads(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        if not ids:
            return {}
        records = self.client.retrieve(self.collection, [point_id(name) for name in ids], with_payload=True)
        return {read_id(record.payload): record.payload or {} for record in records}
