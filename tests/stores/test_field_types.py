"""Declared types of payload fields: what a document may hold there, and what a filter may ask for."""

from __future__ import annotations

import uuid

import pytest

from m3_vdb.errors import DocumentError
from m3_vdb.stores import CollectionOptions, open_store
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings
from tests.stores._rest_stub import RestStub

TYPES = {"year": "integer", "price": "float", "ok": "bool", "lang": "keyword"}


@pytest.fixture(params=["edge", "rest", "milvus-lite", "milvus-stub"])
def reopen(request, tmp_path):
    """Opens one collection, of every store that has indexes, again and again."""
    stub = RestStub() if request.param == "rest" else None
    if stub is not None:
        url = f"qdrant://{stub.address}/typed"
    elif request.param == "milvus-stub":
        url = f"{request.getfixturevalue('milvus_stub')}/typed_{uuid.uuid4().hex}"
    else:
        url = str(tmp_path / ("c.qdrant" if request.param == "edge" else "c.milvus.db"))
    yield lambda **indexes: open_store(url, identity=IDENTITY, options=CollectionOptions(indexes=indexes))
    if stub is not None:
        stub.close()


def put(store, *payloads):
    documents = [Document(f"d{i}", "t", payload=payload) for i, payload in enumerate(payloads)]
    store.upsert(documents, make_embeddings(len(documents)))


def test_declared_types_are_known_whenever_the_collection_is_open(reopen):
    with reopen(year="integer") as store:
        assert store.field_types == {"year": "integer"}
    with reopen(**TYPES) as store:  # an existing collection gets what is missing
        assert store.field_types == TYPES
    with reopen() as store:
        assert store.field_types == TYPES


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"year": "2004"}, r"'year' holds \"2004\", .* indexes it as integer.*: store an integer"),
        ({"year": 2004.0}, r"'year' holds 2004\.0"),
        ({"year": True}, "'year' holds true"),
        ({"year": [2004, "2005"]}, r"'year' holds \"2005\""),
        ({"year": {"from": 2004}}, "'year' holds {\"from\": 2004}"),
        ({"price": "9.5"}, r"'price' holds \"9\.5\".*store a number"),
        ({"price": False}, "'price' holds false"),
        ({"ok": "true"}, r"'ok' holds \"true\".*store true or false"),
        ({"ok": 1}, "'ok' holds 1"),
        ({"lang": 7}, "'lang' holds 7.*store a text"),
    ],
    ids=str,
)
def test_a_document_that_its_index_would_never_find_is_refused(reopen, payload, message):
    with reopen(**TYPES) as store:
        with pytest.raises(DocumentError, match=message) as caught:
            put(store, {"year": 1}, payload)
        assert caught.value.index == 1
        assert store.count() == 0


def test_values_of_the_declared_types_are_kept(reopen):
    fine = [
        {"year": 2004, "price": 9.5, "ok": True, "lang": "de"},
        {"year": [2004, 2005], "price": [1, 2.5], "ok": [True, False], "lang": ["de", "en"]},
        {"year": None, "price": [], "lang": [None]},
        {"else": "2004"},
    ]
    with reopen(**TYPES) as store:
        put(store, *fine)
        assert [document.payload for document in store.get(["d0", "d1", "d2", "d3"])] == fine
