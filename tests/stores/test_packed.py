"""Vectors on the wire: what the official classes read is what the arrays hold, bit by bit, and the other way round."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc as q

from benchmarks.stubs.milvus_stub import MilvusStub
from benchmarks.stubs.milvus_stub_wire import matrix
from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.stores import open_store
from m3_vdb.stores.points import make_points, named_vectors
from m3_vdb.stores.qdrant.packed import read_vectors, to_input, upsert_request
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EXTREME = np.array([0.0, -0.0, 1e-45, -1.17549435e-38, 3.4028235e38, -1.23456789e-10, 0.1, 1 / 3], np.float32)


def points(n=4):
    return make_points(make_documents(n), make_embeddings(n), identity=IDENTITY, max_rows=None, types={})


def test_a_point_is_what_the_official_classes_make_of_it():
    (point,) = points(1)
    sparse = q.SparseVector(values=point.sparse.weights.tolist(), indices=point.sparse.ids.tolist())
    rows = [q.DenseVector(data=row) for row in point.multi_vector.tolist()]
    expected = {
        "dense": q.Vector(dense=q.DenseVector(data=point.dense.tolist())),
        "sparse": q.Vector(sparse=sparse),
        "multi_vector": q.Vector(multi_dense=q.MultiDenseVector(vectors=rows)),
    }
    request = upsert_request("notes", [point])
    (found,) = request.points
    assert (request.collection_name, request.wait, found.id.uuid) == ("notes", True, point.id)
    assert found.payload["text"].string_value == point.payload["text"]
    assert found.vectors == q.Vectors(vectors=q.NamedVectors(vectors=expected))


@pytest.mark.parametrize("width", [1, 31, 32, 96, 1024, 5000])  # lengths of one, two and three bytes
def test_rows_of_any_width(width):
    rows = np.random.default_rng(width).normal(size=(3, width)).astype(np.float32)
    assert [list(row.data) for row in to_input(rows).multi_dense.vectors] == rows.tolist()
    assert list(to_input(rows[0]).dense.data) == rows[0].tolist()
    assert list(to_input(rows[:, ::2]).multi_dense.vectors[2].data) == rows[2, ::2].tolist()  # not contiguous
    assert list(to_input(rows.astype(np.float64)).multi_dense.vectors[0].data) == rows[0].tolist()


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=4), st.lists(FLOATS, max_size=4))
def test_what_is_written_is_read_again(rows, weights):
    matrix, values = np.array(rows, np.float32), np.array(weights, np.float32)
    ids = np.arange(len(values)) * 2**30  # up to 32 bits
    sent = {"m": to_input(matrix), "d": to_input(matrix[0]), "s": to_input({"indices": ids, "values": values})}
    output = q.VectorsOutput(
        vectors=q.NamedVectorsOutput(
            vectors={
                "m": q.VectorOutput(multi_dense=sent["m"].multi_dense),
                "d": q.VectorOutput(dense=sent["d"].dense),
                "s": q.VectorOutput(sparse=sent["s"].sparse),
            }
        )
    )
    found = read_vectors(output)
    assert found["m"].tobytes() == matrix.tobytes()
    assert found["d"].tobytes() == matrix[0].tobytes()
    assert (found["s"].indices.tolist(), found["s"].values.tobytes()) == (ids.tolist(), values.tobytes())


def test_answers_of_older_servers():
    """All numbers of a vector in one list, and beside it what divides them."""
    output = q.VectorsOutput(
        vectors=q.NamedVectorsOutput(
            vectors={
                "m": q.VectorOutput(data=[1, 2, 3, 4], vectors_count=2),
                "d": q.VectorOutput(data=[1, 2]),
                "s": q.VectorOutput(data=[0.5], indices=q.SparseIndices(data=[7])),
            }
        )
    )
    found = read_vectors(output)
    assert found["m"].tolist() == [[1, 2], [3, 4]]
    assert found["d"].tolist() == [1, 2]
    assert (found["s"].indices.tolist(), found["s"].values.tolist()) == ([7], [0.5])


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_numbers_in_json_are_the_same_float32(numbers):
    array = np.concatenate([np.array(numbers, np.float32), EXTREME])
    read = json.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
    assert np.array(read, np.float32).tobytes() == array.tobytes()


def test_points_are_below_their_upper_bounds():
    for point in points(20):
        json_bytes = len(json.dumps({"id": point.id, "payload": point.payload})) + len(
            orjson.dumps(point.vectors, option=orjson.OPT_SERIALIZE_NUMPY)
        )
        assert json_bytes / 2 < point.json_bytes
        assert json_bytes < point.json_bytes
        assert upsert_request("", [point]).ByteSize() < point.packed_bytes


@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_a_server_stores_and_returns_the_arrays_bit_by_bit(wire):
    stub = RestStub() if wire == "rest" else GrpcStub()
    url = f"qdrant://{stub.address}/x" if wire == "rest" else f"qdrant+grpc://127.0.0.1:{stub.port}/x"
    documents, embeddings = make_documents(5), make_embeddings(5)
    with open_store(url, identity=IDENTITY) as store:
        store.upsert(documents, embeddings)
        for record in stub.engine.collections["x"].retrieve([one.id for one in points(5)], True, True):
            expected = embeddings[int(record["payload"]["id"][1:])].to_qdrant()
            assert {**record["vector"], "sparse": None} == {**expected, "sparse": None}
        found = {one.id: vectors for page, packed in store.scroll() for one, vectors in zip(page, packed, strict=True)}
    for document, embedding in zip(documents, embeddings, strict=True):
        for name, vector in named_vectors(embedding).items():
            back = named_vectors(found[document.id])[name]
            parts = zip(vector.values(), back.values(), strict=True) if name == "sparse" else [(vector, back)]
            assert all(np.array_equal(one, other) for one, other in parts), name
    stub.close()


def test_milvus_gets_the_arrays_bit_by_bit():
    stub = MilvusStub()
    embeddings = make_embeddings(5)
    with open_store(f"{stub.url}/x", identity=IDENTITY) as store:
        store.upsert(make_documents(5), embeddings)
        request = next(one for one in stub.requests("Upsert") if one.collection_name == "x")
    columns = {column.field_name: column for column in request.fields_data}
    assert request.num_rows == 5
    dense = np.array(columns["dense"].vectors.float_vector.data, np.float32)
    assert np.array_equal(dense.reshape(5, -1), embeddings.dense)
    (rows,) = columns["multi_vector"].struct_arrays.fields
    assert rows.vectors.vector_array.dim == IDENTITY.multi_vector_dim
    for cell, embedding in zip(rows.vectors.vector_array.data, embeddings, strict=True):
        assert cell.dim == IDENTITY.multi_vector_dim
        assert np.array_equal(matrix(cell), embedding.multi_vector)
    stub.close()
