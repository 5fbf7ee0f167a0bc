"""What a filter means does not depend on who asks: query, count, documents and delete agree, on every store."""

from __future__ import annotations

import pytest

from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
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
