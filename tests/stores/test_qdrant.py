"""What only the server store has: requests on a wire. The contract runs over the same stub (``qdrant_rest_stub``)."""

from __future__ import annotations

import dataclasses
import json

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as q
from qdrant_client.http.exceptions import UnexpectedResponse
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.cli.main import app
from m3_vdb.errors import (
    CollectionMismatchError,
    ConfigError,
    DocumentError,
    StoreRequestError,
)
from m3_vdb.filter_parser import parse_filter
from m3_vdb.retry import is_transient
from m3_vdb.stores import CollectionOptions, MemoryStore, open_store
from m3_vdb.stores.qdrant.calls import MAX_REST_BYTES
from m3_vdb.stores.qdrant.schema import helpful_indexes
from m3_vdb.types import Document
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries


@pytest.fixture
def stub():
    server = RestStub()
    yield server
    server.close()


@pytest.fixture
def store(stub):
    with open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY) as opened:
        yield opened


def test_the_collection_is_made_as_m3_needs_it(stub, store):
    ((_, _, _, body),) = [call for call in stub.bodies if call[:2] == ("PUT", "/collections/notes")]
    dense, multi = body["vectors"]["dense"], body["vectors"]["multi_vector"]
    assert (dense["size"], dense["distance"]) == (64, "Dot")
    assert (multi["size"], multi["distance"], multi["hnsw_config"]["m"]) == (24, "Dot", 0)
    assert multi["multivector_config"] == {"comparator": "max_sim"}
    assert multi.get("datatype") is None
    assert body["sparse_vectors"]["sparse"].get("modifier") is None
    assert body["metadata"] == {"m3": IDENTITY.as_metadata()}


@pytest.mark.parametrize("version", ["1.15.5", "v1.9.0", "0.11.7"])
@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_a_server_that_is_too_old_is_told_so_before_anything_is_made(stub, version, wire, monkeypatch):
    stub.version = version
    monkeypatch.setattr(
        "benchmarks.stubs.qdrant_grpc_stub._Root.HealthCheck", lambda *_: q.HealthCheckReply(version=version)
    )
    over_grpc = GrpcStub(stub.engine)
    url = f"qdrant://{stub.address}/notes" if wire == "rest" else f"qdrant+grpc://127.0.0.1:{over_grpc.port}/notes"
    with pytest.raises(ConfigError, match=rf"needs a Qdrant server of version 1.16 or newer \(this one: {version}\)"):
        open_store(url, identity=IDENTITY)
    assert not stub.engine.collections
    over_grpc.server.stop(None).wait()


@pytest.mark.parametrize(
    ("version", "storage", "datatype"),
    [("1.20.1", "half", "turbo16"), ("1.19.0", "half", "float16"), ("dev", "half", "float16"),
     ("v1.20.0", "quarter", "turbo8"), ("2.0.0", "float32", None)],
)  # fmt: skip
def test_storage_is_what_the_server_has(stub, version, storage, datatype):
    stub.version = version
    options = CollectionOptions(storage=storage)
    with open_store(f"qdrant://{stub.address}/c", identity=IDENTITY, options=options) as store:
        ((_, _, _, body),) = [call for call in stub.bodies if call[:2] == ("PUT", "/collections/c")]
        assert body["vectors"]["multi_vector"].get("datatype") == datatype
        assert store.capabilities.multi_vector_datatype == (datatype or "float32")
        assert store.capabilities.version == version


def test_a_server_too_old_for_a_quarter(stub):
    stub.version = "1.19.2"
    with pytest.raises(ConfigError, match=r"needs a Qdrant server of version 1\.20 \(this one: 1\.19\.2\)"):
        open_store(f"qdrant://{stub.address}/c", identity=IDENTITY, options=CollectionOptions(storage="quarter"))
    assert not stub.engine.collection_exists("c")


def test_a_server_too_old_to_add_exact_words(stub, store):
    stub.version = "1.17.1"
    with pytest.raises(
        ConfigError, match=r"from version 1\.18 on \(this one: 1\.17\.1\): upgrade it, or ingest into a new"
    ):
        open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY, options=CollectionOptions(bm25=True))
    with open_store(f"qdrant://{stub.address}/new", identity=IDENTITY, options=CollectionOptions(bm25=True)) as new:
        assert new.has_bm25


def test_options_reach_the_server_before_any_document(stub):
    options = CollectionOptions(
        indexes={"year": "integer", "a.b": "float"}, tenant="customer", shard_number=2, replication_factor=1,
        on_disk=True,
    )  # fmt: skip
    url = f"qdrant://{stub.address}/c"
    with open_store(url, identity=IDENTITY, options=options) as store:
        calls = [(path, body) for method, path, _, body in stub.bodies if method == "PUT"]
        assert [path for path, _ in calls] == ["/collections/c", *["/collections/c/index"] * 4]
        created = calls[0][1]
        assert (created["shard_number"], created["replication_factor"]) == (2, 1)
        assert created["vectors"]["dense"]["on_disk"] is created["vectors"]["multi_vector"]["on_disk"] is True
        assert created["sparse_vectors"]["sparse"]["index"]["on_disk"] is True
        fields = ("customer", "year", "a.b", 'a"."b')  # with a dot: the field of that name, and that of an object
        assert [body["field_name"] for _, body in calls[1:]] == [f'payload."{f}"' for f in fields]
        assert calls[1][1]["field_schema"]["is_tenant"] is True
        assert [body["field_schema"] for _, body in calls[2:]] == ["integer", "float", "float"]
        assert store.capabilities.shards == 2
        assert store.capabilities.indexes == {"customer": "keyword", "year": "integer", "a.b": "float"}
        with pytest.raises(DocumentError, match=r"'year' holds 1\.5") as caught:
            store.upsert([Document(id="x", text="t", payload={"year": [3, 1.5]})], make_embeddings(1))
        assert caught.value.index == 0
    stub.bodies.clear()
    wanted = CollectionOptions(indexes={"year": "integer", "new": "bool", "a.b": "float"})
    with open_store(url, identity=IDENTITY, options=wanted):
        made = [body["field_name"] for method, _, _, body in stub.bodies if method == "PUT"]
    assert made == ['payload."new"']  # what is missing, and only that


def test_strict_mode_takes_the_batch_and_never_says_exact():
    strict = models.StrictModeConfig(
        enabled=True, search_allow_exact=False, max_query_limit=150, upsert_max_batchsize=7,
        multivector_config={"multi_vector": models.StrictModeMultivector(max_vectors=50)},
    )  # fmt: skip
    stub = RestStub(strict=strict)
    url = f"qdrant://{stub.address}/notes"
    with open_store(url, identity=IDENTITY) as store:
        can = store.capabilities
        assert (can.may_be_exact, can.max_limit, can.max_upsert, can.max_floats) == (False, 150, 7, 50 * 24 + 1)
        store.upsert(make_documents(20), make_embeddings(20, max_rows=50))
        with pytest.raises(DocumentError, match="at most 50"):
            store.upsert(make_documents(40), make_embeddings(40, max_rows=60))
        query = make_queries(1)[0]
        stub.bodies.clear()
        assert len(store.query(query, candidates=150, source="dense")) == 10
        assert '"exact": true' not in json.dumps([body for *_, body in stub.bodies])
        with pytest.raises(ConfigError, match="ask for at most 150 candidates"):
            store.query(query, source="dense")  # 200 candidates
        with pytest.raises(ConfigError, match="ask for at most 75 candidates"):
            store.query(query, candidates=100)  # of each of two lists
    with pytest.raises(ConfigError, match="forbids exact search"):
        open_store(url, identity=IDENTITY, exact=True)
    with open_store(url, identity=IDENTITY) as store:  # a guard: the stub does refuse the one request
        store._capabilities = dataclasses.replace(store._capabilities, may_be_exact=True)
        with pytest.raises(StoreRequestError, match="403 Forbidden"):
            store.query(make_queries(1)[0], candidates=75)
    stub.close()


def test_on_several_shards_the_candidates_are_the_nearest_of_all():
    stub = RestStub(shards=3)
    documents, embeddings = make_documents(120), make_embeddings(120)
    oracle = MemoryStore(IDENTITY)
    oracle.upsert(documents, embeddings)
    with open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY) as store:
        store.upsert(documents, embeddings)
        wrong = 0
        for query in make_queries(8):
            truth = dict(oracle.rank(query, limit=12, candidates=12))
            assert dict(store.rank(query, limit=12, candidates=12)) == pytest.approx(truth, rel=1e-5)
            store._capabilities = dataclasses.replace(store._capabilities, shards=1)
            wrong += set(dict(store.rank(query, limit=12, candidates=12))) != set(truth)
            store._capabilities = dataclasses.replace(store._capabilities, shards=3)
        assert wrong  # a guard: one request does take the candidates of each shard
    stub.close()


def test_one_request_carries_the_whole_query(stub, store):
    store.upsert(make_documents(5), make_embeddings(5))
    query = make_queries(1)[0]
    stub.bodies.clear()
    store.query(query, weights=Weights(0.2, 0.3, 0.5), limit=3, candidates=44, filter={"lang": "de"})
    ((_, _, _, body),) = stub.bodies
    assert [(part["using"], part["limit"]) for part in body["prefetch"]] == [
        ("dense", 88), ("sparse", 88), ("multi_vector", 88),
    ]  # fmt: skip
    assert [(leaf["using"], leaf["limit"]) for leaf in body["prefetch"][0]["prefetch"]] == [
        ("dense", 44),
        ("sparse", 44),
    ]
    assert [product["mult"] for product in body["query"]["formula"]["sum"]] == [
        [0.2, "$score[0]"], [0.3, "$score[1]"], [pytest.approx(0.5 / len(query.multi_vector)), "$score[2]"],
    ]  # fmt: skip
    assert body["with_vector"] is False
    assert json.dumps(body, allow_nan=False)


def test_upserts_are_cut_by_bytes(stub):
    identity = dataclasses.replace(IDENTITY, multi_vector_dim=1024)
    embeddings = make_embeddings(20, identity=identity)
    with open_store(f"qdrant://{stub.address}/wide", identity=identity) as store:
        store.upsert(make_documents(20), embeddings)
        assert store.count() == 20
    sizes = [size for method, path, size, _ in stub.bodies if (method, path) == ("PUT", "/collections/wide/points")]
    assert len(sizes) > 1
    assert max(sizes) <= MAX_REST_BYTES
    assert sum(sizes) > MAX_REST_BYTES
    assert min(sizes[:-1]) > MAX_REST_BYTES / 2  # cut by size and not too early


def test_the_largest_multi_vector_is_below_the_limit(stub):
    identity = dataclasses.replace(IDENTITY, dense_dim=8, multi_vector_dim=1024)
    small = make_embeddings(2, identity=identity)
    rows = np.full((1024 + 5, 1024), 0.0123456789, np.float32)
    with open_store(f"qdrant://{stub.address}/long", identity=identity) as store:
        fits = dataclasses.replace(small, multi_vector=rows[:1028], multi_vector_offsets=np.array([0, 5, 1028]))
        store.upsert(make_documents(2), fits)
        assert store.count() == 2
        calls = len(stub.bodies)
        too_long = dataclasses.replace(small, multi_vector=rows, multi_vector_offsets=np.array([0, 5, 1029]))
        with pytest.raises(
            DocumentError, match=r"1024 rows of 1024 numbers, and this collection takes at most 1023"
        ) as caught:
            store.upsert(make_documents(2), too_long)
        assert caught.value.index == 1
        assert len(stub.bodies) == calls  # nothing was sent


INT8 = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8"))
UINT8 = models.Datatype.UINT8


def _collection(engine, *, metadata=True, sparse="sparse", quantization=None, dense=(), multi=(), **lexical):
    rows = models.MultiVectorConfig(comparator="max_sim")
    engine.create_collection(
        "c",
        vectors_config={
            "dense": models.VectorParams(**{"size": 64, "distance": "Dot", **dict(dense)}),
            "multi_vector": models.VectorParams(
                **{"size": 24, "distance": "Dot", "multivector_config": rows, **dict(multi)}
            ),
        },
        sparse_vectors_config={sparse: models.SparseVectorParams(**lexical)},
        quantization_config=quantization,
        metadata={"m3": IDENTITY.as_metadata()} if metadata else None,
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"metadata": False}, "which model"),
        ({"modifier": models.Modifier.IDF}, "IDF"),
        ({"sparse": "lexical"}, "lacks one of the vectors"),
        ({"index": models.SparseIndexParams(datatype=UINT8)}, "sparse is stored as uint8"),
        ({"quantization": INT8}, "dense is quantised"),
        ({"dense": {"quantization_config": INT8}}, "dense is quantised"),
        ({"multi": {"quantization_config": INT8}}, "multi_vector is quantised"),
        ({"multi": {"multivector_config": None}}, "one row per document"),
        ({"dense": {"distance": "Euclid"}}, "compared by Euclid"),
        ({"dense": {"size": 32}}, "has 32 numbers, and its own metadata says 64"),
        ({"dense": {"datatype": UINT8}}, "dense is stored as uint8"),
    ],
    ids=str,
)
def test_collections_that_would_give_other_scores(stub, made, message):
    _collection(stub.engine, **made)
    with pytest.raises(CollectionMismatchError, match=message):
        open_store(f"qdrant://{stub.address}/c", identity=IDENTITY)


def test_a_collection_made_by_other_means_is_taken_if_it_is_sound(stub):
    _collection(stub.engine, dense={"distance": "Cosine"}, multi={"datatype": models.Datatype.FLOAT16})
    with open_store(f"qdrant://{stub.address}/c", identity=IDENTITY) as store:
        assert store.capabilities.multi_vector_datatype == "float16"


def test_a_server_too_old_to_keep_the_identity(stub, monkeypatch):
    create = stub.engine.create_collection

    def forgetful(*args, metadata, **kwargs):
        return create(*args, **kwargs)

    monkeypatch.setattr(stub.engine, "create_collection", forgetful)
    with pytest.raises(StoreRequestError, match=r"1\.16"):
        open_store(f"qdrant://{stub.address}/old", identity=IDENTITY)


def test_two_workers_that_create_at_once(stub, monkeypatch):
    first = open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY)
    seen = iter([False])  # the second worker looked before the first one created
    exists = QdrantClient.collection_exists
    monkeypatch.setattr(QdrantClient, "collection_exists", lambda self, name: next(seen, None) or exists(self, name))
    monkeypatch.setattr(QdrantClient, "create_collection", _conflict)
    second = open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY)
    assert second.identity == first.identity
    for store in (first, second):
        store.close()


def _conflict(*_args, **_kwargs):
    raise UnexpectedResponse(
        409, "Conflict", b'{"status":{"error":"Collection `notes` already exists!"}}', httpx.Headers()
    )


def test_the_servers_own_words_are_in_the_message(stub, store):
    stub.engine.delete_collection("notes")
    with pytest.raises(StoreRequestError, match=r"404 Not found: Collection `notes` doesn't exist!"):
        store.count()
    with pytest.raises(StoreRequestError, match="404"):
        store.upsert(make_documents(1), make_embeddings(1))


_PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "3"}, 3),
        (429, {"Retry-After": _PAST}, 0),  # qdrant-client takes this for a fault of its own
        (429, {}, None),
        (503, {"Retry-After": "2.5"}, 2.5),  # of a proxy before the server
        (503, {"Retry-After": _PAST}, 0),
        (503, {"Retry-After": "soon"}, None),
        (500, {}, None),
    ],
    ids=str,
)
def test_a_refusal_carries_its_status_and_its_pause(stub, store, status, headers, wait):
    stub.refuse = [(status, headers)]
    with pytest.raises(StoreRequestError) as caught:
        store.upsert(make_documents(1), make_embeddings(1))
    assert (caught.value.status, caught.value.retry_after) == (status, wait)
    assert is_transient(caught.value)
    store.upsert(make_documents(1), make_embeddings(1))  # the next request is answered
    assert store.count() == 1


def test_a_filter_without_an_index_names_the_command_that_makes_it_once(stub, caplog, monkeypatch):
    monkeypatch.setattr("m3_vdb.stores.qdrant.collection.INDEX_WORTH", 20)
    monkeypatch.setattr("m3_vdb.notices._said", set())
    url = f"qdrant://{stub.address}/my%20notes"
    query = make_queries(1)[0]
    with open_store(url, identity=IDENTITY, options=CollectionOptions(indexes={"lang": "keyword"})) as store:
        store.upsert(make_documents(20), make_embeddings(20))
        store.query(query, filter={"lang": "de", "price": {"$gt": 0.7}})
        assert not caplog.messages, "it was small when it was opened"
    with open_store(url, identity=IDENTITY) as store:
        stub.bodies.clear()
        for _ in range(2):
            store.query(query, filter={"lang": "de", "year": [2001, 2002]})
        assert len(stub.bodies) == 2, "no more requests than before"
    assert caplog.messages == [
        f"a filter on 'year' has no index, so documents are checked one by one: m3-vdb create --store {url} "
        f"--index year=integer adds it to the collection (or float, if the field holds fractions)"
    ]
    # The command makes it in a collection of any model.
    made = CliRunner().invoke(app, ["create", "--store", url, "--index", "year=integer"])
    assert made.exit_code == 0, made.output
    assert made.stderr.endswith("20 documents, model toy, index lang=keyword, index year=integer\n")
    with open_store(url, identity=IDENTITY) as store:
        assert store.field_types == {"lang": "keyword", "year": "integer"}
        store.query(query, filter={"year": 2001})
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("filter", "indexes"),
    [
        ({"a": "x", "b": True}, {"a": "keyword", "b": "bool"}),
        ({"$or": [{"a": 1}, {"$not": {"b": 1.5}}]}, {"a": "integer", "b": "float"}),
        ({"a": {"$gte": 2000}, "b": {"$lt": 0.5}}, {"a": "integer", "b": "float"}),
        ({"a": {"$exists": True}, "b": [], "known": 1, "$text": "a"}, {}),
        ({"c.d": 1}, {"c.d": "integer"}),
    ],
    ids=str,
)
def test_the_index_that_would_help(filter, indexes):
    assert helpful_indexes(parse_filter(filter), {"known"}) == indexes
