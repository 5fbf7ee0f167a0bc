"""A REST client of a Qdrant server sends vectors over gRPC where the server offers it, and nothing depends on that."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress

import grpc
import pytest
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.cli.main import app
from m3_vdb.errors import StoreConnectionError, StoreRequestError
from m3_vdb.ingest import ingest
from m3_vdb.retry import Retry
from m3_vdb.stores import describe, open_store
from m3_vdb.stores.qdrant.wire import Wire
from tests.ingest._fakes import HashEmbed
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries


@pytest.fixture
def rest():
    stub = RestStub()
    yield stub
    stub.close()


@pytest.fixture
def both(rest):
    """The other port of the same server."""
    stub = GrpcStub(rest.engine)
    yield stub
    stub.server.stop(None).wait()


def opened(rest, port, **given):
    return open_store(f"qdrant://{rest.address}/notes", identity=IDENTITY, grpc_port=port, **given)


def uploads(rest, both=None):
    """Upserts that came over REST, and over gRPC."""
    by_rest = sum(path == "/collections/notes/points" and method == "PUT" for method, path, _, _ in rest.bodies)
    return by_rest, 0 if both is None else sum(name == "Upsert" for name, _, _ in both.calls)


def wire(store):
    return store.facts().engine["wire"]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_vectors_travel_over_grpc_where_the_server_offers_it(rest, both):
    with opened(rest, both.port, api_key="secret") as store:
        assert both.calls == []  # a search needs none of it
        for _ in range(2):
            store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest, both) == (0, 2)
        assert len(store.query(make_queries(1)[0])) == 5
        assert sum(len(documents) for documents, _ in store.scroll()) == 5
        assert store.is_server
        assert wire(store) == f"gRPC for vectors (port {both.port} is of the same server)"
    names = [name for name, _, _ in both.calls]
    assert names[:3] == ["CollectionClusterInfo", "Upsert", "Upsert"]  # asked once
    assert set(names[3:]) == {"Get"}
    assert {metadata.get("api-key") for _, metadata, _ in both.calls} == {"secret"}


def test_large_queries_follow_and_some_of_them_ask_themselves(rest, both, monkeypatch):
    monkeypatch.setattr("m3_vdb.stores.qdrant.wire._LARGE", 65)  # numbers: a dense vector has 64
    queries = [one for one in make_queries(40) if one.multi_vector.size > 64][:12]
    with opened(rest, None) as store:
        store.upsert(make_documents(20), make_embeddings(20))
        expected = [[(hit.document.id, hit.score) for hit in store.query(one)] for one in queries]
    with opened(rest, both.port) as store:
        found = [[(hit.document.id, hit.score) for hit in store.query(one)] for one in queries]
    assert found == expected
    names = [name for name, _, _ in both.calls]
    assert names == ["CollectionClusterInfo", "Query", "Query"]  # the first ten went over REST
    with opened(rest, both.port) as store:
        store.upsert(make_documents(20), make_embeddings(20))
        (hits,) = store.query_many(queries[:1], explain=True)
        assert [(hit.document.id, hit.score) for hit in hits] == expected[0]
        assert len(store.query(queries[0], weights=(1, 0, 0), source="dense")) == 10
    assert [name for name, _, _ in both.calls[3:]] == ["CollectionClusterInfo", "Upsert", "Query", "QueryBatch"]


@pytest.mark.parametrize(
    ("prefer", "told"), [(False, "REST (as asked for)"), (True, "gRPC (as asked for)"), (None, "gRPC for vectors (")]
)
def test_it_may_be_asked_for_and_forbidden(rest, both, prefer, told):
    with opened(rest, both.port, prefer_grpc=prefer) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest, both) == ((1, 0) if prefer is False else (0, 1))
        assert wire(store).startswith(told)
        assert describe(store).engine["wire"].startswith(told)


def test_6334_is_tried_beside_6333_and_no_other(rest, both, monkeypatch):
    url = f"qdrant://{rest.address}/notes"
    with open_store(url, identity=IDENTITY) as store:
        store.upsert(make_documents(1), make_embeddings(1))
        assert wire(store).startswith("REST (the port of gRPC is not known: name it in the URL, qdrant+grpc")
    monkeypatch.setattr("m3_vdb.stores.qdrant.client.REST_PORT", int(rest.address.split(":")[1]))
    monkeypatch.setattr("m3_vdb.stores.qdrant.client.GRPC_PORT", both.port)
    with open_store(url, identity=IDENTITY) as store:
        store.upsert(make_documents(1), make_embeddings(1))
    assert uploads(rest, both) == (1, 1)


def test_a_closed_port_costs_nothing(rest):
    with opened(rest, free_port()) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest) == (1, 0)
        assert wire(store).startswith("REST (no gRPC at port ")
        assert "UNAVAILABLE" in wire(store), "and not the end of a wait"


def test_a_port_that_never_answers(rest, monkeypatch):
    monkeypatch.setattr("m3_vdb.stores.qdrant.wire._PROBE_SECONDS", 0.3)
    probes, probe = [], Wire._fault
    monkeypatch.setattr(Wire, "_fault", lambda self, name: probes.append(name) or probe(self, name))
    with socket.create_server(("127.0.0.1", 0)) as silent, opened(rest, silent.getsockname()[1]) as store:
        for _ in range(3):
            store.upsert(make_documents(5), make_embeddings(5))
        assert len(probes) == 1, "waited for once"
        assert uploads(rest) == (3, 0)
        assert "DEADLINE_EXCEEDED" in wire(store)


@pytest.mark.parametrize("has_it", [False, True], ids=["without", "with"])
def test_grpc_of_another_server(rest, has_it, caplog):
    """Documents would go there, and nobody would know."""
    other = GrpcStub()
    if has_it:
        open_store(f"qdrant+grpc://127.0.0.1:{other.port}/notes", identity=IDENTITY).close()
    with opened(rest, other.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        assert wire(store) == f"REST (gRPC at port {other.port} is of another server)"
        assert f"gRPC at port {other.port} is of another server, so everything goes over REST" in caplog.text
    assert uploads(rest, other) == (1, 0)
    other.close()


def test_a_server_that_does_not_tell_who_it_is(rest, both, monkeypatch):
    answer = rest.answer
    monkeypatch.setattr(rest, "answer", lambda method, path, *rest: answer(method, path.replace("cluster", "x"), *rest))
    with opened(rest, both.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest, both) == (1, 0)
        assert "does not tell whether gRPC" in wire(store) or "another server" in wire(store)


def test_a_key_that_grpc_refuses_is_rests_affair(rest, both):
    with opened(rest, both.port, api_key="reads") as store:
        rest.keys = {"reads": False}
        both.refuse = [(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT", {})]
        with pytest.raises(StoreRequestError, match="403 Forbidden: Write access to collection notes is required"):
            store.upsert(make_documents(5), make_embeddings(5))
        rest.keys = {}
        store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest, both)[1] == 0
        assert "UNAUTHENTICATED: Invalid API key or JWT" in wire(store)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNIMPLEMENTED", "PERMISSION_DENIED"])
def test_grpc_that_stops_working(rest, both, code):
    with opened(rest, both.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        both.refuse = [(getattr(grpc.StatusCode, code), "a proxy says no", {})]
        store.upsert(make_documents(10), make_embeddings(10))
        store.upsert(make_documents(10), make_embeddings(10))
        assert store.count() == 10
        assert uploads(rest, both) == (2, 2)  # the second one over gRPC was refused
        assert wire(store) == f"REST (gRPC stopped working: {code}: a proxy says no)"


def test_an_ingest_goes_on_over_rest(rest, both):
    """Two uploads at a time: they ask once, and what gRPC refuses arrives all the same."""
    embed, documents = HashEmbed(), [{"id": f"d{i}", "text": f"text {i}"} for i in range(40)]
    url = f"qdrant://{rest.address}/notes"
    both.refuse = [None] * 6 + [(grpc.StatusCode.UNAVAILABLE, "gone", {})] * 2
    with open_store(url, identity=embed.identity, grpc_port=both.port) as store:
        report = ingest(documents, embed, store, batch_documents=4, retry=Retry(attempts=1))
        assert (report.documents, report.retries, store.count()) == (40, 0, 40)
        assert wire(store) == "REST (gRPC stopped working: UNAVAILABLE: gone)"
    assert sum(name == "CollectionClusterInfo" for name, _, _ in both.calls) == 1
    by_rest, by_grpc = uploads(rest, both)
    assert by_rest == 5
    assert by_grpc in (6, 7)  # five that were answered


def test_a_server_that_is_away_comes_back_over_grpc(rest, both):
    with opened(rest, both.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        both.refuse, rest.refuse = [(grpc.StatusCode.UNAVAILABLE, "away", {})], [(503, {})]
        with pytest.raises(StoreRequestError, match="503"):
            store.upsert(make_documents(5), make_embeddings(5))
        store.upsert(make_documents(5), make_embeddings(5))
        assert uploads(rest, both) == (0, 3)


@pytest.mark.parametrize(
    ("code", "words", "status"), [("INVALID_ARGUMENT", "Wrong input", 400), ("RESOURCE_EXHAUSTED", "rate", 429)]
)
def test_the_servers_own_refusals_are_not_asked_for_twice(rest, both, code, words, status):
    with opened(rest, both.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        both.refuse = [(getattr(grpc.StatusCode, code), words, {})]
        with pytest.raises(StoreRequestError, match=words) as caught:
            store.upsert(make_documents(5), make_embeddings(5))
        assert caught.value.status == status
        assert uploads(rest, both) == (0, 2)


def test_without_any_server(rest, both):
    with opened(rest, both.port) as store:
        store.upsert(make_documents(5), make_embeddings(5))
        rest.server.shutdown()
        rest.server.server_close()
        both.server.stop(None).wait()
        with pytest.raises(StoreConnectionError, match="is the server running there"):
            store.upsert(make_documents(5), make_embeddings(5))


def told_over_tls(port, capfd):
    """What is said of gRPC at a port beside REST over TLS; gRPC itself would print its errors."""
    client = QdrantClient("https://localhost:1", grpc_port=port, check_compatibility=False)
    capfd.readouterr()
    told = Wire(client, "").told("notes")
    client.close()
    assert capfd.readouterr().err == ""
    assert told.startswith(f"REST (no gRPC at port {port}: ")
    return told


def test_grpc_without_tls_beside_rest_with_it(both, capfd):
    assert re.search("wrong version|wrong_version", told_over_tls(both.port, capfd), re.IGNORECASE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_rest_may_know_an_authority_that_grpc_does_not(tmp_path, capfd):
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def accept():
        with suppress(OSError), server.accept()[0] as plain:
            context.wrap_socket(plain, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        told = told_over_tls(server.getsockname()[1], capfd)
        thread.join()
    assert "self" in told
    assert "name the file of the authority that signed it in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_stays_with_rest(rest, both):
    """gRPC does not survive a fork: a child would wait for ever."""
    script = """
        import os, signal, sys
        from m3_vdb.stores import open_store
        from tests.stores._corpus import IDENTITY, make_documents, make_embeddings
        url, port = sys.argv[1], int(sys.argv[2])
        def upload():
            with open_store(url, identity=IDENTITY, grpc_port=port) as store:
                store.upsert(make_documents(5), make_embeddings(5))
                return store.facts().engine["wire"]
        print(upload(), flush=True)
        if not os.fork():
            signal.alarm(20)  # ends it if it hangs
            print(upload(), flush=True)
            os._exit(0)
        os.wait()
    """
    command = [sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines())]
    ran = subprocess.run(
        [*command, f"qdrant://{rest.address}/notes", str(both.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = ran.stdout.splitlines()
    assert first.startswith("gRPC for vectors")
    assert second.startswith("REST (this process was forked from one that spoke gRPC")
    assert uploads(rest, both) == (1, 1)


def test_info_says_which_is_used(rest, tiny_bundle):
    url = f"qdrant://{rest.address}/notes"
    opened(rest, None).close()

    def info(*options):
        command = ["info", "--store", url, "--model", str(tiny_bundle), *options]
        return CliRunner().invoke(app, command, env={"COLUMNS": "200"}).stdout

    assert "wire REST (the port of gRPC is not known" in info()
    found = json.loads(info("--no-grpc", "--json"))
    assert found["collection"]["engine"]["wire"] == "REST (as asked for)"
