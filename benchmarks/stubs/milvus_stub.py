"""A Milvus server's gRPC interface over NumPy: pymilvus' own protobufs on a real socket, a toy engine behind.

It answers as a server with arrays of structs does and keeps a server's rules: weights in [0, 1], ef not below
the limit, lengths of texts and arrays, no empty sparse vector, requests below 64 MiB. What servers get wrong can be
switched on: ``keeps_structs``, ``weighs_raw``, ``keeps_properties``, ``ann_ratio``, ``loses_dense``. Every request it
received is kept in ``calls``. What it cannot show is how a real server's indexes behave.
"""

# ruff: noqa: N802 - the methods have the names of Milvus' calls
from __future__ import annotations

import json
import re
import threading
import traceback
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from milvus_lite.search.filter import parse_expr
from milvus_lite.search.filter.eval.python_backend import _eval_row
from pymilvus import DataType
from pymilvus.client.entity_helper import sparse_parse_single_row
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from benchmarks.stubs import milvus_stub_wire as wire
from benchmarks.stubs.milvus_stub_wire import FLOAT_VECTOR, SPARSE, RefusedError

MAX_MESSAGE = 64 * 1024 * 1024
MAX_LIMIT = 16_384


class Collection:
    def __init__(self, schema: schema_pb2.CollectionSchema, properties: dict[str, str]) -> None:
        self.schema = schema
        self.properties = properties
        self.indexes: dict[str, dict[str, str]] = {}
        self.rows: dict[str, dict[str, Any]] = {}  # key → field → cell
        self.loaded = False


class MilvusStub:
    def __init__(self) -> None:
        self.version = "v2.6.99-stub"
        self.keeps_structs = True  # milvus-lite drops them and says nothing
        self.weighs_raw = True  # older servers press scores through arctan whatever they are asked for
        self.keeps_properties = True
        self.ann_ratio: float | None = None  # knowhere's first stage: limit · ratio nearest token rows a query row
        self.flushes = True
        self.pending_rows: list[int] = []  # rows still to be indexed, of the next answers about an index
        self.max_output = 100 * 1024 * 1024
        self.loses_dense: set[str] = set()  # keys that the dense list lacks under a filter on keys
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.refuse: dict[str, Exception] = {}
        self.lock = threading.RLock()
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", -1)]
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
        service = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"]
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self._answering(method.name, getattr(milvus_pb2, method.output_type.name, common_pb2.Status)),
                request_deserializer=getattr(milvus_pb2, method.input_type.name).FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for method in service.methods
            if method.name in type(self).__dict__
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    @property
    def url(self) -> str:
        return f"milvus://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.stop(None).wait()

    def requests(self, name: str) -> list[Any]:
        return [request for called, request in self.calls if called == name]

    def _answering(self, name: str, answer: Any) -> Any:
        def handle(request: Any, context: Any) -> Any:
            try:
                with self.lock:
                    self.calls.append((name, request))
                    self.metadata.append(dict(context.invocation_metadata()))
                    if name in self.refuse:
                        raise self.refuse[name]
                    return getattr(self, name)(request)
            except Exception as error:
                # Also the stub's own faults: as an exception of gRPC, pymilvus would ask again until its time is up.
                words = str(error) if isinstance(error, RefusedError) else traceback.format_exc()
                status = common_pb2.Status(code=getattr(error, "code", 1), reason=words, error_code=1)
                return status if answer is common_pb2.Status else answer(status=status)

        return handle

    # Names and arguments of the methods below are Milvus' own.

    def Connect(self, _: Any) -> Any:
        return milvus_pb2.ConnectResponse(server_info=common_pb2.ServerInfo(build_tags=self.version), identifier=1)

    def GetVersion(self, _: Any) -> Any:
        return milvus_pb2.GetVersionResponse(version=self.version)

    def CreateCollection(self, request: Any) -> Any:
        _check_name(request.collection_name)
        if request.collection_name in self.collections:
            raise RefusedError("collection already exists", 65535)
        schema = schema_pb2.CollectionSchema.FromString(request.schema)
        if not self.keeps_structs:
            del schema.struct_array_fields[:]
        properties = {pair.key: pair.value for pair in request.properties} if self.keeps_properties else {}
        self.collections[request.collection_name] = Collection(schema, properties)
        return common_pb2.Status()

    def DropCollection(self, request: Any) -> Any:
        if named := [alias for alias, target in self.aliases.items() if target == request.collection_name]:
            raise RefusedError(f"unable to drop the collection [{request.collection_name}]: it has aliases {named}")
        self.collections.pop(request.collection_name, None)
        return common_pb2.Status()

    def CreateAlias(self, request: Any) -> Any:
        _check_name(request.alias)
        if request.alias in self.collections:
            raise RefusedError("collection name and alias conflict", 1601)
        if request.alias in self.aliases:
            raise RefusedError(f"{request.alias} is alias to another collection", 1602)
        return self._point(request)

    def AlterAlias(self, request: Any) -> Any:
        if request.alias not in self.aliases:
            raise RefusedError(f"alias not found[alias={request.alias}]", 1600)
        return self._point(request)

    def DescribeAlias(self, request: Any) -> Any:
        if request.alias not in self.aliases:
            raise RefusedError(f"alias not found[alias={request.alias}]", 1600)
        return milvus_pb2.DescribeAliasResponse(alias=request.alias, collection=self.aliases[request.alias])

    def DescribeCollection(self, request: Any) -> Any:
        found = self._collection(request)
        pairs = [common_pb2.KeyValuePair(key=key, value=value) for key, value in found.properties.items()]
        return milvus_pb2.DescribeCollectionResponse(
            schema=found.schema, collection_name=request.collection_name, properties=pairs, shards_num=1,
            consistency_level=common_pb2.ConsistencyLevel.Strong,
        )  # fmt: skip

    def AlterCollection(self, request: Any) -> Any:
        if self.keeps_properties:
            self._collection(request).properties.update({pair.key: pair.value for pair in request.properties})
        return common_pb2.Status()

    def CreateIndex(self, request: Any) -> Any:
        known = {f"{s.name}[{f.name.split('[')[-1].rstrip(']')}]" for s in self._structs(request) for f in s.fields}
        known |= {field.name for field in self._collection(request).schema.fields}
        if request.field_name not in known:
            raise RefusedError(f"cannot create index on non-exist field: {request.field_name}")
        kinds = {field.name: field.data_type for field in self._collection(request).schema.fields}
        if self.version.startswith("v2.3") and kinds.get(request.field_name) == SPARSE:
            raise RefusedError(f"create index on {SPARSE} field is not supported", 1100)
        self._collection(request).indexes[request.field_name] = {p.key: p.value for p in request.extra_params}
        return common_pb2.Status()

    def DescribeIndex(self, request: Any) -> Any:
        indexes = self._collection(request).indexes
        wanted = request.index_name or request.field_name
        found = {name: params for name, params in indexes.items() if wanted in {"", name}}
        if not found:
            raise RefusedError("index not found", 700)
        return milvus_pb2.DescribeIndexResponse(
            index_descriptions=[
                milvus_pb2.IndexDescription(
                    index_name=name,
                    field_name=name,
                    params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()],
                    state=common_pb2.IndexState.Finished,
                    pending_index_rows=self.pending_rows.pop(0) if self.pending_rows else 0,
                )
                for name, params in found.items()
            ]
        )

    def LoadCollection(self, request: Any) -> Any:
        vectors = {f.name for f in self._collection(request).schema.fields if f.data_type in (FLOAT_VECTOR, SPARSE)}
        vectors |= {f"{s.name}[row]" for s in self._structs(request)}
        if vectors - self._collection(request).indexes.keys():
            raise RefusedError(f"there is no vector index on field: {sorted(vectors)}, please create index firstly", 65)
        self._collection(request).loaded = True
        return common_pb2.Status()

    def GetLoadingProgress(self, _: Any) -> Any:
        return milvus_pb2.GetLoadingProgressResponse(progress=100)

    def Flush(self, request: Any) -> Any:
        return milvus_pb2.FlushResponse(
            coll_segIDs={name: schema_pb2.LongArray(data=[1]) for name in request.collection_names}
        )

    def GetFlushState(self, _: Any) -> Any:
        return milvus_pb2.GetFlushStateResponse(flushed=self.flushes)

    def Insert(self, request: Any) -> Any:
        found = self._collection(request)
        columns = {data.field_name: wire.cells(data) for data in request.fields_data}
        for name, cells in columns.items():
            wire.check_cells(found, name, cells)
        keys = columns["key"]
        for i, key in enumerate(keys):
            found.rows[key] = {name: cells[i] for name, cells in columns.items()}
        return milvus_pb2.MutationResult(IDs=wire.ids(keys), insert_cnt=len(keys), upsert_cnt=len(keys))

    Upsert = Insert

    def Delete(self, request: Any) -> Any:
        found = self._collection(request)
        keys = self._matching(found, request.expr)
        for key in keys:
            del found.rows[key]
        return milvus_pb2.MutationResult(IDs=wire.ids(keys), delete_cnt=len(keys))

    def Query(self, request: Any) -> Any:
        found = self._collection(request)
        keys = self._matching(found, request.expr)
        if list(request.output_fields) == ["count(*)"]:
            data = schema_pb2.FieldData(field_name="count(*)", type=DataType.INT64)
            data.scalars.long_data.data.append(len(keys))
            return milvus_pb2.QueryResults(fields_data=[data], output_fields=["count(*)"])
        data = [wire.field_data(found, name, [found.rows[key][name] for key in keys]) for name in request.output_fields]
        if sum(column.ByteSize() for column in data) > self.max_output:
            raise RefusedError(f"query results exceed the maxOutputSize Limit {self.max_output}", 65535)
        return milvus_pb2.QueryResults(
            fields_data=data, output_fields=list(request.output_fields), primary_field_name="key"
        )

    def Search(self, request: Any) -> Any:
        found = self._collection(request)
        return wire.results(
            found, self._search(found, request), wire.limit(request.search_params), request.output_fields
        )

    def HybridSearch(self, request: Any) -> Any:
        found = self._collection(request)
        ranking = {pair.key: pair.value for pair in request.rank_params}
        params = json.loads(ranking["params"])
        assert ranking["strategy"] == "weighted"
        if len(params["weights"]) != len(request.requests) or not all(0 <= w <= 1 for w in params["weights"]):
            raise RefusedError(f"rank param weight should be in range [0, 1], got {params['weights']}")
        raw = self.weighs_raw and params["norm_score"] is False
        total: dict[str, np.float32] = {}
        for weight, part in zip(params["weights"], request.requests, strict=True):
            (answer,) = self._search(found, part)
            for key, score in answer:
                value = score if raw else 0.5 + np.arctan(score) / np.pi
                total[key] = np.float32(total.get(key, np.float32(0)) + np.float32(weight) * np.float32(value))
        ranked = sorted(total.items(), key=lambda pair: -pair[1])
        return wire.results(found, [ranked], int(ranking["limit"]), request.output_fields)

    # The engine.

    def _search(self, found: Collection, request: Any) -> list[list[tuple[str, np.float32]]]:
        """One ranking for each query of the request."""
        params = {pair.key: pair.value for pair in request.search_params}
        field, limit, tuning = params["anns_field"], wire.limit(request.search_params), json.loads(params["params"])
        index = found.indexes.get(field)
        if not found.loaded or index is None:
            raise RefusedError("collection not loaded", 101)
        if index["metric_type"] != params["metric_type"]:
            raise RefusedError(f"metric type not match: expected={index['metric_type']} actual={params['metric_type']}")
        if limit > MAX_LIMIT:
            raise RefusedError(f"topk [{limit}] is invalid, it should be in range [1, {MAX_LIMIT}]", 65535)
        if index.get("index_type") == "HNSW" and tuning.get("ef", limit) < limit:
            raise RefusedError(f"ef({tuning['ef']}) should be larger than k({limit})", 65535)
        (holder,) = common_pb2.PlaceholderGroup.FromString(request.placeholder_group).placeholders
        keys = self._matching(found, request.dsl)
        answers = []
        for value in holder.values:
            if field == "dense":
                query = np.frombuffer(value, np.float32)
                lost = self.loses_dense if "key in" in request.dsl else set()
                scores = {key: found.rows[key]["dense"] @ query for key in keys if key not in lost}
            elif field == "sparse":
                query = sparse_parse_single_row(value)
                scores = {key: wire.lexical(query, found.rows[key]["sparse"]) for key in keys}
                scores = {key: score for key, score in scores.items() if score > 0}
            else:
                scores = self._max_sim(found, keys, holder, limit)
            answers.append(sorted(scores.items(), key=lambda pair: -pair[1])[:limit])
        return answers

    def _max_sim(self, found: Collection, keys: list[str], holder: Any, limit: int) -> dict[str, Any]:
        half = holder.type == common_pb2.PlaceholderType.EmbListFloat16Vector
        matrices = {key: wire.matrix(found.rows[key]["multi_vector"]) for key in keys}
        width = next((matrix.shape[1] for matrix in matrices.values()), 1)
        query = np.frombuffer(holder.values[0], np.float16 if half else np.float32).reshape(-1, width)
        query = query.astype(np.float32)
        if self.ann_ratio is not None and keys:
            owners = np.repeat(np.arange(len(keys)), [len(matrix) for matrix in matrices.values()])
            products = query @ np.concatenate(list(matrices.values())).T
            nearest = np.argsort(-products, axis=1)[:, : max(1, int(limit * self.ann_ratio))]
            seen = {keys[i] for i in np.unique(owners[nearest])}
            matrices = {key: matrix for key, matrix in matrices.items() if key in seen}
        return {key: (query @ matrix.T).max(axis=1).sum() for key, matrix in matrices.items()}

    def _matching(self, found: Collection, condition: str) -> list[str]:
        if not condition:
            return list(found.rows)
        tree = parse_expr(condition)
        return [key for key, row in found.rows.items() if _eval_row(tree, _plain(key, row)) is True]

    def _collection(self, request: Any) -> Collection:
        name = self.aliases.get(request.collection_name, request.collection_name)
        if name not in self.collections:
            raise RefusedError(f"can't find collection[collection={request.collection_name}]", 100)
        return self.collections[name]

    def _point(self, request: Any) -> Any:
        if request.collection_name not in self.collections:
            raise RefusedError(f"can't find collection[collection={request.collection_name}]", 100)
        self.aliases[request.alias] = request.collection_name
        return common_pb2.Status()

    def _structs(self, request: Any) -> Any:
        return self._collection(request).schema.struct_array_fields


def _check_name(name: str) -> None:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise RefusedError(f"Invalid collection name: {name}. It may hold letters, digits and underscores alone")


def _plain(key: str, row: dict[str, Any]) -> dict[str, Any]:
    """The fields that conditions look at."""
    if "terms" not in row:
        return {"key": key}
    return {"key": key, "terms": list(row["terms"].string_data.data), "numbers": json.loads(row["numbers"])}
