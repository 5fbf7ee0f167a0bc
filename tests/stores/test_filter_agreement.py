"""What a filter means does not depend on who asks: query, count, documents and delete agree, on every store."""

from __future__ import annotations

import pytest

from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
from m3_vdb.stores import CollectionOptions
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_embeddings, make_queries

WHEN = [
    "2024-01-31",
    "2024-01-31T00:30:00+01:00",  # still the 30th in UTC
    "2024-01-31T23:30:00-02:00",  # the 1st of February in UTC
    "2024-02-29 12:00",
    "2024-02-29T12:00:00.250Z",
    "yesterday",
    2024,
    ["2023-12-31", "2025-01-01"],
    None,
]
PAYLOADS = [
    {
        **({"at": WHEN[i % len(WHEN)]} if i % 10 else {}),
        "meta": {"source": ("web", "mail", "disk")[i % 3], "page": i, "deep": {"ok": i % 4 == 0}},
        "tags": [f"t{i % 5}", i % 7],
        **({"meta.source": "flat"} if i % 8 == 0 else {}),
    }
    for i in range(40)
]
FILTERS = [
    {"at": {"$gte": "2024-01-31"}},
    {"at": {"$gte": "2024-01-31", "$lt": "2024-02-01"}},
    {"at": {"$gt": "2024-01-30T23:30:00Z", "$lte": "2024-02-01T01:30:00+00:00"}},
    {"at": {"$lt": "2024-01-31T01:00:00+02:00"}},
    {"at": {"$gt": "2024-02-29T13:00:00+01:00"}},
    {"at": {"$gte": "2024-01-01", "$lt": "2024-12-31"}},
    {"at": "2024-01-31"},
    {"at": {"$exists": False}},
    {"meta.source": "web"},
    {"meta": {"source": ["web", "flat"], "page": {"$gte": 10}}},
    {"meta.page": {"$gt": 5, "$lte": 20}},
    {"meta.deep.ok": True},
    {"$not": {"meta.source": "web"}},
    {"tags": ["t1", 3]},
    {"$or": [{"at": {"$lt": "2024-01-01"}}, {"meta.page": 7}], "tags": {"$nin": ["t4"]}},
    {"at": {"$gte": "1999-12-31"}, "meta.missing": {"$exists": True}},
]


TEXTS = ["The quick pump valve", "pump", "Valve of the PUMP-7", "naïve: error 1047", "", "quick quick"]
WORDS = {  # what every engine's words have in common
    "pump": {0, 1, 2},
    "VALVE pump": {0, 2},
    "quick": {0, 5},
    "missing pump": set(),
    "naïve": {3},
    "error 1047": {3},
    "error 1048": set(),
    "the, quick!": {0},
}


def test_words_of_the_text_are_found_by_all_who_ask(backend):
    documents = [Document(f"d{i}", text, "a pump", {"n": i, "text": "quick"}) for i, text in enumerate(TEXTS)]
    (query,) = make_queries(1)
    if not backend.name.startswith(("memory", "rest", "grpc", "edge", "qdrant")):
        with (
            backend.open(IDENTITY) as store,
            pytest.raises(ConfigError, match=r"'\$text': the .* has no index of words"),
        ):
            store.count({"$text": "pump"})
        return
    options = CollectionOptions(full_text=True)
    with backend.open(IDENTITY, options=options) as store:
        store.upsert(documents, make_embeddings(len(documents)))
        for words, places in WORDS.items():
            condition, ids = {"$text": words}, {f"d{i}" for i in places}
            assert store.count(condition) == len(ids), words
            assert {id for id, _ in store.rank(query, filter=condition)} == ids, words
            assert {one.id for some in store.documents(filter=condition) for one in some} == ids, words
        assert store.count({"$not": {"$text": "pump"}, "n": {"$lt": 5}}) == 2
        assert store.count({"$or": [{"$text": "pump"}, {"n": 4}]}) == 4
        store.delete(filter={"$text": "pump valve", "n": 2})
        assert store.count({"$text": "valve"}) == 1


def test_words_are_found_in_a_collection_that_gets_its_index_later(backend):
    if not backend.name.startswith(("rest", "grpc", "edge", "qdrant")):
        return
    with backend.open(IDENTITY) as store:
        store.upsert([Document("d", "pump")], make_embeddings(1))
        with pytest.raises(ConfigError, match=r"gets one by m3-vdb create --store URL --full-text"):
            store.query(make_queries(1)[0], filter={"$not": {"$text": "pump"}})
    backend.open(IDENTITY, options=CollectionOptions(full_text=True)).close()
    with backend.open(IDENTITY) as store:
        assert store.has_full_text
        assert (store.count({"$text": "Pump"}), store.facts().options["full_text"]) == (1, True)


@pytest.mark.parametrize("deleted", [1, 10])
def test_query_count_documents_and_delete_agree(backend, deleted):
    documents = [Document(f"d{i}", f"text {i}", payload=payload) for i, payload in enumerate(PAYLOADS)]
    if not backend.strict_types:  # qdrant-client's local mode takes 1 for true
        documents = [one for one in documents if not one.payload["meta"]["deep"]["ok"]]
    (query,) = make_queries(1)
    with backend.open(IDENTITY) as store:
        store.upsert(documents, make_embeddings(len(documents)))
        expected = [{d.id for d in documents if matches(d.payload, parse_filter(one))} for one in FILTERS]
        for condition, ids in zip(FILTERS, expected, strict=True):
            assert store.count(condition) == len(ids), condition
            assert {id for id, _ in store.rank(query, limit=40, filter=condition)} == ids, condition
            assert {one.id for some in store.documents(filter=condition) for one in some} == ids, condition
        store.delete(filter=FILTERS[deleted])
        left = {one.id for some in store.documents() for one in some}
        assert left == {one.id for one in documents} - expected[deleted]
        assert store.count(FILTERS[deleted]) == 0
