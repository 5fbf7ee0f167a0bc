"""The values of qdrant-edge, Qdrant's embedded engine, from the requests and the schema shared with a server."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import qdrant_edge as edge

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores.options import BM25, DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType
from m3_vdb.stores.points import Point
from m3_vdb.stores.qdrant.requests import Request
from m3_vdb.stores.qdrant.schema import DATATYPES, vector_schema

INDEXES: Final[dict[IndexType, Any]] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
}
"""What the engine calls the types of indexes."""


def to_config(identity: ModelIdentity, options: CollectionOptions) -> edge.EdgeConfig:
    """The schema of a new collection."""
    memory = None if options.on_disk is None else edge.Memory.Cold if options.on_disk else edge.Memory.Cached
    schema = vector_schema(identity, DATATYPES.get(options.storage))
    multi = schema[MULTI_VECTOR]
    datatype = multi["datatype"] and getattr(edge.VectorStorageDatatype, multi["datatype"].capitalize())
    return edge.EdgeConfig(
        vectors={
            DENSE: edge.EdgeVectorParams(size=schema[DENSE]["size"], distance=edge.Distance.Dot, memory=memory),
            MULTI_VECTOR: edge.EdgeVectorParams(
                size=multi["size"],
                distance=edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                hnsw_config=edge.HnswIndexConfig(ef_construct=100, full_scan_threshold=10_000, **multi["hnsw_config"]),
                datatype=datatype,
                memory=memory,
            ),
        },
        sparse_vectors={
            SPARSE: edge.EdgeSparseVectorParams(memory=memory),
            **({BM25: edge.EdgeSparseVectorParams(memory=memory, modifier=edge.Modifier.Idf)} if options.bm25 else {}),
        },
    )


def to_point(point: Point) -> edge.Point:
    """A document with its named vectors."""
    vectors = {name: _vector(value) for name, value in point.vectors.items()}
    return edge.Point(id=point.id, payload=point.payload, vector=vectors)


def to_request(request: Request) -> edge.QueryRequest:
    """A request of ``requests``."""
    return edge.QueryRequest(
        prefetches=_prefetches(request),
        query=_query(request),
        filter=_optional_filter(request),
        params=_params(request),
        limit=request["limit"],
        offset=request.get("offset"),
        score_threshold=request.get("score_threshold"),
        with_payload=request["with_payload"],
        with_vector=False,
    )


def _prefetches(request: Request) -> list[edge.Prefetch]:
    return [
        edge.Prefetch(
            prefetches=_prefetches(one),
            query=_query(one),
            filter=_optional_filter(one),
            params=_params(one),
            limit=one["limit"],
        )
        for one in request.get("prefetch") or ()
    ]


def _params(request: Request) -> edge.SearchParams | None:
    params = request.get("params")
    return None if params is None else edge.SearchParams(**params)


def _query(request: Request) -> Any:  # noqa: ANN401 - the three share no base class
    query = request.get("query")
    if query is None:
        return None
    if "using" in request:
        return edge.Query.Nearest(_vector(query), using=request["using"])
    if "fusion" in query:
        return edge.Fusion.Dbsf()
    return edge.Formula(_expression(query["formula"]), query["defaults"])


def _expression(given: Any) -> Any:  # noqa: ANN401 - numbers, names of scores, and expressions of them
    if isinstance(given, str):
        return edge.Expression.Variable(given)
    if isinstance(given, dict) and "must" in given:
        return edge.Expression.Condition(edge_filter(given))
    if isinstance(given, dict):
        ((name, parts),) = given.items()
        if name == "exp_decay":
            x, target = edge.Expression.DatetimeKey(parts["x"]["datetime_key"]), parts["target"]["datetime"]
            since = edge.Expression.Datetime(target)
            return edge.Expression.Decay(edge.DecayKind.Exp, x, since, parts["midpoint"], parts["scale"])
        if name == "div":
            return edge.Expression.Div(
                _expression(parts["left"]), _expression(parts["right"]), parts.get("by_zero_default")
            )
        return {"sum": edge.Expression.Sum, "mult": edge.Expression.Mult}[name]([_expression(part) for part in parts])
    return edge.Expression.Constant(given)


def _vector(value: Any) -> Any:  # noqa: ANN401 - a vector of ``named_vectors`` as lists, or as the engine's class
    if isinstance(value, dict):
        return edge.SparseVector(value["indices"].tolist(), value["values"].tolist())
    return value.tolist()


def _optional_filter(request: Request) -> edge.Filter | None:
    given = request.get("filter")
    return None if given is None else edge_filter(given)


def edge_filter(given: Request) -> edge.Filter:
    """A filter of ``requests``."""
    clauses: Request = {clause: [_condition(part) for part in parts] for clause, parts in given.items()}
    return edge.Filter(**clauses)


def _condition(part: Request) -> Any:  # noqa: ANN401, PLR0911 - no common base class; one return for each kind
    if "has_id" in part:
        return edge.HasIdCondition(set(part["has_id"]))
    if "has_vector" in part:
        return edge.HasVectorCondition(part["has_vector"])
    if "is_empty" in part:
        return edge.IsEmptyCondition(part["is_empty"]["key"])
    if "values_count" in part:
        return edge.FieldCondition(part["key"], values_count=edge.ValuesCount(**part["values_count"]))
    if "range" in part:
        return edge.FieldCondition(part["key"], range=_range(part["range"]))
    if "match" in part:
        return edge.FieldCondition(part["key"], match=_match(part["match"]))
    return edge_filter(part)


def _range(bounds: Request) -> edge.RangeFloat | edge.RangeDateTime:
    if any(isinstance(bound, datetime) for bound in bounds.values()):
        return edge.RangeDateTime(**{name: bound.isoformat() for name, bound in bounds.items()})
    return edge.RangeFloat(**bounds)


class _NumpyBool:
    """A truth value that is not a number: what numpy.bool_ is from NumPy 2.3 on."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_NumpyBool.__module__, _NumpyBool.__name__, _NumpyBool.__qualname__ = "numpy", "bool_", "bool_"


def match_bool(value: bool) -> edge.MatchValue:
    """A matcher of true or false.

    qdrant-edge 0.9 takes what can be an index for an integer, which no stored bool equals: a Python bool, and before
    NumPy 2.3 numpy.bool_ too. Anything else it reads as a bool only if its type says that it is NumPy's.
    """
    truth: Any = _NumpyBool(value)
    return edge.MatchValue(truth)


def _match(match: Request) -> edge.MatchAny | edge.MatchText | edge.MatchValue:
    if "text" in match:
        return edge.MatchText(match["text"])
    if "any" in match:
        return edge.MatchAny(match["any"])
    return match_bool(match["value"])
