"""Boosts: the same score on every store that adds them, whatever payloads hold; the others say why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from m3_vdb.boosts import boost_score, read_boosts
from m3_vdb.errors import ConfigError
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.stores import CollectionOptions
from m3_vdb.types import Document
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, make_embeddings, make_queries

BOOSTS = [
    "official:0.4",
    "rating:0.05",
    "clicks:0.3:1000",
    "at:-0.5:3000d",
    "meta.rank:0.2",
    "tag:1",
    "tag:1:5",
    "tag:1:5d",
]
NOW = datetime.now(timezone.utc)
ODD = [
    None,
    "text",
    "2024-01-31",
    True,
    [],
    [1, 2],
    [3],
    [[4]],
    {"a": 1},
    [True],
    ["2024-02-01 10:00"],
    -1,
    1e300,
    [None],
]
"""What a field may hold that a boost reads: the engine would refuse the whole query for most of them."""
PAYLOADS = [
    {
        **({"official": i % 3 == 0} if i % 4 else {}),
        **(
            {"clicks": i * 97, "at": (NOW - timedelta(days=100 * i, hours=i)).isoformat(timespec="seconds")}
            if i % 5
            else {}
        ),
        "rating": i % 7 + 0.25,
        **({"meta": {"rank": i % 6}} if i % 2 else {"meta.rank": i % 6}),
        "tag": ODD[i % len(ODD)],
    }
    for i in range(60)
]
DOCUMENTS = [Document(f"d{i}", f"text {i}", payload=payload) for i, payload in enumerate(PAYLOADS)]
INDEXED = CollectionOptions(indexes={"official": "bool", "rating": "float", "clicks": "integer", "at": "datetime"})


def expected(query, weights):
    """Id → (boosted score, boost) of all documents, by the definition."""
    boosts, found = read_boosts(BOOSTS), {}
    for document, embedding in zip(DOCUMENTS, make_embeddings(len(DOCUMENTS)), strict=True):
        parts = replace(score(query, embedding), boost=boost_score(document.payload, boosts, NOW))
        found[document.id] = hybrid_score(parts, Weights(*weights)), parts.boost
    return found


@pytest.mark.parametrize("indexed", [False, True])
def test_boosts_are_part_of_the_score(backend, indexed):
    options = {"options": INDEXED} if indexed and backend.name in ("edge", "rest", "rest-strict", "qdrant") else {}
    if indexed and not options:
        pytest.skip("has no indexes that could change what the engine reads")
    with backend.open(IDENTITY, **options) as store:
        store.upsert(DOCUMENTS, make_embeddings(len(DOCUMENTS)))
        if backend.name.startswith("milvus"):
            with pytest.raises(ConfigError, match=r"boosts: the .* cannot add them: Milvus' decay and boost rankers"):
                store.query(make_queries(1)[0], boosts=BOOSTS)
            return
        for query, weights in zip(make_queries(3), [(1, 0.3, 1), (1, 0, 0), (0, 0, 1)], strict=True):
            truth = expected(query, weights)
            hits = store.query(query, weights=weights, boosts=BOOSTS, limit=60, explain=True)
            assert [hit.document.id for hit in hits] == sorted(truth, key=lambda i: -truth[i][0])
            assert [hit.score for hit in hits] == pytest.approx([truth[hit.document.id][0] for hit in hits], abs=1e-5)
            assert [hit.parts.boost for hit in hits] == pytest.approx([truth[h.document.id][1] for h in hits], abs=1e-5)
            page = store.query(query, weights=weights, boosts=BOOSTS, limit=5, offset=3)
            assert [hit.document.id for hit in page] == [hit.document.id for hit in hits[3:8]]
            assert [i for i, _ in store.rank(query, weights=weights, boosts=BOOSTS, limit=60)] == [
                hit.document.id for hit in hits
            ]
        plain = store.query(query, explain=True)[0]
        assert plain.parts.boost is None
        assert "boost" not in plain.parts.as_dict()
        with pytest.raises(ConfigError, match="boosts are added to scores, and fusion='rrf' has ranks"):
            store.query(query, boosts=BOOSTS, fusion="rrf")
