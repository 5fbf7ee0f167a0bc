from __future__ import annotations

import dataclasses

import pytest

from m3_vdb import AddReport
from m3_vdb.errors import CollectionMismatchError, ConfigError, StoreError
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
        return make_embeddings(len(texts), seed=sum(map(ord, texts[0])))

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


def test_batch_size_below_one(index):
    with pytest.raises(ConfigError, match="batch_size"):
        index.add(make_documents(1), batch_size=0)


def test_a_store_of_another_model_is_refused():
    store = MemoryStore(dataclasses.replace(IDENTITY, fingerprint="other"))
    with pytest.raises(CollectionMismatchError):
        HybridIndex(FakeEmbedder(), store)
