"""Declared types of payload fields: what a document may hold there, and what a filter may ask for."""

from __future__ import annotations

import uuid

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.stores import CollectionOptions, open_store
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings, make_queries

TYPES = {"year": "integer", "price": "float", "ok": "bool", "lang": "keyword", "at": "datetime", "meta.rank": "integer"}


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


REFUSED = [
    ({"year": "2004"}, r"'year' holds \"2004\", .* indexes it as integer.*: store an integer"),
    ({"year": 2004.0}, r"'year' holds 2004\.0"),
    ({"year": True}, "'year' holds true"),
    ({"year": [2004, "2005"]}, r"'year' holds \"2005\""),
    ({"year": {"from": 2004}}, "'year' holds {\"from\": 2004}"),
    ({"price": "9.5"}, r"'price' holds \"9\.5\".*store a number"),
    ({"price": False}, "'price' holds false"),
    ({"ok": "true"}, r"'ok' holds \"true\".*store true or false"),
    ({"ok": 1}, "'ok' holds 1"),
    ({"at": "yesterday"}, r"'at' holds \"yesterday\".*store a date such as"),
    ({"at": 2024}, "'at' holds 2024"),
    ({"lang": 7}, "'lang' holds 7.*store a text"),
    ({"meta": {"rank": "7"}}, r"'meta\.rank' holds \"7\".*store an integer"),
    ({"meta.rank": "7"}, r"'meta\.rank' holds \"7\""),
]


def test_a_document_that_its_index_would_never_find_is_refused(reopen):
    with reopen(**TYPES) as store:
        for payload, message in REFUSED:
            with pytest.raises(DocumentError, match=message) as caught:
                put(store, {"year": 1}, payload)
            assert caught.value.index == 1
        assert store.count() == 0


def test_values_of_the_declared_types_are_kept(reopen):
    fine = [
        {"year": 2004, "price": 9.5, "ok": True, "lang": "de"},
        {"year": [2004, 2005], "price": [1, 2.5], "ok": [True, False], "lang": ["de", "en"]},
        {"at": "2024-01-31"},
        {"at": ["2024-01-31T18:30:00+01:00", "2024-02-29 01:02"]},
        {"year": None, "price": [], "lang": [None]},
        {"meta": {"rank": 7, "else": "7"}, "meta.rank": 8},
        {"else": "2004"},
    ]
    with reopen(**TYPES) as store:
        put(store, *fine)
        assert [document.payload for document in store.get([f"d{i}" for i in range(len(fine))])] == fine


FOUND = [
    ({"year": 2004}, {"d0"}),
    ({"year": 2004.0}, {"d0"}),
    ({"price": 9}, {"d1"}),  # held as 9.0: what the field holds is declared, so a whole number is one of these
    ({"price": {"$gte": 9}}, {"d0", "d1"}),
    ({"ok": [True, None]}, {"d0", "d2"}),
    ({"day": {"$gte": "2024-01-01"}}, {"d0"}),
    ({"day": {"$exists": False}}, {"d1", "d2"}),
    ({"$not": {"year": {"$lt": 2000}}}, {"d0", "d2"}),
    ({"meta.rank": {"$gte": 7}}, {"d0", "d1"}),
    ({"meta": {"rank": 8}}, {"d1"}),
]
NEVER = [
    ({"year": "2004"}, r"'year': .* as integer, and no document can hold \"2004\" there: write 2004"),
    ({"year": {"$in": [2004, "x"]}}, r"\"x\" there: write an integer"),
    ({"$or": [{"lang": "de"}, {"$not": {"year": True}}]}, "'year': .* true there"),
    ({"price": "9.5"}, r"'price': .*: write 9\.5"),
    ({"ok": "True"}, r"'ok': .*\"True\" there: write true"),
    ({"ok": 1}, "'ok': .*write true or false"),
    ({"ok": {"$gt": 0}}, "'ok': "),
    ({"lang": 7}, r"'lang': .* as keyword.*: write \"7\""),
    ({"lang": {"$gt": 7}}, "'lang': "),
    ({"year": {"$gte": "2024-01-01"}}, "'year': .*2024-01-01T00:00:00"),
    ({"meta": {"rank": "7"}}, r"'meta\.rank': .*write 7"),
]


def test_a_filter_asks_for_what_a_declared_field_can_hold(reopen):
    query = make_queries(1)[0]
    with reopen(**TYPES, day="keyword") as store:
        put(
            store,
            {"year": 2004, "price": 9.5, "ok": True, "lang": "de", "day": "2024-05-01", "meta": {"rank": 7}},
            {"year": 1999, "price": 9.0, "ok": False, "lang": "en", "meta.rank": 8},
            {},
        )
        for condition, expected in FOUND:
            assert dict(store.rank(query, filter=condition)).keys() == expected, condition
        for condition, message in NEVER:
            for ask in (store.query, store.rank):
                with pytest.raises(ConfigError, match=message):
                    ask(query, filter=condition)
