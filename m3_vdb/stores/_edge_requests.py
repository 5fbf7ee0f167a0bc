"""What the embedded engine is sent: points, filters, the fused query, its batch. The twin of ``_qdrant_requests.py``.

Everything here is a pure function of checked values, built from the request classes of qdrant-edge-py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import qdrant_edge as edge

from m3_vdb.filters import And, AnyOf, Exists, Expression, Not, Or, Range, parse_filter
from m3_vdb.stores._plan import Plan
from m3_vdb.stores._points import Point, field_path
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, RRF_K, SPARSE, Search
from m3_vdb.types import M3Embedding


def leaves(query: M3Embedding, plan: Plan, search: Search, *, exact: bool) -> list[edge.Prefetch]:
    """The searches that find the candidates; the reasons stand in ``_qdrant_requests``."""
    condition, vectors = to_filter(parse_filter(search.filter)), _vectors(query)
    return [
        edge.Prefetch(
            query=edge.Query.Nearest(vectors[name], using=name),
            limit=plan.leaf_limit,
            filter=condition,
            params=edge.SearchParams(exact=exact, hnsw_ef=search.ef) if name == DENSE else None,
        )
        for name in plan.leaves
    ]


def fused(
    query: M3Embedding, plan: Plan, search: Search, *, exact: bool, payload: bool | list[str]
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
        limit=search.limit,
        offset=search.offset,
        score_threshold=search.score_threshold,
        with_payload=payload,
        with_vector=False,
    )


def _fusion(plan: Plan, search: Search) -> Any:  # noqa: ANN401 - the three share no base class
    """What makes one score of the branches: a formula or a fusion."""
    if search.fusion == "rrf":  # Qdrant counts ranks from 0
        return edge.Fusion.Rrf(RRF_K + 1)
    if search.fusion == "dbsf":
        return edge.Fusion.Dbsf()
    products = [
        edge.Expression.Mult([edge.Expression.Constant(branch.weight), edge.Expression.Variable(f"$score[{i}]")])
        for i, branch in enumerate(plan.branches)
    ]
    defaults = {f"$score[{i}]": 0.0 for i in range(1, len(products))}
    return edge.Formula(edge.Expression.Sum(products), defaults)


def part_requests(
    query: M3Embedding, plan: Plan, search: Search, names: tuple[str, ...], *, exact: bool
) -> list[edge.QueryRequest]:
    """One request for each vector: the raw scores of all candidates by it."""
    found, vectors = leaves(query, plan, search, exact=exact), _vectors(query)
    return [
        edge.QueryRequest(
            query=found[0].query if plan.leaves == (name,) else edge.Query.Nearest(vectors[name], using=name),
            prefetches=[] if plan.leaves == (name,) else found,
            filter=found[0].filter if plan.leaves == (name,) else None,
            params=found[0].params if plan.leaves == (name,) else _scoring(name),
            limit=plan.branch_limit,
            with_payload=False,
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
    if isinstance(expression, Exists):  # the engine calls missing, null and [] empty, and nothing else
        return edge.Filter(must_not=[edge.IsEmptyCondition(field_path(expression.key))])
    if isinstance(expression, Range):
        bounds = edge.RangeFloat(gt=expression.gt, gte=expression.gte, lt=expression.lt, lte=expression.lte)
        return edge.Filter(must=[edge.FieldCondition(field_path(expression.key), range=bounds)])
    return _any_of(expression)


def _any_of(condition: AnyOf) -> edge.Filter:
    """One field equal to any of the values; the engine has one matcher for each type."""
    path = field_path(condition.key)
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
