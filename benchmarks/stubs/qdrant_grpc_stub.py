"""A stub of a Qdrant server's gRPC interface: protobuf on a real socket, the embedded engine behind.

The messages are read and written with qdrant-client's own conversions. The metadata of every call (the API key) and the
time that the client would wait are kept in ``calls``. ``refuse`` holds answers (code, words, metadata) that the next
calls get instead, None for one that is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import grpc as q
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc

from benchmarks.stubs.qdrant_stub_engine import Collection, EdgeEngine, RefusedError

_CODES = {404: grpc.StatusCode.NOT_FOUND, 403: grpc.StatusCode.PERMISSION_DENIED}
_DONE = q.UpdateResult(operation_id=0, status=q.UpdateStatus.Completed)


class GrpcStub:
    def __init__(self, engine: EdgeEngine | None = None) -> None:
        self.engine = engine or EdgeEngine()  # that of a REST stub makes both the ports of one server
        self.calls: list[tuple[str, dict[str, str], float | None]] = []
        self.refuse: list[tuple[grpc.StatusCode, str, dict[str, str]] | None] = []
        self.server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
        points_service_pb2_grpc.add_PointsServicer_to_server(_guarded(self, _Points), self.server)
        collections_service_pb2_grpc.add_CollectionsServicer_to_server(_guarded(self, _Collections), self.server)
        qdrant_pb2_grpc.add_QdrantServicer_to_server(_guarded(self, _Root), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def collection(self, name: str) -> Collection:
        if not self.engine.collection_exists(name):
            raise RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.engine.collection(name)

    def close(self) -> None:
        self.server.stop(None).wait()
        self.engine.close()


def _guarded(stub: GrpcStub, kind: type) -> Any:
    """An instance of a service whose methods note every call and answer a refusal with a status."""

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: Any) -> Any:
            stub.calls.append((name, dict(context.invocation_metadata()), context.time_remaining()))
            if (refusal := stub.refuse.pop(0) if stub.refuse else None) is not None:
                code, words, metadata = refusal
                context.set_trailing_metadata(tuple(metadata.items()))
                return context.abort(code, words)
            try:
                return method(stub, request)
            except RefusedError as error:
                return context.abort(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), str(error))

        return call

    service = kind()
    for name in [name for name in vars(kind) if name[0].isupper()]:
        setattr(service, name, wrap(name, vars(kind)[name]))
    return service


class _Root(qdrant_pb2_grpc.QdrantServicer):
    def HealthCheck(self: GrpcStub, _request: Any) -> Any:  # noqa: N802 - the names are Qdrant's
        return q.HealthCheckReply(title="stub of Qdrant", version="1.20.0")


class _Collections(collections_service_pb2_grpc.CollectionsServicer):
    def CollectionExists(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        exists = self.engine.collection_exists(r.collection_name)
        return q.CollectionExistsResponse(result=q.CollectionExists(exists=exists))

    def Create(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        sparse = {n: GrpcToRest.convert_sparse_vector_params(p) for n, p in r.sparse_vectors_config.map.items()}
        self.engine.create_collection(
            r.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(r.vectors_config),
            sparse_vectors_config=sparse,
            metadata=GrpcToRest.convert_payload(r.metadata),
        )
        return q.CollectionOperationResponse(result=True)

    def Get(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        info = RestToGrpc.convert_collection_info(self.collection(r.collection_name).info())
        return q.GetCollectionInfoResponse(result=info)

    def CollectionClusterInfo(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        self.collection(r.collection_name)
        return RestToGrpc.convert_collection_cluster_info(self.engine.cluster_info(r.collection_name))

    def Update(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        self.collection(r.collection_name).update(GrpcToRest.convert_payload(r.metadata))
        return q.CollectionOperationResponse(result=True)

    def Delete(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        return q.CollectionOperationResponse(result=self.engine.delete_collection(r.collection_name))

    def UpdateAliases(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        self.engine.change_aliases([GrpcToRest.convert_alias_operations(one) for one in r.actions])
        return q.CollectionOperationResponse(result=True)

    def ListAliases(self: GrpcStub, _request: Any) -> Any:  # noqa: N802
        aliases = [RestToGrpc.convert_alias_description(one) for one in self.engine.aliases().aliases]
        return q.ListAliasesResponse(aliases=aliases)


class _Points(points_service_pb2_grpc.PointsServicer):
    def CreateFieldIndex(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        kind = q.FieldType.Name(r.field_type).removeprefix("FieldType").lower()
        self.collection(r.collection_name).index(r.field_name, kind)
        return q.PointsOperationResponse(result=_DONE)

    def Upsert(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        self.collection(r.collection_name).upsert([GrpcToRest.convert_point_struct(point) for point in r.points])
        return q.PointsOperationResponse(result=_DONE)

    def CreateVectorName(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        modifier = GrpcToRest.convert_modifier(r.sparse_config.modifier)
        self.collection(r.collection_name).create_vector(r.vector_name, models.SparseVectorConfig(modifier=modifier))
        return q.PointsOperationResponse(result=_DONE)

    def UpdateVectors(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        points = [GrpcToRest.convert_point_vectors(point) for point in r.points]
        self.collection(r.collection_name).update_vectors(points)
        return q.PointsOperationResponse(result=_DONE)

    def Query(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        return q.QueryResponse(result=_scored(self.collection(r.collection_name).query(_request(r))))

    def QueryBatch(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        answers = self.collection(r.collection_name).query_batch([_request(one) for one in r.query_points])
        return q.QueryBatchResponse(result=[q.BatchResult(result=_scored(points)) for points in answers])

    def Get(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        ids = [GrpcToRest.convert_point_id(i) for i in r.ids]
        payload = GrpcToRest.convert_with_payload_selector(r.with_payload)
        found = self.collection(r.collection_name).retrieve(ids, payload, list(r.with_vectors.include.names))
        return q.GetResponse(result=[_retrieved(record) for record in found])

    def Scroll(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        page = self.collection(r.collection_name).scroll(
            models.ScrollRequest(
                limit=r.limit,
                offset=GrpcToRest.convert_point_id(r.offset) if r.HasField("offset") else None,
                filter=GrpcToRest.convert_filter(r.filter) if r.HasField("filter") else None,
                with_payload=True,
                with_vector=list(r.with_vectors.include.names),
            )
        )
        after = page["next_page_offset"]
        offset = None if after is None else RestToGrpc.convert_extended_point_id(after)
        return q.ScrollResponse(result=[_retrieved(record) for record in page["points"]], next_page_offset=offset)

    def Delete(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        found = self.collection(r.collection_name)
        if r.points.HasField("filter"):
            found.delete_matching(GrpcToRest.convert_filter(r.points.filter))
        else:
            found.delete([GrpcToRest.convert_point_id(i) for i in r.points.points.ids])
        return q.PointsOperationResponse(result=_DONE)

    def Count(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        matching = GrpcToRest.convert_filter(r.filter) if r.HasField("filter") else None
        count = self.collection(r.collection_name).count(matching)
        return q.CountResponse(result=q.CountResult(count=count))

    def SetPayload(self: GrpcStub, r: Any) -> Any:  # noqa: N802
        ids = [GrpcToRest.convert_point_id(i) for i in r.points_selector.points.ids]
        self.collection(r.collection_name).set_payload(ids, GrpcToRest.convert_payload(r.payload))
        return q.PointsOperationResponse(result=_DONE)


def _request(r: Any) -> models.QueryRequest:
    return GrpcToRest.convert_query_points(r)


def _scored(points: list[dict[str, Any]]) -> list[Any]:
    return [RestToGrpc.convert_scored_point(models.ScoredPoint.model_validate(point)) for point in points]


def _retrieved(record: dict[str, Any]) -> Any:
    return RestToGrpc.convert_record(models.Record.model_validate(record))
