"""What a Qdrant server is sent: schema, points, filters, the fused query. The twin of ``_edge_requests.py``.

Everything here is a pure function of checked values, built from the request models of qdrant-client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from m3_vdb.errors import CollectionMismatchError
from m3_vdb.stores._filters import Condition, parse_filter
from m3_vdb.stores._plan import Plan
from m3_vdb.stores._points import Point
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, RRF_K, SPARSE, Search
from m3_vdb.types import M3Embedding


def collection_vectors(identity: ModelIdentity, *, half: bool) -> dict[str, models.VectorParams]:
    """The dense and multi-vector fields of a new collection; ``half`` stores the multi-vector as float16."""
    return {
        # DOT and not COSINE: the vectors are unit already, and what was stored is what is scored.
        DENSE: models.VectorParams(size=identity.dense_dim, distance=models.Distance.DOT),
        # Only ever re-scores candidates, so it needs no HNSW (m=0); it is the bulk of the data, so it stays on disk
        # and the page cache keeps what is used.
        MULTI_VECTOR: models.VectorParams(
            size=identity.multi_vector_dim,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
            datatype=models.Datatype.FLOAT16 if half else None,
            on_disk=True,
        ),
    }


def check_schema(params: models.CollectionParams, *, where: str) -> None:
    """Refuse a collection that would compute other scores than M3's.

    Raises:
        CollectionMismatchError: a vector is missing, or the sparse vector is re-weighted by IDF.
    """
    vectors = params.vectors if isinstance(params.vectors, dict) else {}
    sparse = (params.sparse_vectors or {}).get(SPARSE)
    if sparse is None or not {DENSE, MULTI_VECTOR} <= vectors.keys():
        raise CollectionMismatchError(f"{where} lacks one of the vectors {DENSE}, {SPARSE}, {MULTI_VECTOR}")
    if sparse.modifier == models.Modifier.IDF:
        raise CollectionMismatchError(
            f"{where} re-weights its sparse vector by IDF, and M3 scores need the raw weights: set the modifier to none"
        )


def fused(query: M3Embedding, plan: Plan, search: Search, *, exact: bool) -> tuple[list[models.Prefetch], models.Query]:
    """The branches of a plan and what makes one score of theirs."""
    condition = to_filter(parse_filter(search.filter))
    vectors = _vectors(query)
    # The filter is part of the leaf, so it restricts the candidates of every branch.
    leaves = [
        models.Prefetch(
            query=vectors[name],
            using=name,
            limit=plan.leaf_limit,
            filter=condition,
            params=models.SearchParams(exact=exact, hnsw_ef=search.ef) if name == DENSE else None,
        )
        for name in plan.leaves
    ]
    branches = [
        leaves[0]
        if branch.is_leaf
        else models.Prefetch(
            prefetch=leaves,
            query=vectors[branch.vector],
            using=branch.vector,
            limit=plan.branch_limit,
            # exact: never by the graph, and a collection that was quantised by hand still scores with full vectors.
            params=None if branch.vector == SPARSE else models.SearchParams(exact=True),
        )
        for branch in plan.branches
    ]
    if search.fusion == "rrf":
        return branches, models.RrfQuery(rrf=models.Rrf(k=RRF_K + 1))  # Qdrant counts ranks from 0
    if search.fusion == "dbsf":
        return branches, models.FusionQuery(fusion=models.Fusion.DBSF)
    products = [models.MultExpression(mult=[branch.weight, f"$score[{i}]"]) for i, branch in enumerate(plan.branches)]
    defaults: dict[str, Any] = {f"$score[{i}]": 0.0 for i in range(1, len(products))}
    return branches, models.FormulaQuery(formula=models.SumExpression(sum=list(products)), defaults=defaults)


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


def to_filter(conditions: Sequence[Condition]) -> models.Filter | None:
    """Payload conditions that must all hold; None if there are none."""
    return models.Filter(must=[_any_of(condition) for condition in conditions]) if conditions else None


def _any_of(condition: Condition) -> models.Filter:
    """One field equal to any of the values; Qdrant has one matcher for each type."""
    matchers: list[models.MatchValue | models.MatchAny] = [models.MatchValue(value=b) for b in condition.booleans]
    if condition.integers:
        matchers.append(models.MatchAny(any=list(condition.integers)))
    if condition.strings or not (condition.integers or condition.booleans or condition.floats):
        matchers.append(models.MatchAny(any=list(condition.strings)))  # any of nothing matches nothing
    fields = [models.FieldCondition(key=condition.path, match=matcher) for matcher in matchers]
    ranges = [models.FieldCondition(key=condition.path, range=models.Range(gte=f, lte=f)) for f in condition.floats]
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
