"""The calls that carry vectors, in the three ways in which a ``QdrantClient`` reaches its collection.

qdrant-client makes a Python number of every number of a vector, checks each, and writes it with twenty digits. Here
arrays become the request: as JSON by orjson (float32 with the digits that it needs), over gRPC as packed bytes
(``packed.py``). The connection, its errors and all other calls are the client's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson
from httpx import Request as HttpRequest
from pydantic import BaseModel
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as q
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.http.models import QueryResponse  # that of qdrant_client.models is another one

from m3_vdb.stores.points import Point, batches
from m3_vdb.stores.qdrant.packed import read_vectors, to_input, upsert_request
from m3_vdb.stores.qdrant.requests import Request

Answer = TypeVar("Answer", bound=BaseModel)
MAX_REST_BYTES: Final = 8 * 1024 * 1024
"""Of an upsert, well below the 32 MiB that a Qdrant server takes by default (service.max_request_size_mb)."""
MAX_GRPC_BYTES: Final = 4 * 1024 * 1024 - 4096
"""Of an upsert. A Qdrant server takes any size; 4 MiB is gRPC's own default, and that of proxies that use it."""
_GRPC_SECONDS: Final = 5
"""qdrant-client's own limit of a call over gRPC, for a client that was made without one."""


class QdrantCalls(ABC):
    """Upserts, queries and reads of one collection.

    Args:
        client: the connection.
        collection: its name.
    """

    max_bytes: int
    """Of an upsert."""

    def __init__(self, client: QdrantClient, collection: str) -> None:
        self._client = client
        self._collection = collection

    @staticmethod
    @abstractmethod
    def request_bytes(point: Point) -> int:
        """Upper bound of a point's bytes in an upsert."""

    def write(self, points: Sequence[Point], *, max_items: int | None) -> None:
        """Store points, and wait until they are, in upserts that the server takes.

        Args:
            points: any number.
            max_items: points in an upsert; None for any number.
        """
        for batch in batches(points, self.request_bytes, max_bytes=self.max_bytes, max_items=max_items):
            self.upsert(batch)

    @abstractmethod
    def upsert(self, points: Sequence[Point]) -> None:
        """Store points in one request, and wait until they are."""

    @abstractmethod
    def query(self, request: Request) -> Sequence[Any]:
        """The answer to a request of ``requests``."""

    @abstractmethod
    def query_batch(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """The answers to several, in one call."""

    @abstractmethod
    def retrieve(self, ids: Sequence[str], vectors: Sequence[str]) -> Sequence[Any]:
        """Points that exist, with their payloads and the named vectors."""


def is_local(client: QdrantClient) -> bool:
    """Whether a client keeps its collections in this process."""
    return client.init_options.get("path") is not None or client.init_options.get("location") == ":memory:"


class _Updated(BaseModel):
    result: models.UpdateResult


class _Points(BaseModel):
    result: QueryResponse


class _Batch(BaseModel):
    result: list[QueryResponse]


class _Records(BaseModel):
    result: list[models.Record]


class RestCalls(QdrantCalls):
    """Over REST: JSON by orjson."""

    max_bytes = MAX_REST_BYTES

    def __init__(self, client: QdrantClient, collection: str) -> None:
        super().__init__(client, collection)
        self._known: dict[str, HttpRequest] = {}
        """Path → request without a body: putting together address and headers takes longer than writing a query."""

    @staticmethod
    def request_bytes(point: Point) -> int:
        """See ``QdrantCalls``."""
        return point.json_bytes

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``QdrantCalls``."""
        body = {"points": [{"id": one.id, "payload": one.payload, "vector": one.vectors} for one in points]}
        self._send("PUT", "points?wait=true", body, _Updated)

    def query(self, request: Request) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        return self._send("POST", "points/query", _body(request), _Points).result.points

    def query_batch(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """See ``QdrantCalls``."""
        body = {"searches": [_body(request) for request in requests]}
        return [answer.points for answer in self._send("POST", "points/query/batch", body, _Batch).result]

    def retrieve(self, ids: Sequence[str], vectors: Sequence[str]) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        body = {"ids": ids, "with_payload": True, "with_vector": list(vectors) or False}
        return self._send("POST", "points", body, _Records).result

    def _send(self, method: str, path: str, body: Request, answer: type[Answer]) -> Answer:
        api = self._client.http.client
        known = self._known.get(path)
        if known is None or api._client.cookies:  # a proxy's, which go into each request
            url = f"{api.host.rstrip('/')}/collections/{quote(self._collection, safe='')}/{path}"
            known = api._client.build_request(method, url, headers={"Content-Type": "application/json"}, content=b"")
            del known.headers["Content-Length"]
            self._known[path] = known
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        request = HttpRequest(method, known.url, headers=known.headers, content=content, extensions=known.extensions)
        return api.send(request, answer)


def _body(request: Request) -> Any:  # noqa: ANN401 - a dict, as _given keeps it
    return _given({**request, "offset": request.get("offset") or None, "with_vector": False})


def _given(value: Any) -> Any:  # noqa: ANN401 - JSON with arrays in it
    """A request without the fields that are None."""
    if isinstance(value, dict):
        return {name: _given(part) for name, part in value.items() if part is not None}
    return [_given(part) for part in value] if isinstance(value, list) else value


class GrpcCalls(QdrantCalls):
    """Over gRPC: packed bytes."""

    max_bytes = MAX_GRPC_BYTES

    def __init__(self, client: QdrantClient, collection: str) -> None:
        super().__init__(client, collection)
        self._seconds = client.init_options.get("timeout") or _GRPC_SECONDS

    @staticmethod
    def request_bytes(point: Point) -> int:
        """See ``QdrantCalls``."""
        return point.packed_bytes

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``QdrantCalls``."""
        self._client.grpc_points.Upsert(upsert_request(self._collection, points), timeout=self._seconds)

    def query(self, request: Request) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        answer = self._client.grpc_points.Query(self._query_points(request), timeout=self._seconds)
        return [_hit(point) for point in answer.result]

    def query_batch(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """See ``QdrantCalls``."""
        asked = [self._query_points(request) for request in requests]
        batch = q.QueryBatchPoints(collection_name=self._collection, query_points=asked)
        answers = self._client.grpc_points.QueryBatch(batch, timeout=self._seconds).result
        return [[_hit(point) for point in answer.result] for answer in answers]

    def retrieve(self, ids: Sequence[str], vectors: Sequence[str]) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        request = q.GetPoints(
            collection_name=self._collection,
            ids=[q.PointId(uuid=one) for one in ids],
            with_payload=RestToGrpc.convert_with_payload_interface(True),
            with_vectors=RestToGrpc.convert_with_vectors(list(vectors) or False),
        )
        return [
            SimpleNamespace(payload=GrpcToRest.convert_payload(point.payload), vector=read_vectors(point.vectors))
            for point in self._client.grpc_points.Get(request, timeout=self._seconds).result
        ]

    def _query_points(self, request: Request) -> q.QueryPoints:
        return q.QueryPoints(
            collection_name=self._collection,
            offset=request.get("offset") or None,
            score_threshold=request.get("score_threshold"),
            with_payload=RestToGrpc.convert_with_payload_interface(request["with_payload"]),
            **_search(request),
        )


def _hit(point: q.ScoredPoint) -> SimpleNamespace:
    return SimpleNamespace(id=point.id.uuid, payload=GrpcToRest.convert_payload(point.payload), score=point.score)


def _search(request: Request) -> Request:
    """The fields that a request shares with its prefetches."""
    query, filter, params = (request.get(name) for name in ("query", "filter", "params"))
    if "using" in request:
        query = q.Query(nearest=to_input(query))
    elif query is not None and "formula" in query:
        defaults = {name: q.Value(double_value=value) for name, value in query["defaults"].items()}
        query = q.Query(formula=q.Formula(expression=_expression(query["formula"]), defaults=defaults))
    elif query is not None:
        query = RestToGrpc.convert_query(models.FusionQuery(**query))
    return {
        "prefetch": [q.PrefetchQuery(**_search(one)) for one in request.get("prefetch") or ()],
        "query": query,
        "using": request.get("using"),
        "filter": filter and RestToGrpc.convert_filter(models.Filter(**filter)),
        "params": params and RestToGrpc.convert_search_params(models.SearchParams(**params)),
        "limit": request["limit"],
    }


def _expression(value: Any) -> q.Expression:  # noqa: ANN401 - a part of a formula
    """An expression; those of each search directly, which takes a fifth of the time."""
    if isinstance(value, (int, float)):
        return q.Expression(constant=value)
    if isinstance(value, str):
        return q.Expression(variable=value)
    if "sum" in value:
        return q.Expression(sum=q.SumExpression(sum=[_expression(one) for one in value["sum"]]))
    if "mult" in value:
        return q.Expression(mult=q.MultExpression(mult=[_expression(one) for one in value["mult"]]))
    return RestToGrpc.convert_expression(models.FormulaQuery(formula=value).formula)


class LocalCalls(QdrantCalls):
    """qdrant-client's local mode, in this process: its own models."""

    max_bytes = MAX_GRPC_BYTES

    @staticmethod
    def request_bytes(point: Point) -> int:
        """See ``QdrantCalls``."""
        return point.packed_bytes

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``QdrantCalls``."""
        structs = [
            models.PointStruct(id=one.id, payload=one.payload, vector=_with_lists(one.vectors)) for one in points
        ]
        self._client.upsert(self._collection, structs, wait=True)

    def query(self, request: Request) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        return self.query_batch([request])[0]

    def query_batch(self, requests: Sequence[Request]) -> Sequence[Sequence[Any]]:
        """See ``QdrantCalls``."""
        asked = [models.QueryRequest(**_with_lists(request)) for request in requests]
        return [answer.points for answer in self._client.query_batch_points(self._collection, asked)]

    def retrieve(self, ids: Sequence[str], vectors: Sequence[str]) -> Sequence[Any]:
        """See ``QdrantCalls``."""
        return self._client.retrieve(
            self._collection, list(ids), with_payload=True, with_vectors=list(vectors) or False
        )


def _with_lists(value: Any) -> Any:  # noqa: ANN401 - JSON with arrays in it
    """The same with lists for arrays."""
    if isinstance(value, dict):
        return {name: _with_lists(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_lists(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value
