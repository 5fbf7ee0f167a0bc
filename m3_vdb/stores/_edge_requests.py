"""What the embedded engine is sent: schema, points, filters, the fused query. The twin of ``_qdrant_requests.py``.

Everything here is a pure function of checked values, built from the request classes of qdrant-edge-py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge

from m3_vdb.fusion import Weights
from m3_vdb.stores._filters import Condition
from m3_vdb.stores._points import Point
from m3_vdb.stores.base import DENSE, MULTI_VECTOR, SPARSE, ModelIdentity
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
    query: M3Embedding, weights: Weights, candidates: int, condition: edge.Filter | None, *, exact: bool
) -> tuple[list[edge.Prefetch], edge.Formula]:
    """The branches of a query and the formula that adds them; the reasons stand in ``_qdrant_requests.fused``."""
    assert query.dense is not None  # check_query has refused a query that lacks a part
    assert query.sparse is not None
    assert query.multi_vector is not None
    leaf = edge.Prefetch(
        query=edge.Query.Nearest(query.dense.tolist(), using=DENSE),
        limit=candidates,
        filter=condition,
        params=edge.SearchParams(exact=exact),
    )
    branches = [leaf]
    terms = [(weights.dense, "$score[0]")]
    if weights.sparse and len(query.sparse.ids):
        sparse = edge.SparseVector(query.sparse.ids.tolist(), query.sparse.weights.tolist())
        branches.append(
            edge.Prefetch(prefetches=[leaf], query=edge.Query.Nearest(sparse, using=SPARSE), limit=candidates)
        )
        terms.append((weights.sparse, f"$score[{len(branches) - 1}]"))
    if weights.multi_vector:
        branches.append(
            edge.Prefetch(
                prefetches=[leaf],
                query=edge.Query.Nearest(query.multi_vector.tolist(), using=MULTI_VECTOR),
                limit=candidates,
                params=edge.SearchParams(exact=True),
            )
        )
        terms.append((weights.multi_vector / len(query.multi_vector), f"$score[{len(branches) - 1}]"))
    products = [
        edge.Expression.Mult([edge.Expression.Constant(weight), edge.Expression.Variable(variable)])
        for weight, variable in terms
    ]
    return branches, edge.Formula(edge.Expression.Sum(products), {variable: 0.0 for _, variable in terms[1:]})


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
