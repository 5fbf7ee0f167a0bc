"""What a Qdrant server is sent: points, filters, the fused query and its batch. The twin of ``embedded_requests.py``.

Everything here is a pure function of checked values, built from the request models of qdrant-client.

A search has one of four forms, by what the server is (``QdrantCapabilities``):

- **One request**: branches over the leaves, added by a formula. The leaves stand in every branch.
- **Batch**: a request for each branch, added here. For fusion by ranks, and where strict mode forbids ``exact``: it
  then refuses a vector without HNSW in a prefetch, yet lets it re-score one. To explain a score too, but of the hits of
  the page alone.
- **Two steps**, of either form, on several shards: every shard answers a nested request by itself, with candidates of
  its own. So the leaves are searched first, and what they find, over all shards, becomes the only leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from m3_vdb.filters import And, AnyOf, Condition, Exists, Expression, Not, Or, Range, field_steps
from m3_vdb.stores.fusion import Plan
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.stores.points import ID_FIELD, Point, field_path
from m3_vdb.types import M3Embedding


def leaves(query: M3Embedding, plan: Plan, search: Search, *, exact: bool) -> list[models.Prefetch]:
    """The searches that find the candidates; ``exact`` is a full scan, not HNSW."""
    condition, vectors = to_filter(search.filter), _vectors(query)
    # The filter is part of the leaf, so it restricts the candidates of every branch.
    return [
        models.Prefetch(
            query=vectors[name],
            using=name,
            limit=plan.leaf_limit,
            filter=condition,
            params=models.SearchParams(exact=exact, hnsw_ef=search.ef) if name == DENSE else None,
        )
        for name in plan.leaves
    ]


def candidate_requests(found: Sequence[models.Prefetch], *, may_be_exact: bool) -> list[models.QueryRequest]:
    """The first of two steps: every leaf as a search of its own, over all shards."""
    return [
        models.QueryRequest(
            query=leaf.query,
            using=leaf.using,
            limit=leaf.limit,
            filter=leaf.filter,
            # Of 128 hits and more a shard is asked for fewer than its share may be, unless the search is exact.
            params=leaf.params if leaf.using == DENSE or not may_be_exact else models.SearchParams(exact=True),
            with_payload=False,
        )
        for leaf in found
    ]


def among(plan: Plan, ids: Sequence[str]) -> tuple[Plan, list[models.Prefetch]]:
    """The second of two steps: the plan over candidates that are known, and the leaf that names them."""
    known = models.Prefetch(filter=models.Filter(must=[models.HasIdCondition(has_id=list(ids))]), limit=len(ids))
    branches = tuple(replace(branch, is_leaf=False) for branch in plan.branches)
    return replace(plan, leaves=(), branches=branches, branch_limit=len(ids)), [known]


def fused(plan: Plan, found: list[models.Prefetch], query: M3Embedding, search: Search) -> models.QueryRequest:
    """The one request that returns the best documents by their fused score; which of them, is for the caller to say."""
    vectors = _vectors(query)
    branches = [
        found[0]
        if branch.is_leaf
        else models.Prefetch(
            prefetch=found,
            query=vectors[branch.vector],
            using=branch.vector,
            limit=plan.branch_limit,
            params=_scoring(branch.vector, may_be_exact=True),
        )
        for branch in plan.branches
    ]
    return models.QueryRequest(
        prefetch=branches,
        query=_fusion(plan, search),
        score_threshold=search.score_threshold,
        # On several shards, so that each is asked for all hits; it scans nothing, for there are only branches.
        params=None if plan.leaves else models.SearchParams(exact=True),
        with_vector=False,
    )


def _fusion(plan: Plan, search: Search) -> models.Query:
    """What makes one score of the branches; ranks are not the server's business."""
    if search.fusion == "dbsf":
        return models.FusionQuery(fusion=models.Fusion.DBSF)
    products = [models.MultExpression(mult=[branch.weight, f"$score[{i}]"]) for i, branch in enumerate(plan.branches)]
    defaults: dict[str, Any] = {f"$score[{i}]": 0.0 for i in range(1, len(products))}
    return models.FormulaQuery(formula=models.SumExpression(sum=list(products)), defaults=defaults)


def part_requests(
    plan: Plan, found: list[models.Prefetch], query: M3Embedding, names: Sequence[str], *, may_be_exact: bool
) -> list[models.QueryRequest]:
    """One request for each vector: the raw scores of all candidates by it."""
    vectors = _vectors(query)
    requests = []
    for name in names:
        is_leaf = plan.leaves == (name,)
        requests.append(
            models.QueryRequest(
                prefetch=None if is_leaf else found,
                query=vectors[name],
                using=name,
                filter=found[0].filter if is_leaf else None,
                params=found[0].params if is_leaf else _scoring(name, may_be_exact=may_be_exact),
                limit=plan.branch_limit,
                with_payload=[ID_FIELD],
                with_vector=False,
            )
        )
    return requests


def _scoring(name: str, *, may_be_exact: bool) -> models.SearchParams | None:
    """exact: never by the graph. Sparse search has none, and a multi-vector of ours has none either."""
    return models.SearchParams(exact=True) if name != SPARSE and may_be_exact else None


def _vectors(query: M3Embedding) -> dict[str, Any]:
    """The query's parts as request values, by the name of the vector."""
    assert query.dense is not None  # check_search has refused a query that lacks a part
    assert query.sparse is not None
    assert query.multi_vector is not None
    return {
        DENSE: query.dense.tolist(),
        SPARSE: models.SparseVector(indices=query.sparse.ids.tolist(), values=query.sparse.weights.tolist()),
        MULTI_VECTOR: query.multi_vector.tolist(),
    }


def to_filter(expression: Expression | None) -> models.Filter | None:
    """A filter in Qdrant's words; None if there is none."""
    return None if expression is None else _filter(expression)


def _filter(expression: Expression) -> models.Filter:
    """Always a filter of its own, so that it can stand anywhere in another one."""
    if isinstance(expression, And):
        return models.Filter(must=[_filter(part) for part in expression.parts])
    if isinstance(expression, Or):
        return models.Filter(should=[_filter(part) for part in expression.parts])
    if isinstance(expression, Not):
        return models.Filter(must_not=[_filter(expression.part)])
    # A name with a dot has two readings, and is met by either.
    readings = [_condition(field_path(*steps), expression) for steps in field_steps(expression.key)]
    return readings[0] if len(readings) == 1 else models.Filter(should=list(readings))


def _condition(path: str, condition: Condition) -> models.Filter:
    """A condition on the field at a path."""
    if isinstance(condition, Exists):  # Qdrant calls missing, null and [] empty, and nothing else
        return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=path))])
    if isinstance(condition, AnyOf):
        return _any_of(path, condition)
    kind = models.Range if isinstance(condition, Range) else models.DatetimeRange
    bounds = kind(gt=condition.gt, gte=condition.gte, lt=condition.lt, lte=condition.lte)  # type: ignore[arg-type]
    return models.Filter(must=[models.FieldCondition(key=path, range=bounds)])


def _any_of(path: str, condition: AnyOf) -> models.Filter:
    """One field equal to any of the values; Qdrant has one matcher for each type."""
    matchers: list[models.MatchValue | models.MatchAny] = [models.MatchValue(value=b) for b in condition.booleans]
    if condition.integers:
        matchers.append(models.MatchAny(any=list(condition.integers)))
    if condition.strings or not (condition.integers or condition.booleans or condition.floats):
        matchers.append(models.MatchAny(any=list(condition.strings)))  # any of nothing matches nothing
    fields = [models.FieldCondition(key=path, match=matcher) for matcher in matchers]
    ranges = [models.FieldCondition(key=path, range=models.Range(gte=f, lte=f)) for f in condition.floats]
    return models.Filter(should=[*fields, *ranges])


def to_point(point: Point) -> models.PointStruct:
    """A document with its three named vectors."""
    return models.PointStruct(
        id=point.id,
        payload=point.payload,
        vector={
            DENSE: point.dense.tolist(),
            SPARSE: models.SparseVector(indices=point.sparse.ids.tolist(), values=point.sparse.weights.tolist()),
            MULTI_VECTOR: point.multi_vector.tolist(),
        },
    )
