"""What ``milvus_stub`` reads from and writes into Milvus' protobufs: fields, rows, results."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymilvus import DataType
from pymilvus.client.entity_helper import sparse_parse_single_row
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

MAX_JSON = 65_536
MAX_ELEMENTS = 4096
FLOAT_VECTOR, SPARSE, ARRAY, JSON, VARCHAR = (
    DataType.FLOAT_VECTOR,
    DataType.SPARSE_FLOAT_VECTOR,
    DataType.ARRAY,
    DataType.JSON,
    DataType.VARCHAR,
)


class RefusedError(Exception):
    def __init__(self, words: str, code: int = 1100) -> None:
        super().__init__(words)
        self.code = code


def limit(params: Any) -> int:
    return int(next(pair.value for pair in params if pair.key == "topk"))


def ids(keys: list[str]) -> Any:
    return schema_pb2.IDs(str_id=schema_pb2.StringArray(data=keys))


def lexical(query: dict[int, float], row: bytes) -> float:
    weights = sparse_parse_single_row(row)
    return float(sum(weight * weights[i] for i, weight in query.items() if i in weights))


def matrix(cell: Any) -> np.ndarray:
    if cell.WhichOneof("data") == "float16_vector":
        return np.frombuffer(cell.float16_vector, np.float16).reshape(-1, cell.dim).astype(np.float32)
    return np.array(cell.float_vector.data, np.float32).reshape(-1, cell.dim)


def cells(data: Any) -> list[Any]:
    """One value a row, in a form that ``field_data`` can send back."""
    if data.type == VARCHAR:
        return list(data.scalars.string_data.data)
    if data.type == JSON:
        return list(data.scalars.json_data.data)
    if data.type == ARRAY:
        return list(data.scalars.array_data.data)
    if data.type == SPARSE:
        return list(data.vectors.sparse_float_vector.contents)
    if data.type == FLOAT_VECTOR:
        return list(np.array(data.vectors.float_vector.data, np.float32).reshape(-1, data.vectors.dim))
    (rows,) = data.struct_arrays.fields
    return list(rows.vectors.vector_array.data)


def check_cells(found: Any, name: str, cells: list[Any]) -> None:
    field = next((f for f in found.schema.fields if f.name == name), None)
    params = {pair.key: pair.value for pair in field.type_params} if field is not None else {"max_capacity": "4096"}
    for cell in cells:
        if isinstance(cell, str) and len(cell.encode()) > int(params["max_length"]):
            raise RefusedError(f"length of varchar field {name} exceeds max length")
        if field is not None and field.data_type == JSON and len(cell) > MAX_JSON:
            raise RefusedError(f"the length ({len(cell)}) of json field ({name}) exceeds max length (65536)")
        if field is not None and field.data_type == SPARSE and not cell:
            raise RefusedError("empty sparse float vector row")
        if field is None and len(matrix(cell)) > MAX_ELEMENTS:
            raise RefusedError("the length of array exceeds max capacity")


def field_data(found: Any, name: str, cells: list[Any]) -> Any:
    field = next((f for f in found.schema.fields if f.name == name), None)
    if field is None:
        (struct,) = found.schema.struct_array_fields
        (rows,) = struct.fields
        data = schema_pb2.FieldData(field_name=name, type=DataType._ARRAY_OF_STRUCT)
        inner = data.struct_arrays.fields.add(field_name=rows.name, type=DataType._ARRAY_OF_VECTOR)
        inner.vectors.vector_array.element_type = rows.element_type
        inner.vectors.vector_array.data.extend(cells)
        inner.vectors.dim = inner.vectors.vector_array.dim = cells[0].dim if cells else 1
        return data
    data = schema_pb2.FieldData(field_name=name, type=field.data_type)
    if field.data_type == VARCHAR:
        data.scalars.string_data.data.extend(cells)
    elif field.data_type == JSON:
        data.scalars.json_data.data.extend(cells)
    elif field.data_type == ARRAY:
        data.scalars.array_data.element_type = field.element_type
        data.scalars.array_data.data.extend(cells)
    elif field.data_type == SPARSE:
        data.vectors.sparse_float_vector.contents.extend(cells)
        data.vectors.dim = 2**32 - 1
    else:
        data.vectors.dim = len(cells[0]) if cells else 1
        data.vectors.float_vector.data.extend(np.concatenate(cells).tolist() if cells else [])
    return data


def results(found: Any, answers: list[list[tuple[str, Any]]], limit: int, fields: Any) -> Any:
    """The answer to one search for several queries, one ranking each."""
    rankings = [ranked[:limit] for ranked in answers]
    hits = [hit for ranked in rankings for hit in ranked]
    keys = [key for key, _ in hits]
    data = [field_data(found, name, [found.rows[key][name] for key in keys]) for name in fields]
    results = schema_pb2.SearchResultData(
        num_queries=len(rankings), top_k=limit, ids=ids(keys), scores=[float(score) for _, score in hits],
        topks=[len(ranked) for ranked in rankings], fields_data=data, output_fields=list(fields),
        primary_field_name="key",
    )  # fmt: skip
    return milvus_pb2.SearchResults(results=results)
