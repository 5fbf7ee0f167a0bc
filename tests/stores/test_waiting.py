"""Waiting until a server has indexed: it begins, says what it waits for, and ends. The stubs answer as servers do."""

from __future__ import annotations

import pytest

from benchmarks.stubs.milvus_stub import MilvusStub
from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError, StoreError, StoreRequestError
from m3_vdb.stores import open_store
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


@pytest.fixture(params=["rest", "grpc"])
def opened(request):
    """A store and the stub's collection behind it."""
    if request.param == "rest":
        stub = RestStub()
        url, options = f"qdrant://{stub.address}/notes", {}
    else:
        stub = GrpcStub()
        url, options = "qdrant://127.0.0.1:1/notes", {"prefer_grpc": True, "grpc_port": stub.port}
    with open_store(url, identity=IDENTITY, **options) as store:
        store.upsert(make_documents(3), make_embeddings(3))
        yield store, stub.engine.collections["notes"]
    stub.close()


def test_work_left_from_before_a_restart_is_begun(opened):
    store, collection = opened
    collection.status, told = "grey", []
    store.optimize(waiting=lambda what, seconds: told.append((what, seconds < 5)))
    assert told == [("still indexing (grey)", True), ("still indexing (yellow)", True)]
    assert collection.status == "green"


def test_a_long_wait_is_logged_once_unless_it_is_shown(opened, caplog, monkeypatch):
    store, collection = opened
    monkeypatch.setattr("m3_vdb.stores.waiting._TOLD_FROM", 0)
    collection.status = "grey"
    store.optimize(timeout=30)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(": still indexing (grey); waiting for up to 30 s")
    collection.status = "grey"
    store.optimize(waiting=lambda *_: None)
    assert len(caplog.messages) == 1


def test_an_optimizer_that_failed_says_why(opened):
    store, collection = opened
    collection.status, collection.optimizer_error = "red", "Service internal error: No space left on device"
    with pytest.raises(StoreRequestError, match=r"has failed to index it \(Service internal error: No space left"):
        store.optimize(timeout=30)


def test_a_wait_has_a_limit(opened, monkeypatch):
    store, collection = opened
    collection.status = "grey"
    monkeypatch.setattr(collection, "optimize", lambda: None)  # nothing ever begins
    with pytest.raises(StoreError, match=r"still indexing \(grey\) after 0\.01 s\..*optimize\(timeout=…\)"):
        store.optimize(timeout=0.01)
    with pytest.raises(ConfigError, match="timeout=0: expected seconds above 0"):
        store.optimize(timeout=0)


def test_milvus_is_waited_for_alike():
    stub, told = MilvusStub(), []
    with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
        store.upsert(make_documents(3), make_embeddings(3))
        stub.pending_rows = [3] * 12
        store.optimize(waiting=lambda what, _: told.append(what))
        assert told[0] == "writing segments"
        assert told[1].startswith("still indexing (3 rows of ")
        stub.pending_rows = [3] * 99
        with pytest.raises(StoreError, match=r"still indexing \(3 rows of \w+\) after 0\.5 s"):
            store.optimize(timeout=0.5)
        stub.flushes = False
        with pytest.raises(StoreError, match=r"still writing segments after 0\.01 s"):
            store.optimize(timeout=0.01)
    stub.close()
