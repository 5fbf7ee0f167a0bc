"""What the embedded engine is sent: points, filters, the fused query, its batch. The twin of ``requests.py``.

Everything here is a pure function of checked values, built from the request classes of qdrant-edge-py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from m3_vdb.filters import And, AnyOf, Condition, Exists, Expression, Not, Or, Range, field_steps
from m3_vdb.stores.fusion import Plan
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.stores.points import ID_FIELD, Point, field_path
from m3_vdb.types import M3Embedding


def leaves(query: M3Embedding, plan: Plan, search: Search, *, exact: bool) -> list[edge.Prefetch]:
    """The searches that find the candidates; the reasons stand in ``requests``."""
    condition, vectors = to_filter(search.filter), _vectors(query)
    return [
        edge.Prefetch(
            query=edge.Query.Nearest(vectors[name], using=name),
            limit=plan.leaf_limit,
            filter=condition,
            params=edge.SearchParams(exact=exact, hnsw_ef=search.ef) if name == DENSE else None,
        )
        for name in plan.leaves
    ]


def among(ids: Sequence[str]) -> list[edge.Prefetch]:
    """The leaf that names candidates which are known."""
    return [edge.Prefetch(filter=edge.Filter(must=[edge.HasIdCondition(set(ids))]), limit=len(ids))]


def fused(
    query: M3Embedding, plan: Plan, search: Search, *, exact: bool, limit: int, offset: int, payload: bool | list[str]
) -> edge.QueryRequest:
    """The one request that returns the best documents by their fused score."""
    found, vectors = leaves(query, plan, search, exact=exact), _vectors(query)
    branches = [
        found[0]
        if branch.is_leaf
        else edge.Prefetch(
            prefetches=found,
            query=edge.Query.Nearest(vectors[branch.vector], using=branch.vector),
            limit=plan.branch_limit,
            params=_scoring(branch.vector),
        )
        for branch in plan.branches
    ]
    return edge.QueryRequest(
        prefetches=branches,
        query=_fusion(plan, search),
        limit=limit,
        offset=offset,
        score_threshold=search.score_threshold,
        with_payload=payload,
        with_vector=False,
    )


def _fusion(plan: Plan, search: Search) -> Any:  # noqa: ANN401 - the three share no base class
    """What makes one score of the branches: a formula or a fusion, but never by ranks (``requests``)."""
    if search.fusion == "dbsf":
        return edge.Fusion.Dbsf()
    products = [
        edge.Expression.Mult([edge.Expression.Constant(branch.weight), edge.Expression.Variable(f"$score[{i}]")])
        for i, branch in enumerate(plan.branches)
    ]
    defaults = {f"$score[{i}]": 0.0 for i in range(1, len(products))}
    return edge.Formula(edge.Expression.Sum(products), defaults)


def part_requests(
    query: M3Embedding, found: list[edge.Prefetch], names: Sequence[str], *, leaf: str | None, limit: int
) -> list[edge.QueryRequest]:
    """One request for each vector: the raw scores of all candidates by it.

    Args:
        query: all three parts.
        found: the searches that find the candidates.
        names: the vectors.
        leaf: the vector whose score the only one of these searches gives itself.
        limit: candidates that there may be.
    """
    vectors = _vectors(query)
    return [
        edge.QueryRequest(
            query=edge.Query.Nearest(vectors[name], using=name),
            prefetches=[] if name == leaf else found,
            filter=found[0].filter if name == leaf else None,
            params=found[0].params if name == leaf else _scoring(name),
            limit=limit,
            with_payload=[ID_FIELD],
            with_vector=False,
        )
        for name in names
    ]


def _scoring(name: str) -> edge.SearchParams | None:
    return None if name == SPARSE else edge.SearchParams(exact=True)


def _vectors(query: M3Embedding) -> dict[str, Any]:
    """The query's parts as request values, by the name of the vector."""
    assert query.dense is not None  # check_search has refused a query that lacks a part
    assert query.sparse is not None
    assert query.multi_vector is not None
    return {
        DENSE: query.dense.tolist(),
        SPARSE: edge.SparseVector(query.sparse.ids.tolist(), query.sparse.weights.tolist()),
        MULTI_VECTOR: query.multi_vector.tolist(),
    }


def to_filter(expression: Expression | None) -> edge.Filter | None:
    """A filter in the engine's words; None if there is none."""
    return None if expression is None else _filter(expression)


def _filter(expression: Expression) -> edge.Filter:
    """Always a filter of its own, so that it can stand anywhere in another one."""
    if isinstance(expression, And):
        return edge.Filter(must=[_filter(part) for part in expression.parts])
    if isinstance(expression, Or):
        return edge.Filter(should=[_filter(part) for part in expression.parts])
    if isinstance(expression, Not):
        return edge.Filter(must_not=[_filter(expression.part)])
    # A name with a dot has two readings, and is met by either.
    readings = [_condition(field_path(*steps), expression) for steps in field_steps(expression.key)]
    return readings[0] if len(readings) == 1 else edge.Filter(should=list(readings))


def _condition(path: str, condition: Condition) -> edge.Filter:
    """A condition on the field at a path."""
    if isinstance(condition, Exists):  # the engine calls missing, null and [] empty, and nothing else
        return edge.Filter(must_not=[edge.IsEmptyCondition(path)])
    if isinstance(condition, AnyOf):
        return _any_of(path, condition)
    bounds: dict[str, Any] = {name: getattr(condition, name) for name in ("gt", "gte", "lt", "lte")}
    if isinstance(condition, Range):
        return edge.Filter(must=[edge.FieldCondition(path, range=edge.RangeFloat(**bounds))])
    dates = {name: bound and bound.isoformat() for name, bound in bounds.items()}
    return edge.Filter(must=[edge.FieldCondition(path, range=edge.RangeDateTime(**dates))])


def _any_of(path: str, condition: AnyOf) -> edge.Filter:
    """One field equal to any of the values; the engine has one matcher for each type."""
    # np.bool_ is deliberate: qdrant-edge 0.9 reads a Python bool as the integer 0 or 1, which no stored bool equals.
    booleans: list[Any] = [np.bool_(b) for b in condition.booleans]
    matchers: list[Any] = [edge.MatchValue(b) for b in booleans]
    if condition.integers:
        matchers.append(edge.MatchAny(list(condition.integers)))
    if condition.strings or not (condition.integers or condition.booleans or condition.floats):
        matchers.append(edge.MatchAny(list(condition.strings)))  # any of nothing matches nothing
    fields = [edge.FieldCondition(path, match=matcher) for matcher in matchers]
    ranges = [edge.FieldCondition(path, range=edge.RangeFloat(gte=f, lte=f)) for f in condition.floats]
    return edge.Filter(should=[*fields, *ranges])


def to_point(point: Point) -> edge.Point:
    """A document with its three named vectors."""
    return edge.Point(
        id=point.id,
        payload=point.payload,
        vector={
            DENSE: point.dense.tolist(),
            SPARSE: edge.SparseVector(point.sparse.ids.tolist(), point.sparse.weights.tolist()),
            MULTI_VECTOR: point.multi_vector.tolist(),
        },
    )
