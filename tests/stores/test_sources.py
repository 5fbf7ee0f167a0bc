"""Where candidates come from, and rankings without documents: one behaviour, every store.

The candidates are worked out here from the definitions (``m3_vdb.scoring``, pair by pair), not by a store.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from m3_vdb.scoring import hybrid_score, score
from m3_vdb.types import SparseVector
from m3_vdb.weights import PRESETS, Weights
from tests.stores._corpus import SHARED, make_embeddings, make_queries

CANDIDATES = 25
EMPTY = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))
WEIGHTS = {
    "default": PRESETS["default"],
    "dense": Weights(1, 0, 0),
    "sparse": Weights(0, 1, 0),
    "multi": Weights(0, 0, 1),
}


@pytest.fixture(scope="module")
def filled(shared):
    return shared, {f"d{i}": embedding for i, embedding in enumerate(make_embeddings(SHARED))}


def expected(query, passages, weights, source, candidates=CANDIDATES):
    """Id → fused score of every candidate, by the definition."""
    parts = {name: score(query, passage) for name, passage in passages.items()}
    dense = sorted(parts, key=lambda name: -parts[name].dense)[:candidates]
    lexical = sorted((n for n in parts if parts[n].sparse > 0), key=lambda name: -parts[name].sparse)[:candidates]
    chosen = {"dense": dense, "sparse": lexical, "union": {*dense, *lexical}}[source]
    return {name: hybrid_score(parts[name], weights) for name in chosen}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("source", ["dense", "sparse", "union"])
def test_every_candidate_has_its_exact_score(filled, source, weights):
    store, passages = filled
    for query in make_queries(4):
        truth = expected(query, passages, weights, source)
        ranking = store.rank(query, weights=weights, limit=CANDIDATES, candidates=CANDIDATES, source=source)
        best = sorted(truth.values(), reverse=True)[:CANDIDATES]
        assert [value for _, value in ranking] == pytest.approx(best, rel=1e-5, abs=1e-6)
        assert {name: truth[name] for name, _ in ranking} == pytest.approx(dict(ranking), rel=1e-5, abs=1e-6)


def test_the_three_sources_differ(filled):
    """A guard: were the lists equal, the test above would prove little."""
    _, passages = filled
    query = make_queries(1)[0]
    found = {
        source: set(expected(query, passages, WEIGHTS["default"], source)) for source in ("dense", "sparse", "union")
    }
    assert CANDIDATES == len(found["dense"]) == len(found["sparse"]) < len(found["union"]) <= 2 * CANDIDATES
    assert found["union"] == found["dense"] | found["sparse"]


def test_both_lists_are_the_default(filled):
    store, _ = filled
    query, asked = make_queries(1)[0], {"limit": 9, "candidates": CANDIDATES}
    assert store.rank(query, **asked) == store.rank(query, **asked, source="union")
    assert store.query(query, **asked) == store.query(query, **asked, source="union")


def test_union_gives_more_than_one_list_holds(filled):
    store, passages = filled
    query = make_queries(1)[0]
    everything = expected(query, passages, WEIGHTS["default"], "union", candidates=60)
    ranking = store.rank(query, limit=60, candidates=60, source="union")
    assert len(everything) > 60 == len(ranking)
    assert [v for _, v in ranking] == pytest.approx(sorted(everything.values(), reverse=True)[:60], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("source", ["dense", "sparse", "union"])
def test_rank_is_query_without_the_documents(filled, source):
    store, _ = filled
    query, condition = make_queries(1)[0], {"lang": "de"}
    hits = store.query(query, limit=9, candidates=CANDIDATES, source=source, filter=condition)
    assert hits
    assert all(hit.document.payload["lang"] == "de" for hit in hits)
    ranking = store.rank(query, limit=9, candidates=CANDIDATES, source=source, filter=condition)
    assert ranking == [(hit.document.id, hit.score) for hit in hits]


def test_a_query_without_lexical_tokens_finds_nothing_by_them(filled):
    store, passages = filled
    query = dataclasses.replace(make_queries(1)[0], sparse=EMPTY)
    assert store.rank(query, source="sparse") == []
    assert store.query(query, source="sparse") == []
    dense = expected(query, passages, WEIGHTS["default"], "dense")
    assert dict(store.rank(query, limit=CANDIDATES, candidates=CANDIDATES, source="union")) == pytest.approx(dense)


def test_optimize_and_disk_bytes_can_always_be_asked(filled):
    store, passages = filled
    query = make_queries(1)[0]
    before = dict(store.rank(query, limit=10))
    store.optimize()
    assert dict(store.rank(query, limit=10)) == pytest.approx(before)
    size = store.disk_bytes()
    vectors = sum(p.dense.nbytes + p.multi_vector.nbytes for p in passages.values())
    assert size is None or size > vectors
