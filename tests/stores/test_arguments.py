"""What every store's own methods take: ids, documents, weights and numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.types import Document
from m3_vdb.weights import Weights
from tests.stores._corpus import make_documents, make_embeddings, make_queries

TWELVE = [Document("12", "twelve"), Document("1", "one"), Document("2", "two")]


@pytest.mark.parametrize("method", ["get", "delete"])
def test_one_string_is_not_many_ids(store, method):
    store.upsert(TWELVE, make_embeddings(3))
    call = getattr(store, method)
    with pytest.raises(ConfigError, match=r"ids: .*one string: pass \['12'\]"):
        call("12")
    for nothing in (b"12", None, 12, {"12": 1}):
        with pytest.raises(ConfigError, match="ids: expected a list"):
            call(nothing)
    for bad in (1, None, b"12", ["12"]):
        with pytest.raises(DocumentError, match="item 1: an id must be a str") as caught:
            call(["12", bad])
        assert caught.value.index == 1
    assert [document.id for document in store.get(["12", "1", "2"])] == ["12", "1", "2"]


def test_ids_are_any_iterable(store):
    store.upsert(TWELVE, make_embeddings(3))
    for ids in (("2", "1"), (i for i in ["2", "1"]), np.array(["2", "1"]), {"2": 0, "1": 0}.keys()):
        assert [document.id for document in store.get(ids)] == ["2", "1"]
    assert store.get(iter(())) == []
    store.delete(iter(()))
    store.delete(i for i in ["2", "unknown"])
    assert [document.id for document in store.get({"1", "2"})] == ["1"]


def test_documents_are_any_iterable_and_a_dict_is_one(store):
    documents = make_documents(3)
    as_dicts = [{"id": d.id, "title": d.title, "text": d.text, **d.payload} for d in documents]
    store.upsert(iter(as_dicts), make_embeddings(3))
    assert store.get([d.id for d in documents]) == documents
    with pytest.raises(ConfigError, match=r"documents: .*pass \[document\]"):
        store.upsert(documents[0], make_embeddings(1))
    with pytest.raises(DocumentError, match="document 1: expected a Document") as caught:
        store.upsert([documents[0], "text"], make_embeddings(2))
    assert caught.value.index == 1
    with pytest.raises(ConfigError, match="embeddings: expected M3Embeddings, got list"):
        store.upsert(documents, [[0.0] * 64] * 3)
    assert store.count() == 3


def test_weights_in_any_form_rank_alike(store):
    store.upsert(make_documents(30), make_embeddings(30))
    (query,) = make_queries(1)
    hits = store.query(query, weights=Weights(1, 0.3, 0), limit=5)
    ranked = store.rank(query, weights=Weights(1, 0.3, 0), limit=5)
    for weights in ("dense_sparse", "1,0.3,0", (1, 0.3, 0), [1, 0.3, 0], np.array([1, 0.3, 0])):
        assert store.query(query, weights=weights, limit=5) == hits
        assert store.rank(query, weights=weights, limit=5) == ranked
    for weights in (None, 1.0, "hybrid", (1, 2), {"dense": 1}):
        for method in (store.query, store.rank):
            with pytest.raises(ConfigError, match="expected three numbers"):
                method(query, weights=weights)


def test_arguments_of_another_type_are_named(store):
    store.upsert(make_documents(5), make_embeddings(5))
    (query,) = make_queries(1)
    for name, value in [("limit", 2.0), ("limit", "2"), ("limit", True), ("candidates", "9"), ("candidates", None)]:
        for method in (store.query, store.rank):
            with pytest.raises(ConfigError, match=f"{name}=.*expected a whole number, at least 1"):
                method(query, **{name: value})
    wrong = [("offset", -1), ("offset", 1.0), ("ef", 0), ("ef", "9"), ("score_threshold", "high")]
    for name, value in [*wrong, ("score_threshold", math.nan), ("fusion", "mean"), ("source", "both")]:
        with pytest.raises(ConfigError, match=f"{name}=.*: expected "):
            store.query(query, **{name: value})
    for batch in (0, 2.5, "9", None):
        with pytest.raises(ConfigError, match=r"batch=.*expected a whole number, at least 1"):
            store.scroll(batch=batch)
    for given in ("text", ["text"], None, make_embeddings(1)):
        for method in (store.query, store.rank):
            with pytest.raises(ConfigError, match=r"query: expected the M3Embedding of one text, .*\[0\], got"):
                method(given)
    for filter in ([("lang", "de")], "lang=de", b"lang", 7):
        for method in (store.query, store.rank):
            with pytest.raises(ConfigError, match="filter"):
                method(query, filter=filter)
    assert len(store.query(query, limit=np.int64(2), candidates=np.int32(5))) == 2
