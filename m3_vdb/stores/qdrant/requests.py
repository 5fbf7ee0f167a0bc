"""What Qdrant is asked, for its server and its embedded engine alike: the fused query, its batch, filters.

A request is a plain dict in the form of Qdrant's REST API, with arrays for the lists of vectors. ``calls.py`` sends it,
and ``edge_values.py`` translates it for the embedded engine. Everything here is a pure function of checked values.

A search takes one of three forms, chosen by what the server is (``QdrantCapabilities``):

- **One request**: rescores over the prefetches, added by a formula. The prefetches are repeated in every rescore, and
  the engine searches them as often.
- **Batch**: a request per rescore, added here. For fusion by ranks, and where strict mode forbids ``exact``: it then
  refuses a vector without HNSW in a prefetch, yet allows it at the root. Also to explain the hits of a page.
- **Two steps**: the prefetches are searched first, and the other request, of either form, names what they find. On
  several shards, because every shard answers a nested request by itself, with candidates of its own; and where the
  engine is in this process and another request costs nothing (``lists_first``), so that each list is searched once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias

from m3_vdb.boosts import MAX_NUMBER, Boost
from m3_vdb.filters import And, AnyOf, Condition, Exists, Expression, Not, Or, Text, field_steps
from m3_vdb.marks import MARKS_FIELD
from m3_vdb.scoring import BM25_HALF
from m3_vdb.stores.fusion import MAY_LACK, Plan, Rescore, words_limit
from m3_vdb.stores.options import BM25, DENSE, Search
from m3_vdb.stores.points import ID_FIELD, TEXT_FIELD, field_path, named_vectors
from m3_vdb.types import M3Embedding

Request: TypeAlias = dict[str, Any]
"""A request, a prefetch or a filter of Qdrant's REST API; vectors are arrays, dates in filters ``datetime``."""


def prefetches(query: M3Embedding, plan: Plan, search: Search, *, exact: bool) -> list[Request]:
    """The searches that find the candidates; ``exact`` is a full scan, not HNSW."""
    vectors = named_vectors(query)
    # The filter is part of the prefetch, so it restricts the candidates of every rescore.
    return [
        {
            "query": vectors[name],
            "using": name,
            "limit": words_limit(plan.prefetch_limit) if name == BM25 else plan.prefetch_limit,
            "filter": None if search.filter is None else to_filter(search.filter),
            "params": {"exact": exact, "hnsw_ef": search.ef} if name == DENSE else None,
        }
        for name in plan.prefetches
    ]


def candidate_requests(found: Sequence[Request], *, may_be_exact: bool) -> list[Request]:
    """The first of two steps: every prefetch as a search of its own, over all shards."""
    # Of 128 hits and more a shard is asked for fewer than its share may be, unless the search is exact.
    exact = {"params": {"exact": True}} if may_be_exact else {}
    return [{**one, **({} if one["using"] == DENSE else exact), "with_payload": False} for one in found]


def among(plan: Plan, ids: Sequence[Any]) -> tuple[Plan, list[Request]]:
    """The plan over candidates that are known, and the prefetch that names them."""
    rescores = tuple(replace(rescore, is_prefetch=False) for rescore in plan.rescores)
    known = {"filter": {"must": [{"has_id": list(ids)}]}, "limit": len(ids)}
    return replace(plan, prefetches=(), rescores=rescores, rescore_limit=len(ids)), [known]


def fused_request(plan: Plan, found: list[Request], query: M3Embedding, search: Search) -> Request:
    """The request that returns the best documents by their fused score; limit and offset are the caller's."""
    vectors = named_vectors(query)
    rescores = [
        found[0]
        if one.is_prefetch
        else {
            "prefetch": found if plan.prefetches else None,
            "query": vectors[one.vector],
            "using": one.vector,
            "limit": plan.rescore_limit,
            "params": _scoring(one.vector, may_be_exact=True),
        }
        for one in plan.rescores
    ]
    return {
        "prefetch": rescores,
        "query": _fusion(plan, search),
        "score_threshold": search.score_threshold,
        # Candidates that are known: once for all rescores, to which Qdrant hands it down.
        "filter": None if plan.prefetches else found[0]["filter"],
        # On several shards, so that each is asked for all hits; it scans nothing, for there are only rescores.
        "params": None if plan.prefetches else {"exact": True},
    }


def _fusion(plan: Plan, search: Search) -> Request:
    """What makes one score of the rescores; ranks are never left to the engine."""
    if search.fusion == "dbsf":
        return {"fusion": "dbsf"}
    products = [{"mult": [one.weight, _score(one, f"$score[{i}]")]} for i, one in enumerate(plan.rescores)]
    boosts = [term for boost in search.boosts for term in _boost_terms(boost, search.now)]
    return {"formula": {"sum": products + boosts}, "defaults": {f"$score[{i}]": 0.0 for i in range(1, len(products))}}


def _score(rescore: Rescore, score: str) -> str | Request:
    """The engine's score as an expression; that of exact words is b / (b + c)."""
    if rescore.vector != BM25:
        return score
    return {"div": {"left": score, "right": {"sum": [score, BM25_HALF]}, "by_zero_default": 0.0}}


def _boost_terms(boost: Boost, now: datetime) -> Iterator[Request]:
    """What a boost adds, as products; their conditions come first, because the engine refuses to read another value."""
    for path in (field_path(*steps) for steps in field_steps(boost.field)):
        if isinstance(boost.half, timedelta):
            distance = {"x": {"datetime_key": path}, "target": {"datetime": now.isoformat()}}
            decay = {"exp_decay": {**distance, "midpoint": 0.5, "scale": boost.half.total_seconds()}}
            yield {"mult": [boost.weight, _is_one(path, "range", {"gte": _FIRST_DAY}), decay]}
        elif boost.half is None:
            yield {"mult": [boost.weight, _is_one(path, "match", {"value": True})]}
            yield {"mult": [boost.weight, _is_one(path, "range", {"gte": -MAX_NUMBER, "lte": MAX_NUMBER}), path]}
        else:
            share = {"div": {"left": path, "right": {"sum": [path, boost.half]}}}
            yield {"mult": [boost.weight, _is_one(path, "range", {"gt": 0.0, "lte": MAX_NUMBER}), share]}


def _is_one(path: str, test: str, value: Request) -> Request:
    """The condition that a field has one value, which passes a test: 1 in a formula, else 0."""
    return {"must": [{"key": path, test: value}, {"key": path, "values_count": {"lt": 2}}]}


def score_requests(
    plan: Plan,
    found: list[Request],
    query: M3Embedding,
    names: Sequence[str],
    *,
    boosts: Sequence[Boost],
    may_be_exact: bool,
) -> list[Request]:
    """One request per vector: the raw scores of all candidates by it, and the fields that boosts read."""
    vectors, requests = named_vectors(query), []
    fields = [ID_FIELD, *(field_path(*steps) for boost in boosts for steps in field_steps(boost.field))]
    for name in names:
        is_prefetch = plan.prefetches == (name,)
        request = {"query": vectors[name], "using": name, "limit": plan.rescore_limit, "with_payload": fields}
        if is_prefetch:
            request |= {"filter": found[0]["filter"], "params": found[0]["params"]}
        else:
            request |= {"prefetch": found, "params": _scoring(name, may_be_exact=may_be_exact)}
        requests.append(request)
    return requests


def _scoring(name: str, *, may_be_exact: bool) -> Request | None:
    """exact: never by the HNSW graph, which sparse vectors and our multi-vectors do not have."""
    return {"exact": True} if name not in MAY_LACK and may_be_exact else None


_FIRST_DAY: Final = datetime.min.replace(tzinfo=timezone.utc)
LATER_PASSAGES: Final[Request] = {"must": [{"key": f"{MARKS_FIELD}.passage[0]", "range": {"gt": 1}}]}
"""What is the second or a further passage of a document (``m3_vdb.marks``)."""


def to_filter(expression: Expression) -> Request:
    """A filter in Qdrant's form, always a complete one, so that it can be part of another."""
    if isinstance(expression, And):
        return {"must": [to_filter(part) for part in expression.parts]}
    if isinstance(expression, Or):
        return {"should": [to_filter(part) for part in expression.parts]}
    if isinstance(expression, Not):
        return {"must_not": [to_filter(expression.part)]}
    if isinstance(expression, Text):
        return {"must": [{"key": TEXT_FIELD, "match": {"text": expression.words}}]}
    # A name with a dot has two readings, and is met by either.
    readings = [_condition(field_path(*steps), expression) for steps in field_steps(expression.key)]
    return readings[0] if len(readings) == 1 else {"should": readings}


def _condition(path: str, condition: Condition) -> Request:
    """A condition on the field at a path."""
    if isinstance(condition, Exists):  # Qdrant calls missing, null and [] empty, and nothing else
        return {"must_not": [{"is_empty": {"key": path}}]}
    if isinstance(condition, AnyOf):
        return _any_of(path, condition)
    bounds = {name: getattr(condition, name) for name in ("gt", "gte", "lt", "lte")}
    return {"must": [{"key": path, "range": {name: bound for name, bound in bounds.items() if bound is not None}}]}


def _any_of(path: str, condition: AnyOf) -> Request:
    """One field equal to any of the values; Qdrant has one matcher per type."""
    tests: list[Request] = [{"match": {"value": value}} for value in condition.booleans]
    if condition.integers:
        tests.append({"match": {"any": list(condition.integers)}})
    if condition.strings or not (condition.integers or condition.booleans or condition.floats):
        tests.append({"match": {"any": list(condition.strings)}})  # any of nothing matches nothing
    tests += [{"range": {"gte": value, "lte": value}} for value in condition.floats]
    return {"should": [{"key": path, **test} for test in tests]}
