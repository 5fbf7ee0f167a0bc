"""What only gRPC has: the key in the metadata, deadlines, status codes. The contract runs over the same stub."""

from __future__ import annotations

import dataclasses

import grpc
import pytest

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub, _Points
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError, StoreConnectionError, StoreRequestError, StoreUrlError
from m3_vdb.retry import about_content, is_transient
from m3_vdb.stores import CollectionOptions, open_store
from m3_vdb.stores.qdrant.calls import MAX_GRPC_BYTES
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


@pytest.fixture
def stub():
    server = GrpcStub()
    yield server
    server.close()


def opened(stub, **given):
    given = {"identity": IDENTITY, "prefer_grpc": True, "grpc_port": stub.port, **given}
    return open_store("qdrant://127.0.0.1:1/notes", **given)  # nothing listens on the port of REST


def test_every_call_carries_the_key_and_the_deadline(stub):
    with opened(stub, api_key="secret", timeout=7, options=CollectionOptions(indexes={"year": "integer"})) as store:
        assert store.capabilities.version == "1.20.0"
        assert store.capabilities.indexes == {"year": "integer"}
        store.upsert(make_documents(5), make_embeddings(5))
        store.query(make_embeddings(1)[0])
        store.query(make_embeddings(1)[0], explain=True)
        assert sum(len(documents) for documents, _ in store.scroll(batch=2)) == 5
    names = {name for name, _, _ in stub.calls}
    assert names >= {"Create", "CreateFieldIndex", "Upsert", "Query", "QueryBatch", "Get", "Scroll", "HealthCheck"}
    assert {metadata.get("api-key") for _, metadata, _ in stub.calls} == {"secret"}
    assert all(5 < seconds <= 8 for _, _, seconds in stub.calls)


def test_a_refusal_keeps_its_words(stub):
    with opened(stub) as store:
        stub.engine.delete_collection("notes")
        with pytest.raises(StoreRequestError, match="Not found: Collection `notes` doesn't exist!"):
            store.count()


@pytest.mark.parametrize(
    ("code", "words", "metadata", "status", "wait"),
    [
        ("RESOURCE_EXHAUSTED", "Rate limiting exceeded", {"retry-after": "3"}, 429, 3),
        ("RESOURCE_EXHAUSTED", "Rate limiting exceeded", {}, 429, None),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (9 vs. 4)", {}, 413, None),
        (
            "OUT_OF_RANGE",
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
            {},
            413,
            None,
        ),
        ("INTERNAL", "Service internal error: panic", {}, 500, None),
        ("INVALID_ARGUMENT", "Wrong input: Vector dimension error", {}, 400, None),
    ],
)
def test_a_refusal_carries_its_status_and_its_pause(stub, code, words, metadata, status, wait):
    with opened(stub) as store:
        stub.refuse = [(getattr(grpc.StatusCode, code), words, metadata)]
        with pytest.raises(StoreRequestError, match=words[:12]) as caught:
            store.upsert(make_documents(1), make_embeddings(1))
        assert (caught.value.status, caught.value.retry_after) == (status, wait)
        assert is_transient(caught.value) == (status in (429, 500))
        assert about_content(caught.value) == (status in (400, 413))  # halves of the upload are tried
        store.upsert(make_documents(1), make_embeddings(1))


def test_the_url_names_the_port(stub):
    with open_store(f"qdrant+grpc://127.0.0.1:{stub.port}/notes", identity=IDENTITY) as store:
        store.upsert(make_documents(2), make_embeddings(2))
        assert store.count() == 2
    assert stub.engine.collections["notes"].count() == 2


def test_upserts_are_cut_below_the_usual_limit_of_grpc(stub, monkeypatch):
    identity = dataclasses.replace(IDENTITY, multi_vector_dim=1024)
    embeddings, sizes, upsert = make_embeddings(150, identity=identity), [], _Points.Upsert

    def counted(self, request):
        sizes.append(request.ByteSize())
        return upsert(self, request)

    monkeypatch.setattr(_Points, "Upsert", counted)
    server = GrpcStub()
    with open_store(f"qdrant+grpc://127.0.0.1:{server.port}/wide", identity=identity) as store:
        store.upsert(make_documents(150), embeddings)
        assert store.count() == 150
    server.close()
    assert len(sizes) > 1
    assert max(sizes) < MAX_GRPC_BYTES
    assert min(sizes[:-1]) > MAX_GRPC_BYTES / 2  # cut by size and not too early


def test_the_port_of_grpc_is_never_guessed_from_another_rest_port(stub):
    with pytest.raises(ConfigError, match=r"7333 is REST's port.*qdrant\+grpc://HOST:PORT/notes"):
        open_store("qdrant://127.0.0.1:7333/notes", identity=IDENTITY, prefer_grpc=True)
    with pytest.raises(ConfigError, match="names its port"):
        open_store(f"qdrant+grpc://127.0.0.1:{stub.port}/notes", identity=IDENTITY, grpc_port=stub.port)


@pytest.mark.parametrize("has", ["neither", "rest", "grpc", "both"])
def test_rest_and_grpc_of_two_servers(stub, has, monkeypatch):
    """Documents would go to the other server, and nobody would know."""
    monkeypatch.setattr("m3_vdb.stores.qdrant.client._REST_SECONDS", 1)
    rest = RestStub()
    if has in ("rest", "both"):
        open_store(f"qdrant://{rest.address}/notes", identity=IDENTITY).close()
    if has in ("grpc", "both"):
        opened(stub).close()
    with pytest.raises(StoreUrlError, match=rf"REST at http://{rest.address} and gRPC at port {stub.port} are two"):
        open_store(f"qdrant://{rest.address}/notes", identity=IDENTITY, prefer_grpc=True, grpc_port=stub.port)
    assert stub.engine.collection_exists("notes") == (has != "rest")
    rest.close()


def test_rest_and_grpc_of_one_server():
    rest = RestStub()
    grpc = GrpcStub(rest.engine)
    url = f"qdrant://{rest.address}/notes"
    for _ in range(2):  # a new collection, and one that exists
        with open_store(url, identity=IDENTITY, prefer_grpc=True, grpc_port=grpc.port) as store:
            store.upsert(make_documents(2), make_embeddings(2))
    assert {path for _, path, _, _ in rest.bodies} == {"/collections/notes/cluster"}  # nothing else goes over REST
    grpc.close()
    rest.close()


def test_tls_to_a_port_without_it(stub):
    with pytest.raises(StoreConnectionError, match="does the server speak TLS there"):
        open_store(f"qdrant+grpcs://127.0.0.1:{stub.port}/notes", identity=IDENTITY, timeout=3)
