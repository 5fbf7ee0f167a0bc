"""What the embedded engine is sent: schema, points, filters, the fused query. The twin of ``_qdrant_requests.py``.

Everything here is a pure function of checked values, built from the request classes of qdrant-edge-py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from m3_vdb.stores._filters import Condition, parse_filter
from m3_vdb.stores._plan import Plan
from m3_vdb.stores._points import Point
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, RRF_K, SPARSE, Search
from m3_vdb.types import M3Embedding


def edge_config(identity: ModelIdentity, *, half: bool) -> edge.EdgeConfig:
    """The schema of a new collection; ``half`` stores the multi-vector as float16."""
    return edge.EdgeConfig(
        vectors={
            # Dot and not Cosine: the vectors are unit already, and what was stored is what is scored.
            DENSE: edge.EdgeVectorParams(size=identity.dense_dim, distance=edge.Distance.Dot),
            # Only ever re-scores candidates, so it needs no HNSW (m=0).
            MULTI_VECTOR: edge.EdgeVectorParams(
                size=identity.multi_vector_dim,
                distance=edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
                datatype=edge.VectorStorageDatatype.Float16 if half else None,
            ),
        },
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams()},
    )


def fused(
    query: M3Embedding, plan: Plan, search: Search, *, exact: bool
) -> tuple[list[edge.Prefetch], Any]:
    """The branches of a plan and what makes one score of theirs: a formula or a fusion, which share no base class.

    The reasons stand in ``_qdrant_requests.fused``.
    """
    condition = to_filter(parse_filter(search.filter))
    vectors = _vectors(query)
    leaves = [
        edge.Prefetch(
            query=edge.Query.Nearest(vectors[name], using=name),
            limit=plan.leaf_limit,
            filter=condition,
            params=edge.SearchParams(exact=exact, hnsw_ef=search.ef) if name == DENSE else None,
        )
        for name in plan.leaves
    ]
    branches = [
        leaves[0]
        if branch.is_leaf
        else edge.Prefetch(
            prefetches=leaves,
            query=edge.Query.Nearest(vectors[branch.vector], using=branch.vector),
            limit=plan.branch_limit,
            params=None if branch.vector == SPARSE else edge.SearchParams(exact=True),
        )
        for branch in plan.branches
    ]
    if search.fusion == "rrf":  # Qdrant counts ranks from 0
        return branches, edge.Fusion.Rrf(RRF_K + 1)
    if search.fusion == "dbsf":
        return branches, edge.Fusion.Dbsf()
    products = [
        edge.Expression.Mult([edge.Expression.Constant(branch.weight), edge.Expression.Variable(f"$score[{i}]")])
        for i, branch in enumerate(plan.branches)
    ]
    defaults = {f"$score[{i}]": 0.0 for i in range(1, len(products))}
    return branches, edge.Formula(edge.Expression.Sum(products), defaults)


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


def to_filter(conditions: Sequence[Condition]) -> edge.Filter | None:
    """Payload conditions that must all hold; None if there are none."""
    return edge.Filter(must=[_any_of(condition) for condition in conditions]) if conditions else None


def _any_of(condition: Condition) -> edge.Filter:
    """One field equal to any of the values; the engine has one matcher for each type."""
    # np.bool_ is deliberate: qdrant-edge 0.9 reads a Python bool as the integer 0 or 1, which no stored bool equals.
    booleans: list[Any] = [np.bool_(b) for b in condition.booleans]
    matchers: list[Any] = [edge.MatchValue(b) for b in booleans]
    if condition.integers:
        matchers.append(edge.MatchAny(list(condition.integers)))
    if condition.strings or not (condition.integers or condition.booleans or condition.floats):
        matchers.append(edge.MatchAny(list(condition.strings)))  # any of nothing matches nothing
    fields = [edge.FieldCondition(condition.path, match=matcher) for matcher in matchers]
    ranges = [edge.FieldCondition(condition.path, range=edge.RangeFloat(gte=f, lte=f)) for f in condition.floats]
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
