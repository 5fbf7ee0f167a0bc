"""What a Qdrant server is sent: schema, points, filters, the fused query. The twin of ``_edge_requests.py``.

Everything here is a pure function of checked values, built from the request models of qdrant-client.
"""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from m3_vdb.errors import CollectionMismatchError
from m3_vdb.fusion import Weights
from m3_vdb.stores._filters import Condition
from m3_vdb.stores._points import Point
from m3_vdb.stores.base import DENSE, MULTI_VECTOR, SPARSE, ModelIdentity
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


def fused(
    query: M3Embedding, weights: Weights, candidates: int, condition: models.Filter | None, *, exact: bool
) -> tuple[list[models.Prefetch], models.FormulaQuery]:
    """The branches of a query and the formula that adds them."""
    assert query.dense is not None  # check_query has refused a query that lacks a part
    assert query.sparse is not None
    assert query.multi_vector is not None
    # The filter is part of the leaf, so it restricts the candidates of every branch.
    leaf = models.Prefetch(
        query=query.dense.tolist(),
        using=DENSE,
        limit=candidates,
        filter=condition,
        params=models.SearchParams(exact=exact),
    )
    # The leaf is a branch even at weight 0: the sparse branch alone would lose candidates without a common token.
    branches = [leaf]
    terms = [(weights.dense, "$score[0]")]
    if weights.sparse and len(query.sparse.ids):
        sparse = models.SparseVector(indices=query.sparse.ids.tolist(), values=query.sparse.weights.tolist())
        # A re-scoring branch must return *all* candidates; one that it cuts off would count as 0.
        branches.append(models.Prefetch(prefetch=[leaf], query=sparse, using=SPARSE, limit=candidates))
        terms.append((weights.sparse, f"$score[{len(branches) - 1}]"))
    if weights.multi_vector:
        # exact: a collection that was quantised by hand must still score with the full vectors.
        branches.append(
            models.Prefetch(
                prefetch=[leaf],
                query=query.multi_vector.tolist(),
                using=MULTI_VECTOR,
                limit=candidates,
                params=models.SearchParams(exact=True),
            )
        )
        terms.append((weights.multi_vector / len(query.multi_vector), f"$score[{len(branches) - 1}]"))
    products = [models.MultExpression(mult=[weight, variable]) for weight, variable in terms]
    formula = models.SumExpression(sum=list(products))
    return branches, models.FormulaQuery(formula=formula, defaults={variable: 0.0 for _, variable in terms[1:]})


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
