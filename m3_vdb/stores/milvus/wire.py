"""Rows to and from a Milvus server, straight from and to arrays, over a gRPC channel of their own.

pymilvus makes a Python number, list or message of each part of a row, on the way there and back. Here a request is put
together as bytes in which the vectors are the arrays' own memory, and an answer's vectors are views of its bytes. The
messages are Milvus' public ones (``pymilvus.grpc_gen``); all other calls are pymilvus'.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from m3_vdb.stores.protobuf import floats, head
from m3_vdb.types import FloatArray

_SERVICE: Final = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"].full_name
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
)
_SPARSE: Final = np.dtype([("id", "<u4"), ("weight", "<f4")])
STRUCT_ROW: Final = "row"
"""The vector in a struct."""
Pieces: TypeAlias = list[Any]
"""Bytes and memory of arrays that follow each other in a message."""
Row: TypeAlias = Mapping[str, Any]
"""Field → value: str; bytes of JSON; list of str; array [d]; array [n] of ``sparse_pairs``; array [rows, m]."""


class Wire:
    """A connection.

    Args:
        uri: of the server, as pymilvus takes it.
        token: its key; "" for none.
        database: "" for the default.
        timeout: seconds per request, waiting for a server that does not answer included.
    """

    def __init__(self, uri: str, *, token: str = "", database: str = "", timeout: float) -> None:
        scheme, separator, address = uri.partition("://")
        if scheme == "https":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address if separator else uri, _OPTIONS)
        key = [("authorization", base64.b64encode(token.encode()).decode("ascii"))] if token else []
        self._call = {"metadata": [*key, ("dbname", database)], "timeout": timeout, "wait_for_ready": True}
        self._upsert = self._method("Upsert", milvus_pb2.MutationResult)
        self._query = self._method("Query", milvus_pb2.QueryResults)

    def _method(self, name: str, answer: Any) -> Callable[..., Any]:  # noqa: ANN401 - a class of messages
        method: Callable[..., Any] = self._channel.unary_unary(
            f"/{_SERVICE}/{name}", response_deserializer=answer.FromString
        )
        return method

    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        """Write n ≥ 1 rows of the same fields."""
        check_status(self._upsert(upsert_request(collection, rows), **self._call).status)

    def query(
        self, collection: str, condition: str, fields: Sequence[str], *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Fields of the rows that meet a condition, as ``Row`` has them; JSON is decoded."""
        request = milvus_pb2.QueryRequest(
            collection_name=collection, expr=condition, output_fields=fields, use_default_consistency=True
        )
        if limit is not None:
            request.query_params.append(common_pb2.KeyValuePair(key="limit", value=str(limit)))
        answer = self._query(request.SerializeToString(), **self._call)
        check_status(answer.status)
        columns = [[(data.field_name, cell) for cell in _column(data)] for data in answer.fields_data]
        return [dict(cells) for cells in zip(*columns, strict=True)]

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def sparse_pairs(ids: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """A sparse vector as Milvus keeps it: pairs of a token's id and weight, by id."""
    pairs = np.empty(ids.size, _SPARSE)
    pairs["id"], pairs["weight"] = ids, weights
    return pairs


def upsert_request(collection: str, rows: Sequence[Row]) -> bytes:
    """The bytes of ``UpsertRequest``."""
    request: Pieces = [
        milvus_pb2.UpsertRequest(collection_name=collection, num_rows=len(rows)).SerializeToString(),
    ]
    for name in rows[0]:
        request += _in(milvus_pb2.UpsertRequest, "fields_data", _field(name, [row[name] for row in rows]))
    return b"".join(request)


def _field(name: str, cells: list[Any]) -> Pieces:
    """A ``FieldData``."""
    first = cells[0]
    if not isinstance(first, np.ndarray):
        return [_scalars(name, cells).SerializeToString()]
    if first.dtype == _SPARSE:
        content = schema_pb2.SparseFloatArray(contents=[cell.tobytes() for cell in cells])
        return [
            schema_pb2.FieldData(
                type=DataType.SPARSE_FLOAT_VECTOR,
                field_name=name,
                vectors=schema_pb2.VectorField(sparse_float_vector=content),
            ).SerializeToString()
        ]
    if first.ndim == 1:
        known = schema_pb2.FieldData(type=DataType.FLOAT_VECTOR, field_name=name).SerializeToString()
        return [known, *_in(schema_pb2.FieldData, "vectors", _vector(len(first), cells))]
    return _structs(name, cells)


def _scalars(name: str, cells: list[Any]) -> Any:  # noqa: ANN401 - a message
    if isinstance(cells[0], str):
        scalars = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=cells))
        kind = DataType.VARCHAR
    elif isinstance(cells[0], bytes):
        scalars = schema_pb2.ScalarField(json_data=schema_pb2.JSONArray(data=cells))
        kind = DataType.JSON
    else:
        lists = [schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=cell)) for cell in cells]
        scalars = schema_pb2.ScalarField(array_data=schema_pb2.ArrayArray(data=lists))
        kind = DataType.ARRAY
    return schema_pb2.FieldData(type=kind, field_name=name, scalars=scalars)


def _structs(name: str, cells: list[NDArray[Any]]) -> Pieces:
    """An array of structs with one vector each: of each document one run of numbers."""
    width, half = cells[0].shape[1], cells[0].dtype == np.float16
    element = DataType.FLOAT16_VECTOR if half else DataType.FLOAT_VECTOR
    array: Pieces = [schema_pb2.VectorArray(dim=width, element_type=element).SerializeToString()]
    for cell in cells:
        array += _in(schema_pb2.VectorArray, "data", _vector(width, [cell]))
    vector = _in(schema_pb2.VectorField, "vector_array", array)
    inner = [
        schema_pb2.FieldData(type=schema_pb2.ArrayOfVector, field_name=STRUCT_ROW).SerializeToString(),
        *_in(schema_pb2.FieldData, "vectors", vector),
    ]
    outer = _in(schema_pb2.StructArrayField, "fields", inner)
    known = schema_pb2.FieldData(type=schema_pb2.ArrayOfStruct, field_name=name).SerializeToString()
    return [known, *_in(schema_pb2.FieldData, "struct_arrays", outer)]


def _vector(width: int, arrays: Sequence[NDArray[Any]]) -> Pieces:
    """A ``VectorField`` of the numbers of arrays, one after the other."""
    known = schema_pb2.VectorField(dim=width).SerializeToString()
    if arrays[0].dtype == np.float16:
        halves = [_memory(np.ascontiguousarray(array, "<f2")) for array in arrays]
        return [known, *_in(schema_pb2.VectorField, "float16_vector", halves)]
    packed = _in(schema_pb2.FloatArray, "data", [_memory(floats(array)) for array in arrays])
    return [known, *_in(schema_pb2.VectorField, "float_vector", packed)]


def _memory(array: Any) -> memoryview:  # noqa: ANN401 - a contiguous array
    return memoryview(array).cast("B")


def _in(message: Any, name: str, content: Pieces) -> Pieces:  # noqa: ANN401 - a class of messages
    """A field of a message, with its content."""
    return [head(message, name, sum(map(len, content))), *content]


def _column(data: Any) -> Iterable[Any]:  # noqa: ANN401 - FieldData
    """The cells of a field, one per row."""
    kind = data.WhichOneof("field")
    if kind == "struct_arrays":
        (rows,) = data.struct_arrays.fields
        return [_numbers(cell) for cell in rows.vectors.vector_array.data]
    if kind == "vectors":
        if data.vectors.WhichOneof("data") == "sparse_float_vector":
            return [np.frombuffer(cell, _SPARSE) for cell in data.vectors.sparse_float_vector.contents]
        return _numbers(data.vectors)
    if data.type == DataType.VARCHAR:
        return list(data.scalars.string_data.data)
    if data.type == DataType.JSON:
        return [json.loads(cell) for cell in data.scalars.json_data.data]
    return [list(cell.string_data.data) for cell in data.scalars.array_data.data]


def _numbers(vector: Any) -> FloatArray:  # noqa: ANN401 - VectorField
    """Its vectors: float32 [n, dim]."""
    if vector.WhichOneof("data") == "float16_vector":
        return np.frombuffer(vector.float16_vector, "<f2").astype(np.float32).reshape(-1, vector.dim)
    numbers = vector.float_vector
    size = 4 * len(numbers.data)  # what stands before them is the head of the field
    return np.frombuffer(numbers.SerializeToString()[-size:] if size else b"", "<f4").reshape(-1, vector.dim)
