"""Vectors in Qdrant's protobuf messages, straight from and to arrays.

The messages of vectors are put together here byte by byte, and read back without a Python number in between; all
others are made and read by the classes of ``qdrant_client.grpc``.

A vector is an array [d] or [rows, m], or ``{"indices": …, "values": …}`` for a sparse one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc as q
from qdrant_client.conversions.conversion import RestToGrpc

from m3_vdb.stores.points import Point
from m3_vdb.stores.protobuf import entry, field, floats, head


def upsert_request(collection: str, points: Sequence[Point]) -> q.UpsertPoints:
    """The request that stores points and waits until they are."""
    known = q.UpsertPoints(collection_name=collection, wait=True).SerializeToString()
    fields = [field(q.UpsertPoints, "points", _point(point)) for point in points]
    request: q.UpsertPoints = q.UpsertPoints.FromString(b"".join([known, *fields]))
    return request


def to_input(vector: Any) -> q.VectorInput:  # noqa: ANN401 - an array, or a mapping of two
    """A vector to search by."""
    kind, content = _message(vector)
    vector_input: q.VectorInput = q.VectorInput.FromString(field(q.VectorInput, kind, content))
    return vector_input


def read_vectors(output: q.VectorsOutput) -> dict[str, Any]:
    """The named vectors of a stored point, as arrays; a sparse one has them as ``indices`` and ``values``."""
    return {name: _read(vector) for name, vector in output.vectors.vectors.items()}


def _point(point: Point) -> bytes:
    known = q.PointStruct(id=q.PointId(uuid=point.id), payload=RestToGrpc.convert_payload(point.payload))
    entries = b"".join(
        field(q.NamedVectors, "vectors", entry(name, field(q.Vector, *_message(vector))))
        for name, vector in point.vectors.items()
    )
    named = field(q.Vectors, "vectors", entries)
    content: bytes = known.SerializeToString()
    return content + field(q.PointStruct, "vectors", named)


def _message(vector: Any) -> tuple[str, bytes]:  # noqa: ANN401 - as to_input
    """The field that holds a vector in ``Vector`` and ``VectorInput``, and its message."""
    if isinstance(vector, Mapping):
        indices = q.SparseVector(indices=np.asarray(vector["indices"]).tolist()).SerializeToString()
        return "sparse", field(q.SparseVector, "values", floats(vector["values"]).tobytes()) + indices
    numbers = floats(vector)
    if numbers.ndim == 1:
        return "dense", field(q.DenseVector, "data", numbers.tobytes())
    # Each row is a message of its own. They are equally long, so one array holds them all, with equal heads.
    rows, width = numbers.shape
    size = 4 * width
    inner = head(q.DenseVector, "data", size)
    start = head(q.MultiDenseVector, "vectors", len(inner) + size) + inner
    message = np.empty((rows, len(start) + size), np.uint8)
    message[:, : len(start)] = np.frombuffer(start, np.uint8)
    message[:, len(start) :] = numbers.view(np.uint8)
    return "multi_dense", message.tobytes()


def _read(vector: q.VectorOutput) -> Any:  # noqa: ANN401 - as to_input
    kind = vector.WhichOneof("vector")
    if kind == "dense":
        return _tails(vector.dense.SerializeToString(), 1, len(vector.dense.data))[0]
    if kind == "multi_dense":
        rows = vector.multi_dense.vectors
        return _tails(vector.multi_dense.SerializeToString(), len(rows), len(rows[0].data))
    if kind == "sparse":
        return _sparse(vector.sparse.indices, vector.sparse.values)
    if vector.HasField("indices"):  # older servers: all numbers in one list
        return _sparse(vector.indices.data, vector.data)
    numbers = np.array(vector.data, np.float32)
    return numbers.reshape(vector.vectors_count, -1) if vector.HasField("vectors_count") else numbers


def _sparse(indices: Sequence[int], values: Sequence[float]) -> SimpleNamespace:
    """A sparse vector as the client's classes have it."""
    return SimpleNamespace(indices=np.array(indices), values=np.array(values, np.float32))


def _tails(content: bytes, rows: int, width: int) -> NDArray[np.float32]:
    """The last ``width`` numbers of each of equally long messages: float32 [rows, width]."""
    messages = np.frombuffer(content, np.uint8).reshape(rows, -1)
    return np.ascontiguousarray(messages[:, messages.shape[1] - 4 * width :]).view("<f4")
