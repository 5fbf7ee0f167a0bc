from __future__ import annotations

import dataclasses

import pytest

from m3_vdb import AddReport, CollectionOptions
from m3_vdb.errors import CollectionMismatchError, ConfigError, DocumentError, StoreError, TextError
from m3_vdb.index import HybridIndex
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Document
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


class FakeEmbedder:
    """The same text gives the same vectors; remembers what it was asked to encode."""

    identity = IDENTITY

    def __init__(self):
        self.calls = []

    def encode_documents(self, texts):
        self.calls.append(list(texts))
        return make_embeddings(len(texts), seed=sum(map(ord, "".join(texts[:1]))))

    def encode_queries(self, texts):
        return self.encode_documents(texts)


@pytest.fixture
def index():
    with HybridIndex(FakeEmbedder(), MemoryStore(IDENTITY)) as opened:
        yield opened


def test_add_reads_a_generator_in_batches_and_encodes_title_and_text(index):
    assert index.add((d for d in make_documents(10)), batch_size=4).documents == 10
    calls = index._embed.calls
    assert [len(call) for call in calls] == [4, 4, 2]
    assert calls[0][:2] == ["text 0", "title 1\ntext 1"]
    assert index.count() == 10


def test_an_id_occurs_once_in_a_call_and_a_later_call_replaces(index):
    twice = [*make_documents(5), {"id": "d1", "text": "again"}]
    for size in (2, 64):
        with pytest.raises(DocumentError, match="document 5: its id 'd1' is that of document 1:") as caught:
            index.add(twice, batch_size=size)
        assert caught.value.index == 5
    assert index.add(twice[5:]).documents == 1
    assert [document.text for document in index.get(["d1"])] == ["again"]


def test_a_text_finds_its_own_document(index):
    index.add([Document(id="a", text="apples")])
    index.add([Document(id="b", text="bears", payload={"kind": "animal"})])
    best = index.query("bears", limit=1, explain=True)[0]
    assert best.document == Document(id="b", text="bears", payload={"kind": "animal"})
    assert best.parts.dense == pytest.approx(1.0)
    assert best.parts.multi_vector == pytest.approx(1.0)
    assert best.score == pytest.approx(2 + 0.3 * best.parts.sparse)
    assert [h.document.id for h in index.query("apples", filter={"kind": "animal"})] == ["b"]
    assert index.query("bears", weights=Weights(1, 0, 0), limit=1)[0].score == pytest.approx(1.0)


def test_get_delete_and_close(index):
    index.add(make_documents(3))
    assert [d.id for d in index.get(["d2", "x", "d0"])] == ["d2", "d0"]
    index.delete(["d0"])
    assert index.count() == 2
    index.close()
    index.close()
    with pytest.raises(StoreError, match="closed"):
        index.count()


def test_nothing_to_add(index):
    assert index.add([]) == AddReport()
    assert index._embed.calls == []


def test_a_store_of_another_model_is_refused():
    store = MemoryStore(dataclasses.replace(IDENTITY, fingerprint="other"))
    with pytest.raises(CollectionMismatchError):
        HybridIndex(FakeEmbedder(), store)


def test_many_queries_are_encoded_together_and_answered_like_each_alone(index):
    index.add(make_documents(12))
    texts = ["text 3", "title 1\ntext 1"]
    before = len(index.embed.calls)
    found = index.query_many(iter(texts), limit=4, offset=1, explain=True)
    assert index.embed.calls[before:] == [texts]
    embeddings = index.embed.encode_queries(texts)
    assert found == [index.store.query(one, limit=4, offset=1, explain=True) for one in embeddings]
    assert index.query_many([]) == []
    with pytest.raises(TextError, match="texts"):
        index.query_many("one text")


def test_a_payload_is_replaced_without_encoding(index):
    index.add([{"id": "1", "text": "a", "kind": "old", "year": 1}, {"id": "2", "text": "b", "kind": "old"}])
    calls = list(index.embed.calls)
    index.update(["1", "unknown"], {"kind": "new"})
    assert index.embed.calls == calls
    assert [dict(one.payload) for one in index.get(["1", "2"])] == [{"kind": "new"}, {"kind": "old"}]
    assert {hit.document.id: hit.document.payload["kind"] for hit in index.query("a")} == {"1": "new", "2": "old"}
    with pytest.raises(DocumentError):
        index.update(["1"], {"kind": object()})


def test_documents_are_counted_and_deleted_by_filter(index):
    index.add([{"id": str(i), "text": "a", "even": i % 2 == 0} for i in range(5)])
    assert (index.count(), index.count(filter={"even": True})) == (5, 3)
    index.delete(filter={"even": True})
    assert (index.count(), [one.id for one in index.get(map(str, range(5)))]) == (2, ["1", "3"])
    for wrong in ({}, {"ids": ["1"], "filter": {"even": False}}, {"filter": {}}):
        with pytest.raises(ConfigError):
            index.delete(**wrong)
    assert index.count() == 2


def test_exact_words_of_the_question_are_searched_and_explained():
    with HybridIndex.open("memory://", model=FakeEmbedder(), options=CollectionOptions(bm25=True)) as index:
        index.add([Document(f"d{i}", f"Error E10{i:02}: see m3_vdb.part{i}") for i in range(40)])
        (hit,) = index.query("what is e1017", weights=(0, 0, 0, 1), limit=1, explain=True)
        assert hit.document.id == "d17"
        assert hit.score == pytest.approx(hit.parts.bm25)
        (many,) = index.query_many(["what is e1017"], weights=(0, 0, 0, 1), limit=1)
        assert many[0].document.id == "d17"
        assert index.query("what is e1017", limit=1, explain=True)[0].parts.bm25 is not None
