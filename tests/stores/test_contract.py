"""One behaviour, every store. The memory store is the oracle; test_memory.py checks the oracle itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from m3_vdb.errors import CollectionMismatchError, CollectionNotFoundError, ConfigError, DocumentError, StoreError
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Document, Passage, SparseVector
from m3_vdb.weights import PRESETS, Weights
from tests.stores._corpus import IDENTITY, SHARED, assert_same_hits, make_documents, make_embeddings, make_queries

FILTERS = (None, {"lang": "de"}, {"year": [2001, 2004], "lang": ["de", "en"]})


def fill(store):
    store.upsert(make_documents(SHARED), make_embeddings(SHARED))
    return store


@pytest.fixture(scope="module")
def filled(shared):
    """The store under test and the oracle, both with the same 150 documents: do not change them."""
    return shared, fill(MemoryStore(IDENTITY))


@pytest.fixture
def changing(store):
    return fill(store), fill(MemoryStore(IDENTITY))


def test_hits_equal_the_oracle(filled):
    store, oracle = filled
    presets = ("default", "dense_sparse", "long_document")
    for query, preset, condition in itertools.product(make_queries(4), presets, FILTERS):
        args = {"weights": PRESETS[preset], "candidates": 60, "filter": condition}
        hits = store.query(query, limit=10, **args)
        assert_same_hits(hits, oracle.query(query, limit=15, **args), limit=10)
        assert all(hit.parts is None for hit in hits)


def test_a_weight_of_zero_leaves_the_part_out_and_no_candidate(filled):
    store, oracle = filled
    query = make_queries(1)[0]
    for weights in (Weights(1, 0, 0), Weights(0, 1, 0), Weights(0, 0, 1), Weights(0, 0.5, 2)):
        hits = store.query(query, weights=weights, limit=150, candidates=150)
        assert len(hits) == 150  # also those without a common token
        truth = {hit.document.id: hit.score for hit in oracle.query(query, weights=weights, limit=150, candidates=150)}
        assert all(math.isclose(hit.score, truth[hit.document.id], rel_tol=1e-4, abs_tol=1e-6) for hit in hits), weights
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_query_without_lexical_tokens(filled):
    store, oracle = filled
    empty = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))
    query = dataclasses.replace(make_queries(1)[0], sparse=empty)
    assert_same_hits(store.query(query), oracle.query(query, limit=15), limit=10)


def test_document_without_lexical_tokens(store):
    embeddings = make_embeddings(3)
    bare = dataclasses.replace(
        embeddings,
        sparse_ids=np.empty(0, np.int32),
        sparse_weights=np.empty(0, np.float32),
        sparse_offsets=np.zeros(4, np.int64),
    )
    store.upsert(make_documents(3), bare)
    hits = store.query(make_queries(1)[0], explain=True)
    assert [hit.parts.sparse for hit in hits] == [0.0, 0.0, 0.0]


def test_explain_gives_the_parts_that_add_up(filled):
    store, oracle = filled
    query = make_queries(1)[0]
    hits, truth = store.query(query, explain=True), oracle.query(query, limit=150, explain=True)
    assert len(hits) == 10
    parts = {hit.document.id: hit.parts for hit in truth}
    assert any(hit.parts.sparse > 0 for hit in hits)
    for hit in hits:
        w = Weights()
        total = w.dense * hit.parts.dense + w.sparse * hit.parts.sparse + w.multi_vector * hit.parts.multi_vector
        assert hit.score == pytest.approx(total, rel=1e-5)
        assert hit.parts.as_dict() == pytest.approx(parts[hit.document.id].as_dict(), rel=1e-5)


def test_limit_beyond_count_and_candidates_below_limit(filled):
    store, _ = filled
    query = make_queries(1)[0]
    assert len(store.query(query, limit=500)) == 150
    with pytest.raises(ConfigError, match=r"limit=20 hits of candidates=3, .* pass candidates=20"):
        store.query(query, limit=20, candidates=3)


def test_empty_store(store):
    assert store.count() == 0
    assert store.query(make_queries(1)[0]) == []
    assert store.get(["d1"]) == []
    store.upsert([], make_embeddings(0))
    store.delete([])
    store.delete(["never seen"])
    assert store.count() == 0


def test_upsert_replaces_the_document_with_all_its_vectors(store):
    first, second = make_embeddings(2, seed=1), make_embeddings(1, seed=2)
    store.upsert(make_documents(2), first)
    store.upsert([Document(id="d0", text="new", payload={"only": 1})], second)
    assert store.count() == 2
    assert store.get(["d0"]) == [Document(id="d0", text="new", payload={"only": 1})]
    hits = {hit.document.id: hit.parts for hit in store.query(second[0], explain=True)}
    assert hits["d0"].dense == pytest.approx(1.0, rel=1e-5)
    assert hits["d0"].multi_vector == pytest.approx(1.0, rel=1e-5)


def test_of_an_id_that_occurs_twice_in_a_batch_the_last_wins(store):
    documents = [Document(id="same", text="first"), Document(id="other", text="x"), Document(id="same", text="last")]
    embeddings = make_embeddings(3)
    store.upsert(documents, embeddings)
    assert store.count() == 2
    assert store.get(["same"])[0].text == "last"
    best = store.query(embeddings[2], limit=1)[0]
    assert (best.document.id, best.document.text) == ("same", "last")


def test_get_and_delete(changing):
    store, _ = changing
    assert [d.id for d in store.get(["d7", "nope", "d3", "d7"])] == ["d7", "d3", "d7"]
    assert store.get(["d7"]) == [make_documents(8)[7]]
    store.delete(["d7", "nope"])
    assert store.count() == 149
    assert store.get(["d7"]) == []
    assert "d7" not in {hit.document.id for hit in store.query(make_queries(1)[0], limit=150)}


def test_delete_and_count_by_filter(changing):
    store, oracle = changing
    condition = {"$or": [{"lang": "de", "year": {"$gte": 2002, "$lt": 2005}}, {"tags": "t3"}]}
    matching = oracle.count(condition)
    assert 20 < matching < 130
    assert store.count(condition) == matching
    for s in (store, oracle):
        s.delete(filter=condition)
        assert (s.count(), s.count(filter=condition), s.count({"lang": "none"})) == (150 - matching, 0, 0)
    query = make_queries(1)[0]
    assert [hit.document.id for hit in store.query(query)] == [hit.document.id for hit in oracle.query(query)]
    for arguments in ({}, {"ids": ["d1"], "filter": {"lang": "de"}}, {"filter": {}}):
        with pytest.raises(ConfigError, match=r"ids: expected a list of ids|filter: it has no condition"):
            store.delete(**arguments)
    assert store.count() == 150 - matching


def test_update_replaces_the_payload_and_leaves_the_vectors(changing):
    store, oracle = changing
    query, payload = make_queries(1)[0], {"lang": "it", "new": [1, {"deep": True}], "year": 1999}
    ids = [hit.document.id for hit in store.query(query, limit=5)]
    before = {hit.document.id: hit.parts for hit in store.query(query, limit=150, explain=True)}
    for s in (store, oracle):
        s.update([*ids, ids[0], "never seen"], payload)
    assert store.count() == 150
    assert store.get(ids) == [dataclasses.replace(one, payload=payload) for one in oracle.get(ids)]
    assert store.count({"lang": "it", "new": 1}) == store.count({"year": {"$lt": 2000}}) == 5
    after = {hit.document.id: hit.parts for hit in store.query(query, limit=150, explain=True)}
    assert after.keys() == before.keys()
    for name in ids:
        assert after[name].as_dict() == pytest.approx(before[name].as_dict(), rel=1e-6)
    for bad in ({"x": object()}, {"x": math.nan}, [1]):
        with pytest.raises(DocumentError, match="payload"):
            store.update(ids, bad)
    store.update([], payload)


def test_update_keeps_what_is_noted_about_a_document(store):
    parts = [
        Document("a", "ab", passage=Passage("a", 1, 2, 0, 2)),
        Document("a¶2", "cd", passage=Passage("a", 2, 2, 2, 4)),
        Document("b", "text", encoding="max_length=128"),
    ]
    store.upsert(parts, make_embeddings(3))
    store.update(["a", "a¶2", "b"], {"n": 1})
    found = store.get(["a", "a¶2", "b"])
    assert found == [dataclasses.replace(one, payload={"n": 1}) for one in parts]
    assert [(one.passage, one.encoding) for one in found] == [(one.passage, one.encoding) for one in parts]


def test_each_document_gets_its_own_payload_and_keeps_text_and_vectors(changing):
    store, oracle = changing
    query = make_queries(1)[0]
    before = {hit.document.id: hit.parts for hit in store.query(query, limit=150, explain=True)}
    new = [Document(f"d{i}", "another text", payload={"n": i}, source=f"s{i % 2}") for i in range(4)]
    store.update_payloads([*new, Document("never seen", "")])
    found = store.get([one.id for one in new])
    kept = oracle.get([one.id for one in new])
    assert found == [dataclasses.replace(old, payload=one.payload) for old, one in zip(kept, new, strict=True)]
    assert [one.source for one in found] == ["s0", "s1", "s0", "s1"]
    after = {hit.document.id: hit.parts for hit in store.query(query, limit=150, explain=True)}
    assert after.keys() == before.keys()
    for one in new:
        assert after[one.id].as_dict() == pytest.approx(before[one.id].as_dict(), rel=1e-6)
    with pytest.raises(DocumentError, match="payload"):
        store.update_payloads([Document("d0", "", payload={"x": object()})])


def test_many_queries_are_answered_like_one_by_one(filled):
    store, _ = filled
    queries = make_queries(5)
    empty = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))
    queries[2] = dataclasses.replace(queries[2], sparse=empty)
    for args in ({}, {"explain": True, "offset": 3}, {"fusion": "rrf"}, {"source": "union"}):
        arguments = {"limit": 4, "candidates": 40, "filter": {"lang": ["de", "en"]}, **args}
        found = store.query_many(queries, **arguments)
        assert found == [store.query(query, **arguments) for query in queries]
        assert [len(hits) for hits in found] == [4] * 5
    assert store.query_many(make_embeddings(0)) == []


ODD_IDS = [
    "ß/ü",
    "日本語",
    "a b\tc",
    "🦆",
    "id\x00nul",
    " ",
    "'; --",
    "00000000-0000-0000-0000-000000000000",
    "7",
    "x" * 5000,
]


def test_odd_ids_come_back_as_they_were(store):
    documents = [Document(id=i, text=f"text of {i}") for i in ODD_IDS]
    store.upsert(documents, make_embeddings(len(ODD_IDS)))
    assert store.count() == len(ODD_IDS)
    assert store.get(ODD_IDS) == documents
    assert {hit.document.id for hit in store.query(make_queries(1)[0], limit=50)} == set(ODD_IDS)


def test_payload_comes_back_as_it_was_and_cannot_touch_our_fields(store):
    payload = {
        "id": "mine", "text": 1, "title": None, "payload": {"a": [1, 2.5, {"b": False}]}, "_id": 3, "a.b": "dot",
        "ünï": "côdé", "empty": {}, "list": [], "big": 2**63 - 1, "small": -(2**63), "tiny": 1e-300, "": "no name",
    }  # fmt: skip
    document = Document(id="d", text="t", title="T", payload=payload)
    store.upsert([document], make_embeddings(1))
    assert store.get(["d"]) == [document]
    assert store.query(make_queries(1)[0])[0].document == document


MATCHING = (
    ({"lang": "de"}, lambda d: d["lang"] == "de"),
    ({"lang": ["de", "fr"]}, lambda d: d["lang"] != "en"),
    ({"year": 2003}, lambda d: d["year"] == 2003),
    ({"year": [2003, 2005], "draft": False}, lambda d: d["year"] in (2003, 2005) and not d["draft"]),
    ({"draft": True}, lambda d: d["draft"]),
    ({"draft": [True, False]}, lambda _: True),
    ({"price": 1.5}, lambda d: d["price"] == 1.5),
    ({"year": 2003.0}, lambda d: d["year"] == 2003),
    ({"price": [0.5, 2.5], "lang": ["de", 7]}, lambda d: d["price"] in (0.5, 2.5) and d["lang"] == "de"),
    ({"tags": "t3"}, lambda d: "t3" in d["tags"]),
    ({"tags": ["t3", "t4"]}, lambda d: {"t3", "t4"} & set(d["tags"])),
)
NOTHING = ({"lang": []}, {"nosuch": "x"}, {"lang": "DE"}, {"year": "2003"})


def test_filters_keep_exactly_what_matches(filled):
    store, _ = filled
    query = make_queries(1)[0]
    for condition, expected in MATCHING:
        wanted = {d.id for d in make_documents(150) if expected(d.payload)}
        assert wanted
        assert {hit.document.id for hit in store.query(query, limit=150, filter=condition)} == wanted, condition
    for condition in NOTHING:
        assert store.query(query, filter=condition) == [], condition


def test_filter_on_odd_field_names(store):
    names = ["a.b", "a b", "ü", "a[0]", "payload", "id", "text", "-"]
    store.upsert([Document(id=n, text="t", payload={n: "yes"}) for n in names], make_embeddings(len(names)))
    for name in names:
        assert [hit.document.id for hit in store.query(make_queries(1)[0], filter={name: "yes"})] == [name]


def test_filter_tells_true_from_one(backend, store):
    if not backend.strict_types:
        pytest.skip("qdrant-client's local mode compares payload values with ==, so True equals 1; servers do not")
    documents = [Document(id=str(i), text="t", payload={"x": x}) for i, x in enumerate([True, 1, 1.0, "1"])]
    store.upsert(documents, make_embeddings(4))
    query = make_queries(1)[0]
    found = {repr(x): {hit.document.id for hit in store.query(query, filter={"x": x})} for x in (True, 1, 1.0, "1")}
    assert found == {"True": {"0"}, "1": {"1"}, "1.0": {"1", "2"}, "'1'": {"3"}}


def test_nothing_is_made_when_nothing_may_be(backend, tmp_path):
    if not backend.keeps:
        pytest.skip("MemoryStore is always a new one")
    for _ in range(2):
        with pytest.raises(CollectionNotFoundError, match="check the name, or ingest into it first"):
            backend.open(None)
    with pytest.raises(CollectionNotFoundError):
        backend.open(IDENTITY, create=False)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(backend):
    if not backend.keeps:
        pytest.skip("a memory store is gone when closed, so it is never opened with another model")
    with backend.open(IDENTITY) as store:
        store.upsert(make_documents(3), make_embeddings(3))
    for change in ({"fingerprint": "beef"}, {"dense_dim": 32}, {"multi_vector_dim": 8}):
        with pytest.raises(CollectionMismatchError, match="toy"):
            backend.open(dataclasses.replace(IDENTITY, **change))
    with backend.open(dataclasses.replace(IDENTITY, name="renamed")) as store:  # a name is for people
        assert store.count() == 3
        assert store.identity == IDENTITY


def test_everything_is_there_after_reopening(backend):
    if not backend.keeps:
        pytest.skip("a memory store is gone when closed")
    documents, embeddings = make_documents(30), make_embeddings(30)
    query = make_queries(1)[0]
    with backend.open(IDENTITY) as store:
        store.upsert(documents, embeddings)
        store.delete(["d3"])
        before = store.query(query, explain=True)
    with backend.open(None) as store:
        assert store.identity == IDENTITY
        assert store.count() == 29
        assert store.get(["d4"]) == [documents[4]]
        after = store.query(query, explain=True)
    assert len(before) == 10
    assert [hit.document for hit in after] == [hit.document for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], rel=1e-6)


def test_a_closed_store_says_so_and_may_be_closed_again(backend):
    store = backend.open(IDENTITY)
    store.close()
    store.close()
    if backend.name != "local":  # this client is kept open, because closing it forgets the collection
        with pytest.raises(StoreError, match="closed"):
            store.count()


def test_queries_from_eight_threads(filled):
    store, oracle = filled
    queries = make_queries(24)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(store.query, queries))
    for query, hits in zip(queries, answers, strict=True):
        assert_same_hits(hits, oracle.query(query, limit=15), limit=10)
