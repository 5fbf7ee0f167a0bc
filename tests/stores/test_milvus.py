"""What only Milvus servers have: requests on a wire, the probe and the guard. The contract runs over the same stub."""

from __future__ import annotations

import base64
import dataclasses
import json
import os

import numpy as np
import pymilvus
import pytest
from pymilvus import DataType, MilvusClient
from pymilvus.client.entity_helper import sparse_parse_single_row
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2, schema_pb2

from benchmarks.stubs.milvus_stub import MilvusStub, RefusedError
from m3_vdb.errors import (
    CollectionMismatchError,
    ConfigError,
    DocumentError,
    StoreConnectionError,
    StoreError,
    StoreRequestError,
)
from m3_vdb.stores import CollectionOptions, MemoryStore, open_store
from m3_vdb.stores.milvus.engine import TRIAL_PREFIX
from m3_vdb.stores.milvus.filters import terms
from m3_vdb.stores.milvus.rows import SENTINEL, to_row
from m3_vdb.stores.milvus.store import MAX_REQUEST_BYTES
from m3_vdb.stores.points import make_points
from m3_vdb.types import Document, SparseVector
from m3_vdb.weights import PRESETS, Weights
from tests.stores._corpus import IDENTITY, assert_same_hits, make_documents, make_embeddings, make_queries
from tests.stores.conftest import SERVERS

EMPTY = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))


@pytest.mark.parametrize("backend", SERVERS)
def test_a_server_of_your_own_joins_the_contract(backend):
    if not os.environ.get(SERVERS[backend]):
        pytest.skip(f"no {backend} server: {SERVERS[backend]} names none, for example {backend}://localhost:PORT")


@pytest.fixture
def stub():
    server = MilvusStub()
    yield server
    server.close()


@pytest.fixture
def store(stub):
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as opened:
        yield opened


@pytest.fixture
def filled(store):
    documents, embeddings = make_documents(150), make_embeddings(150)
    oracle = MemoryStore(IDENTITY)
    for s in (store, oracle):
        s.upsert(documents, embeddings)
    return store, oracle


def params(pairs):
    return {pair.key: pair.value for pair in pairs}


def test_the_collection_is_made_as_m3_needs_it(stub, store):
    (request,) = [r for r in stub.requests("CreateCollection") if r.collection_name == "notes"]
    schema = schema_pb2.CollectionSchema.FromString(request.schema)
    fields = {field.name: (DataType(field.data_type), params(field.type_params)) for field in schema.fields}
    assert fields["key"][1] == {"max_length": "36"}
    assert fields["id"] == fields["text"] == fields["title"] == (DataType.VARCHAR, {"max_length": "65535"})
    assert fields["dense"] == (DataType.FLOAT_VECTOR, {"dim": "64"})
    assert fields["sparse"][0] == DataType.SPARSE_FLOAT_VECTOR
    assert "tokens" not in fields
    (struct,) = schema.struct_array_fields
    (row,) = struct.fields
    assert (struct.name, row.name, DataType(row.element_type)) == ("multi_vector", "row", DataType.FLOAT_VECTOR)
    assert params(row.type_params) == {"dim": "24", "max_capacity": "4096"}
    assert request.consistency_level == common_pb2.ConsistencyLevel.Strong
    assert json.loads(params(request.properties)["m3"]) == IDENTITY.as_metadata() == json.loads(schema.description)
    indexes = stub.collections["notes"].indexes
    assert {name: (index["index_type"], index.get("metric_type")) for name, index in indexes.items()} == {
        "dense": ("HNSW", "IP"),
        "sparse": ("SPARSE_INVERTED_INDEX", "IP"),
        "multi_vector[row]": ("HNSW", "MAX_SIM_IP"),
        "terms": ("INVERTED", None),
    }
    assert store.capabilities.multi_vector_search is True
    assert store.capabilities.fusion == "server"


def test_the_second_step_adds_weighted_raw_scores(stub, store):
    store.upsert(make_documents(60), make_embeddings(60))
    query = make_queries(1)[0]
    stub.calls.clear()
    store.rank(query, weights=Weights(0.2, 0.3, 2), limit=3, candidates=15, filter={"lang": "de"})
    (hybrid,) = stub.requests("HybridSearch")
    (condition,) = {part.dsl for part in hybrid.requests}
    keys = json.loads(condition.removeprefix("key in "))
    assert 15 < len(set(keys)) == len(keys) <= 2 * 15
    ranking = json.loads(params(hybrid.rank_params)["params"])
    assert ranking["norm_score"] is False
    rows = len(query.multi_vector)
    assert ranking["weights"] == pytest.approx([w / max(0.3, 2 / rows) for w in (0.2, 0.3, 2 / rows)])
    assert max(ranking["weights"]) == 1  # a server takes no more
    assert list(hybrid.output_fields) == ["key"]  # and no vectors travel


@pytest.mark.parametrize("source", ["dense", "sparse", "union"])
def test_many_queries_find_their_candidates_in_one_request(stub, filled, source):
    store, oracle = filled
    queries = make_queries(70)  # 64 at a time
    queries[5] = dataclasses.replace(queries[5], sparse=EMPTY)
    asked = {"limit": 5, "candidates": 30, "source": source, "filter": {"lang": ["de", "en"]}}
    stub.calls.clear()
    answers = store.query_many(queries, **asked)
    searches = [r for r in stub.requests("Search") if "key in" not in r.dsl]
    assert [r.nq for r in searches] == {
        "dense": [64, 6], "sparse": [64, 5], "union": [64, 6, 64, 5],
    }[source]  # fmt: skip
    for query, hits in zip(queries, answers, strict=True):
        truth = oracle.query(query, **{**asked, "limit": 8})
        assert hits == truth if not truth else assert_same_hits(hits, truth, limit=5) < 1e-6


def test_ef_is_never_below_the_limit(stub, store):
    store.upsert(make_documents(20), make_embeddings(20))
    for ef, sent in ((500, 500), (3, 200), (None, 200)):
        stub.calls.clear()
        store.query(make_queries(1)[0], ef=ef)
        assert json.loads(params(stub.requests("Search")[0].search_params)["params"])["ef"] == sent


@pytest.mark.parametrize("preset", ["default", "dense_sparse", "long_document"])
@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("fault", ["rows", "dense", "both"])
def test_candidates_that_a_list_lacks_are_scored_by_vectors(stub, filled, fault, explain, preset):
    store, oracle = filled
    stub.ann_ratio = 0.3 if fault != "dense" else None
    for query in make_queries(3):
        args = {"weights": PRESETS[preset], "candidates": 60}
        best = oracle.query(query, limit=60, **args)
        if fault != "rows":
            keys = {row["id"]: key for key, row in stub.collections["notes"].rows.items()}
            stub.loses_dense = {keys[hit.document.id] for hit in best[::4]}
        stub.calls.clear()
        hits = store.query(query, limit=60, explain=explain, **args)
        assert_same_hits(hits, best, limit=60)
        refetched = [r for r in stub.requests("Query") if "dense" in r.output_fields]
        assert bool(refetched) == (fault != "rows" or preset != "dense_sparse" or explain)


ENGINES = {
    "no structs": {"keeps_structs": False},
    "arctan": {"weighs_raw": False},
    "neither": {"keeps_structs": False, "weighs_raw": False},
    "no properties": {"keeps_properties": False},
}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_any_engine_gives_exact_scores(stub, engine):
    for name, value in engine.items():
        setattr(stub, name, value)
    oracle = MemoryStore(IDENTITY)
    documents, embeddings = make_documents(80), make_embeddings(80)
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
        able = store.capabilities
        assert able.struct_arrays == stub.keeps_structs
        assert able.raw_weights == stub.weighs_raw
        assert (able.multi_vector_search, able.fusion) == (
            stub.keeps_structs,
            "server" if stub.keeps_structs and stub.weighs_raw else "client",
        )
        for s in (store, oracle):
            s.upsert(documents, embeddings)
        for weights in (Weights(), Weights(1, 0.3, 0), Weights(0, 0, 1), Weights(0.2, 8, 0)):
            for source in ("dense", "sparse", "union"):
                for query in make_queries(2):
                    args = {"weights": weights, "candidates": 30, "source": source}
                    hits = store.query(query, limit=10, **args)
                    assert_same_hits(hits, oracle.query(query, limit=30, **args), limit=10)
        hybrids = len(stub.requests("HybridSearch")) - 1  # one was the probe's
        assert bool(hybrids) == stub.weighs_raw
    with open_store(f"{stub.url}/notes", identity=None) as store:
        assert store.identity == IDENTITY
        assert store.capabilities == able
    assert list(stub.collections) == ["notes"]


def test_a_probe_is_remembered_until_the_version_changes(stub, store):
    def probes():
        return [r for r in stub.requests("CreateCollection") if r.collection_name.startswith(TRIAL_PREFIX)]

    assert len(probes()) == 1
    open_store(f"{stub.url}/notes", identity=IDENTITY).close()
    assert len(probes()) == 1
    stub.version, stub.weighs_raw = "v9", False
    for _ in range(2):
        with open_store(f"{stub.url}/notes", identity=IDENTITY) as again:
            assert again.capabilities.fusion == "client"
            assert again.capabilities.server == "v9"
    assert len(probes()) == 2
    assert list(stub.collections) == ["notes"]


def test_who_may_not_probe_gets_exact_scores_too(stub, filled):
    _, oracle = filled
    stub.version = "v9"
    stub.refuse["CreateCollection"] = RefusedError("privilege check failed")
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
        assert (store.capabilities.multi_vector_search, store.capabilities.fusion) == (False, "client")
        query = make_queries(1)[0]
        assert_same_hits(store.query(query, explain=True), oracle.query(query, limit=15), limit=10)


def test_a_probe_that_fails_leaves_nothing_behind(stub):
    stub.refuse["Upsert"] = stub.refuse["Insert"] = RefusedError("disk full")
    with pytest.raises(StoreRequestError, match="disk full"):
        open_store(f"{stub.url}/notes", identity=IDENTITY)
    assert stub.collections == {}


@pytest.mark.skipif(pymilvus.__version__ < "3", reason="pymilvus 2 cannot send float16 rows")
def test_half_stores_float16(stub):
    embeddings, query = make_embeddings(40), make_queries(1)[0]
    with open_store(f"{stub.url}/halves", identity=IDENTITY, options=CollectionOptions(storage="half")) as store:
        store.upsert(make_documents(40), embeddings)
        (row,) = stub.collections["halves"].schema.struct_array_fields[0].fields
        assert row.element_type == DataType.FLOAT16_VECTOR
        whole = dict(store.rank(query, limit=40))
        part = stub.requests("HybridSearch")[-1].requests[-1]
        (holder,) = common_pb2.PlaceholderGroup.FromString(part.placeholder_group).placeholders
        assert holder.type == common_pb2.PlaceholderType.EmbListFloat16Vector
        stub.ann_ratio = 0.1
        assert dict(store.rank(query, limit=40)) == pytest.approx(whole, abs=1e-3)  # from float16 rows that are fetched
        oracle = MemoryStore(IDENTITY)
        oracle.upsert(make_documents(40), embeddings)
        assert whole == pytest.approx(dict(oracle.rank(query, limit=40)), abs=1e-3)


def test_options_that_milvus_has(stub):
    options = CollectionOptions(shard_number=3, indexes={"lang": "keyword"})
    open_store(f"{stub.url}/shards", identity=IDENTITY, options=options).close()
    assert [r.shards_num for r in stub.requests("CreateCollection") if r.collection_name == "shards"] == [3]
    for refused, message in (
        ({"storage": "quarter"}, "'float32' and 'half'"),
        ({"tenant": "who"}, "not support the option tenant"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_store(f"{stub.url}/nope", identity=IDENTITY, options=CollectionOptions(**refused))
    assert list(stub.collections) == ["shards"]


def test_upserts_are_cut_by_bytes(stub):
    identity = dataclasses.replace(IDENTITY, dense_dim=8, multi_vector_dim=1024)
    embeddings = make_embeddings(100, identity=identity, max_rows=100)
    with open_store(f"{stub.url}/wide", identity=identity) as store:
        store.upsert(make_documents(100), embeddings)
        assert store.count() == 100
    sizes = [request.ByteSize() for request in stub.requests("Upsert")]
    assert len(sizes) > 1
    assert max(sizes) <= MAX_REQUEST_BYTES
    assert min(sizes[:-1]) > MAX_REQUEST_BYTES / 2  # cut by size and not too early


@pytest.mark.parametrize("structs", [True, False])
def test_answers_that_are_too_large_are_asked_for_in_parts(stub, structs):
    stub.keeps_structs, stub.ann_ratio, stub.max_output = structs, 0.1, 60_000
    documents, embeddings = make_documents(120), make_embeddings(120)
    oracle = MemoryStore(IDENTITY)
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
        for s in (store, oracle):
            s.upsert(documents, embeddings)
        query = make_queries(1)[0]
        assert_same_hits(store.query(query), oracle.query(query, limit=15), limit=10)
        fetched = [r for r in stub.requests("Query") if "dense" in r.output_fields]
        assert len(fetched) > 4
        stub.max_output = 10
        with pytest.raises(StoreRequestError, match="maxOutputSize"):  # a single row is too large: no end of splitting
            store.query(query)


def test_a_collection_is_read_in_parts(filled, monkeypatch):
    monkeypatch.setattr("m3_vdb.stores.milvus.requests._KEYS", 2)  # 150 documents: two digits, 256 parts
    store, oracle = filled
    found = {
        d.id: (d, e)
        for documents, embeddings in store.scroll(batch=7)
        for d, e in zip(documents, embeddings, strict=True)
    }
    assert len(found) == 150
    truth = {
        d.id: (d, e) for documents, embeddings in oracle.scroll() for d, e in zip(documents, embeddings, strict=True)
    }
    for name, (document, embedding) in found.items():
        assert document == truth[name][0]
        assert np.array_equal(embedding.dense, truth[name][1].dense)
        assert embedding.sparse.as_dict() == truth[name][1].sparse.as_dict()
        assert np.array_equal(embedding.multi_vector, truth[name][1].multi_vector)


TOO_MUCH = {
    "text": (Document(id="a", text="é" * 40_000), "80,000 bytes"),
    "id": (Document(id="x" * 65_536, text="t"), "65,536 bytes"),
    "payload": (Document(id="a", text="t", payload={"x": "y" * 70_000}), "payload has 70,00"),
    "values": (Document(id="a", text="t", payload={"x": list(range(5000))}), "5,002 different values"),
    "numbers": (Document(id="a", text="t", payload={f"n{i}": 0 for i in range(1500)}), "about 1,000 fields"),
}


@pytest.mark.parametrize(("document", "words"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_a_server_cannot_hold_is_named_and_nothing_is_sent(stub, store, document, words):
    with pytest.raises(DocumentError, match=words) as caught:
        store.upsert([*make_documents(2), document], make_embeddings(3))
    assert caught.value.index == 2
    assert not stub.requests("Upsert")


def test_the_largest_text_and_payload_fit(store):
    fits = Document(id="x" * 65_535, text="t" * 65_535, payload={"x": "y" * 65_000})
    store.upsert([fits], make_embeddings(1))
    assert store.get([fits.id]) == [fits]


def test_more_rows_than_an_array_holds(stub, store):
    rows = np.full((4097 + 5, 24), 24**-0.5, np.float32)
    long = dataclasses.replace(make_embeddings(2), multi_vector=rows, multi_vector_offsets=np.array([0, 5, 4102]))
    with pytest.raises(DocumentError, match=r"4097 rows.*4096") as caught:
        store.upsert(make_documents(2), long)
    assert caught.value.index == 1
    assert not stub.requests("Upsert")


def test_a_text_without_tokens_is_sent_a_sentinel_that_nothing_matches(stub, store):
    bare = dataclasses.replace(
        make_embeddings(2),
        sparse_ids=np.empty(0, np.int32),
        sparse_weights=np.empty(0, np.float32),
        sparse_offsets=np.zeros(3, np.int64),
    )
    store.upsert(make_documents(2), bare)
    for row in stub.collections["notes"].rows.values():
        assert sparse_parse_single_row(row["sparse"]) == pytest.approx(SENTINEL)
    start = dataclasses.replace(make_queries(1)[0], sparse=SparseVector(np.array([0]), np.ones(1, np.float32)))
    assert store.rank(start, source="sparse") == []
    assert [hit.parts.sparse for hit in store.query(start, explain=True)] == [0, 0]


def test_a_collection_of_somebody_else(stub):
    client = MilvusClient(f"http://127.0.0.1:{stub.port}", dedicated=True)
    schema = MilvusClient.create_schema(description=json.dumps(IDENTITY.as_metadata()))
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=64)
    client.create_collection("theirs", schema=schema)
    with pytest.raises(CollectionMismatchError, match="lacks the field key, numbers, payload, sparse"):
        open_store(f"{stub.url}/theirs", identity=IDENTITY)
    stub.collections["theirs"].schema.description = "notes of mine"
    with pytest.raises(CollectionMismatchError, match="which model"):
        open_store(f"{stub.url}/theirs", identity=IDENTITY)
    client.close()


def test_exact_is_decided_when_a_collection_is_made(stub, store):
    with pytest.raises(ConfigError, match="made with HNSW"):
        open_store(f"{stub.url}/notes", identity=IDENTITY, exact=True)
    assert store.capabilities.exact_candidates is False
    for exact in (True, None, False):
        with open_store(f"{stub.url}/flat", identity=IDENTITY, exact=exact) as flat:
            assert flat.capabilities.exact_candidates is True
    assert stub.collections["flat"].indexes["dense"]["index_type"] == "FLAT"


def test_indexes_are_made_where_a_killed_process_left_none(stub, store):
    store.upsert(make_documents(5), make_embeddings(5))
    stub.collections["notes"].indexes.clear()
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as again:
        assert len(again.query(make_queries(1)[0])) == 5


def test_two_workers_that_create_at_once(stub, monkeypatch):
    first = open_store(f"{stub.url}/notes", identity=IDENTITY)
    looks = []
    exists = MilvusClient.has_collection

    def late(client, name, **args):
        looks.append(name)
        return looks != ["notes"] and exists(client, name, **args)  # it looked before the first one created

    monkeypatch.setattr(MilvusClient, "has_collection", late)
    second = open_store(f"{stub.url}/notes", identity=IDENTITY)
    assert second.identity == first.identity
    for store in (first, second):
        store.close()


@pytest.mark.parametrize("given", [None, "from:argument"])
def test_token_and_database_travel_in_the_header(stub, given, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "from:environment")
    open_store(f"{stub.url}/library/notes", identity=IDENTITY, api_key=given).close()
    sent = stub.metadata[-1]
    assert base64.b64decode(sent["authorization"]).decode() == (given or "from:environment")
    assert {headers["dbname"] for headers in stub.metadata[1:]} == {"library"}


def test_a_server_that_goes_away_is_a_connection_error(stub):
    store = open_store(f"{stub.url}/notes", identity=IDENTITY, timeout=2)
    stub.close()
    with pytest.raises(StoreConnectionError, match="is the server running"):
        store.count()
    store.close()


def test_the_servers_own_words_are_in_the_message(stub, store):
    stub.collections.clear()
    with pytest.raises(StoreRequestError, match="can't find collection"):
        store.count()
    with pytest.raises(StoreRequestError, match="Milvus collection 'notes'"):
        store.upsert(make_documents(1), make_embeddings(1))


def test_a_server_that_is_too_old_is_told_its_version():
    old = MilvusStub()
    old.version = "v2.3.5"
    with pytest.raises(StoreError, match=r"the server is Milvus 2\.3\.5, and m3-vdb needs 2\.4 or newer .*upgrade it"):
        open_store(f"{old.url}/notes", identity=IDENTITY)
    assert not old.collections
    old.close()


def test_a_refusal_is_told_once_and_by_us(caplog):
    """pymilvus logs a traceback of every refused request; the log of other calls is left as it is."""
    stub = MilvusStub()
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
        stub.refuse = {"Query": RefusedError("no", 1100)}
        with pytest.raises(StoreRequestError, match="1100 no"):
            store.get(["a"])
        assert not caplog.messages
    client = MilvusClient(stub.url.replace("milvus", "http"), dedicated=True)
    with pytest.raises(MilvusException):
        client.query("notes", "id == 'a'")
    assert "Traceback" in caplog.text
    client.close()
    stub.close()


@pytest.mark.skipif(pymilvus.__version__ < "3", reason="pymilvus 2 leaves out the type of what an array holds")
@pytest.mark.parametrize("half", [False, True])
def test_the_request_says_what_pymilvus_would_say(stub, half):
    """The same rows by the plain client: equal messages, but for what pymilvus leaves 0."""
    documents, embeddings = make_documents(3), make_embeddings(3)
    options = CollectionOptions(storage="half" if half else "float32")
    with open_store(f"{stub.url}/packed", identity=IDENTITY, options=options) as store:
        store.upsert(documents, embeddings)
    ours = stub.requests("Upsert")[-1]
    points = make_points(documents, embeddings, identity=IDENTITY, max_rows=None, types={})
    rows = [to_row(one, terms(one.payload["payload"]), {}, struct=True, half=half) for one in points]
    client = MilvusClient(stub.url.replace("milvus", "http"), dedicated=True)
    client.upsert(
        "packed",
        [
            {
                **row,
                "payload": point.payload["payload"],
                "numbers": json.loads(bytes(ours.fields_data[6].scalars.json_data.data[index])),
                "sparse": point.sparse.as_dict(),
                "multi_vector": [{"row": one} for one in row["multi_vector"]],
            }
            for index, (point, row) in enumerate(zip(points, rows, strict=True))
        ],
    )
    theirs = stub.requests("Upsert")[-1]
    client.close()

    def fields(request):
        found = {field.field_name: field for field in request.fields_data}
        for name in ("payload", "numbers"):  # the spaces of JSON
            cells = found[name].scalars.json_data.data
            cells[:] = [json.dumps(json.loads(cell)).encode() for cell in cells]
        return found

    expected, found = fields(theirs), fields(ours)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    assert (ours.num_rows, ours.collection_name) == (theirs.num_rows, theirs.collection_name)
