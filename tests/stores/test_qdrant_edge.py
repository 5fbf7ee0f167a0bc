"""What only the embedded store has: a folder, a lock, a log that survives a kill."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3_vdb.errors import (
    CollectionMismatchError,
    ConfigError,
    DocumentError,
    StoreRequestError,
)
from m3_vdb.stores import CollectionOptions
from m3_vdb.stores.qdrant import embedded as module
from m3_vdb.stores.qdrant.edge_values import to_config
from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries

ROOT = Path(__file__).parents[2]


def test_a_layout_of_the_future(tmp_path):
    QdrantEdgeStore(tmp_path / "c", identity=IDENTITY).close()
    path = tmp_path / "c" / "m3.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 2}))
    with pytest.raises(CollectionMismatchError, match="upgrade m3-vdb"):
        QdrantEdgeStore(tmp_path / "c", identity=IDENTITY)


def test_a_creation_that_was_cut_off_is_finished(tmp_path):
    folder = tmp_path / "c"
    QdrantEdgeStore(folder, identity=IDENTITY).close()
    (folder / "shard").rename(folder / "shard.new")  # as if killed before the rename
    with QdrantEdgeStore(folder, identity=IDENTITY) as store:
        store.upsert(make_documents(2), make_embeddings(2))
        assert store.count() == 2


def test_a_moved_folder_opens(tmp_path):
    with QdrantEdgeStore(tmp_path / "a", identity=IDENTITY) as store:
        store.upsert(make_documents(5), make_embeddings(5))
    (tmp_path / "a").rename(tmp_path / "b")
    with QdrantEdgeStore(tmp_path / "b", identity=None) as store:
        assert store.count() == 5


def test_each_list_of_candidates_is_searched_once(tmp_path, monkeypatch):
    """In every rescore, a filter without an index took three times as long."""
    asked = []
    answers, answer = QdrantEdgeStore._answers, QdrantEdgeStore._answer
    monkeypatch.setattr(QdrantEdgeStore, "_answers", lambda self, given: asked.extend(given) or answers(self, given))
    monkeypatch.setattr(QdrantEdgeStore, "_answer", lambda self, given: asked.append(given) or answer(self, given))
    with QdrantEdgeStore(tmp_path / "c", identity=IDENTITY) as store:
        store.upsert(make_documents(30), make_embeddings(30))
        (query,) = make_queries(1)
        assert len(store.query(query, limit=5, candidates=5, filter={"lang": "de"})) == 5
    *lists, fused = asked
    assert [one["using"] for one in lists] == ["dense", "sparse"]
    assert [one["using"] for one in fused["prefetch"]] == ["dense", "sparse", "multi_vector"]
    assert not any(one["prefetch"] for one in fused["prefetch"])


def test_a_document_larger_than_a_server_takes(tmp_path):
    identity = dataclasses.replace(IDENTITY, dense_dim=8, multi_vector_dim=1024)
    embeddings = make_embeddings(1, identity=identity)
    rows = np.zeros((1100, 1024), np.float32)
    rows[:, 0] = 1
    long = dataclasses.replace(embeddings, multi_vector=rows, multi_vector_offsets=np.array([0, 1100]))
    with QdrantEdgeStore(tmp_path / "c", identity=identity) as store:
        store.upsert([Document(id="long", text="t")], long)
    with QdrantEdgeStore(tmp_path / "c", identity=identity) as store:
        query = dataclasses.replace(embeddings[0], multi_vector=rows[:3])
        assert store.query(query, explain=True)[0].parts.multi_vector == pytest.approx(1.0)


@pytest.mark.parametrize(("storage", "largest"), [("half", 2e-5), ("quarter", 2e-3)])
def test_storage_keeps_scores_and_takes_less(tmp_path, storage, largest):
    documents, embeddings, queries = make_documents(100), make_embeddings(100), make_queries(5)
    answers = {}
    for kind in ("float32", storage):
        options = CollectionOptions(storage=kind)
        with QdrantEdgeStore(tmp_path / kind, identity=IDENTITY, options=options) as store:
            store.upsert(documents, embeddings)
            answers[kind] = [{h.document.id: h.score for h in store.query(q, limit=100)} for q in queries]
    errors = [abs(f[i] - h[i]) for f, h in zip(answers["float32"], answers[storage], strict=True) for i in f]
    assert len(errors) == 500
    assert 0 < max(errors) < largest


@pytest.mark.parametrize("given", [{"shard_number": 2}, {"replication_factor": 2}], ids=str)
def test_options_of_a_server_are_refused(tmp_path, given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        QdrantEdgeStore(tmp_path / "c", identity=IDENTITY, options=CollectionOptions(**given))
    assert list(tmp_path.iterdir()) == []


def test_indexes_are_made_once_and_known_again(tmp_path):
    options = CollectionOptions(indexes={"year": "integer", "a.b": "keyword"}, tenant="lang", on_disk=True)
    for asked in (options, CollectionOptions()):
        with QdrantEdgeStore(tmp_path / "c", identity=IDENTITY, options=asked) as store:
            # "a.b" is a key with a dot, or the field b of an object a
            names = {"payload.year", "payload.lang", 'payload."a.b"', "payload.a.b"}
            assert set(store._shard.info().payload_schema) == names
            store.upsert([Document(id="a", text="t", payload={"year": 2001, "a.b": "x"})], make_embeddings(1))
            with pytest.raises(DocumentError, match=r"'year' holds 2001\.0"):
                store.upsert([Document(id="b", text="t", payload={"year": 2001.0})], make_embeddings(1))
            found = store.query(make_queries(1)[0], filter={"year": {"$gt": 2000.5}, "a.b": "x"})
            assert [hit.document.id for hit in found] == ["a"]


def test_a_bulk_load_keeps_the_log_small_and_the_disk_is_what_is_said(tmp_path, monkeypatch):
    """The engine cuts its log in segments of 32 MiB; unflushed, it would keep all that is written here."""
    monkeypatch.setattr(module, "FLUSH_BYTES", 16 * 1024 * 1024)
    identity = dataclasses.replace(IDENTITY, multi_vector_dim=256)
    largest = written = 0

    def size(folder):
        return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())

    with QdrantEdgeStore(tmp_path / "c", identity=identity) as store:
        for start in range(0, 1600, 160):
            embeddings = make_embeddings(160, seed=start, identity=identity, max_rows=160)
            store.upsert(make_documents(160, start=start), embeddings)
            written += embeddings.multi_vector.nbytes
            largest = max(largest, size(tmp_path / "c" / "shard" / "wal"))
        assert written > 120 * 1024 * 1024
        assert largest < 96 * 1024 * 1024
        assert written < store.disk_bytes() == size(tmp_path / "c")


def test_errors_of_the_engine_are_ours(tmp_path):
    with QdrantEdgeStore(tmp_path / "c", identity=IDENTITY) as store:
        narrow = qdrant_edge.QueryRequest(query=qdrant_edge.Query.Nearest([1.0], using="dense"), limit=1)
        with pytest.raises(StoreRequestError, match="refused"), store._engine() as shard:
            shard.query(narrow)
        panic = type("PanicException", (BaseException,), {})
        with pytest.raises(StoreRequestError, match="panic"), store._engine():
            raise panic("the engine fell over")
        with pytest.raises(KeyboardInterrupt), store._engine():
            raise KeyboardInterrupt


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**9), 10**9).map(lambda i: i / 1000)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with QdrantEdgeStore(tmp_path_factory.mktemp("json") / "c", identity=IDENTITY) as store:
        yield store


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=5), text=st.text())
def test_any_json_payload_comes_back(shared, payload, text):
    document = Document(id="d", text=text.encode("utf-8", "replace").decode(), payload=payload)
    shared.upsert([document], make_embeddings(1))
    assert shared.get(["d"]) == [document]


INT8 = qdrant_edge.ScalarQuantizationConfig(qdrant_edge.ScalarType.Int8)
UINT8 = qdrant_edge.VectorStorageDatatype.Uint8


@pytest.mark.parametrize(
    ("everywhere", "dense", "sparse", "message"),
    [
        ({"quantization_config": INT8}, {}, {}, "dense is quantised"),
        ({}, {"quantization_config": INT8}, {}, "dense is quantised"),
        ({}, {"datatype": UINT8}, {}, "dense is stored as uint8"),
        ({}, {}, {"datatype": UINT8}, "sparse is stored as uint8"),
        ({}, {}, {"modifier": qdrant_edge.Modifier.Idf}, "sparse is re-weighted by IDF"),
        ({}, {}, {}, None),
    ],
    ids=str,
)
def test_files_that_would_give_other_scores(tmp_path, everywhere, dense, sparse, message):
    """A folder whose engine files others made, from a server's snapshot for example."""
    folder = tmp_path / "c.qdrant"
    QdrantEdgeStore(folder, identity=IDENTITY).close()
    made = to_config(IDENTITY, CollectionOptions())
    shutil.rmtree(folder / "shard")
    (folder / "shard").mkdir()
    vectors = {
        "dense": qdrant_edge.EdgeVectorParams(size=64, distance=qdrant_edge.Distance.Dot, **dense),
        "multi_vector": made.vectors["multi_vector"],
    }
    config = qdrant_edge.EdgeConfig(
        vectors=vectors, sparse_vectors={"sparse": qdrant_edge.EdgeSparseVectorParams(**sparse)}, **everywhere
    )
    qdrant_edge.EdgeShard.create(str(folder / "shard"), config).close()
    if message is None:
        QdrantEdgeStore(folder, identity=IDENTITY).close()
        return
    for _ in range(2):  # and the folder is not left locked
        with pytest.raises(CollectionMismatchError, match=message):
            QdrantEdgeStore(folder, identity=IDENTITY)
