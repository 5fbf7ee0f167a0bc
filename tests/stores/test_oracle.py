"""The oracle against the formula written out by hand, and every engine against the oracle on a larger collection."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError
from m3_vdb.scoring import hybrid_score
from m3_vdb.stores import CollectionOptions, MemoryStore, ModelIdentity, open_store
from m3_vdb.types import Document, M3Embedding, M3Embeddings, SparseVector
from m3_vdb.weights import PRESETS, Weights
from tests.stores._corpus import IDENTITY, assert_same_hits, make_documents, make_embeddings, make_queries

LARGE = bool(os.environ.get("M3VDB_TEST_LARGE"))
"""Set M3VDB_TEST_LARGE=1 for 5,000 documents and 200 queries instead of 1,000 and 6; minutes a store."""
DOCUMENTS, QUERIES = (5000, 200) if LARGE else (1000, 6)
STORES = ["folder", "folder, half", "server", "server, strict", "server, shards"]
PRESET_NAMES = ["default", "dense_sparse", "long_document"]
CONDITIONS = {
    "all": None,
    "filtered": {"lang": ["de", "en"], "draft": False},
    "a tree": {"$or": [{"year": {"$gte": 2002, "$lt": 2004}}, {"$not": {"tags": ["t1", "t2"]}}], "price": {"$ne": 1.5}},
}


def test_a_score_that_can_be_checked_by_eye():
    store = MemoryStore(ModelIdentity(name="eye", fingerprint="0", dense_dim=2, multi_vector_dim=2))
    vectors = M3Embeddings(
        token_counts=np.array([3], np.int32),
        truncated=np.array([False]),
        dense=np.array([[0.6, 0.8]], np.float32),
        sparse_ids=np.array([4, 9], np.int32),
        sparse_weights=np.array([0.5, 0.25], np.float32),
        sparse_offsets=np.array([0, 2]),
        multi_vector=np.array([[1, 0], [0, 1]], np.float32),
        multi_vector_offsets=np.array([0, 2]),
    )
    store.upsert([Document(id="a", text="a")], vectors)
    query = M3Embedding(
        dense=np.array([1, 0], np.float32),
        sparse=SparseVector(np.array([9, 11], np.int32), np.array([0.4, 7], np.float32)),
        multi_vector=np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32),
    )
    (hit,) = store.query(query, weights=Weights(1, 0.3, 1), explain=True)
    assert hit.parts.dense == pytest.approx(0.6)
    assert hit.parts.sparse == pytest.approx(0.25 * 0.4)
    assert hit.parts.multi_vector == pytest.approx((1 + 0.8 + 0) / 3)
    assert hit.score == pytest.approx(0.6 + 0.03 + 0.6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    candidates=st.integers(1, 50),
    limit=st.integers(1, 50),
    offset=st.integers(0, 9),
    w=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 2.5])] * 3).filter(any),
)
def test_the_oracle_is_the_formula_over_the_dense_candidates(seed, n, candidates, limit, offset, w):
    embeddings, query = make_embeddings(n, seed=seed, max_rows=9), make_queries(1, seed=seed + 1)[0]
    store = MemoryStore(IDENTITY)
    store.upsert(make_documents(n), embeddings)
    q_tokens = dict(zip(query.sparse.ids.tolist(), query.sparse.weights.tolist(), strict=True))
    scored = []
    for i, e in enumerate(embeddings):
        dense = float(np.dot(query.dense.astype(float), e.dense.astype(float)))
        tokens = zip(e.sparse.ids.tolist(), e.sparse.weights.tolist(), strict=True)
        lexical = sum(q_tokens.get(token, 0.0) * weight for token, weight in tokens)
        best = [
            max(float(np.dot(q.astype(float), p.astype(float))) for p in e.multi_vector) for q in query.multi_vector
        ]
        scored.append((dense, w[0] * dense + w[1] * lexical + w[2] * sum(best) / len(best), f"d{i}"))
    nearest = sorted(scored, reverse=True)[:candidates]
    expected = sorted((total for _, total, _ in nearest), reverse=True)[offset : offset + limit]
    asked = {"weights": Weights(*w), "limit": limit, "offset": offset, "candidates": candidates, "source": "dense"}
    if limit > candidates and n > candidates:
        with pytest.raises(ConfigError, match=f"pass candidates={limit}"):
            store.query(query, **asked)
        return
    hits = store.query(query, **asked)
    assert [hit.score for hit in hits] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    truth = {name: total for _, total, name in nearest}
    assert all(hit.score == pytest.approx(truth[hit.document.id], rel=1e-5, abs=1e-6) for hit in hits)


@pytest.fixture(scope="module")
def oracle():
    store = MemoryStore(IDENTITY)
    store.upsert(make_documents(DOCUMENTS), make_embeddings(DOCUMENTS))
    return store


@pytest.fixture(scope="module", params=STORES)
def engine(request, tmp_path_factory):
    """A store under test with the documents of the oracle."""
    name, stub = request.param, None
    if name.startswith("folder"):
        url = str(tmp_path_factory.mktemp("big") / "c.qdrant")
    else:
        strict = models.StrictModeConfig(enabled=True, search_allow_exact=False)
        stub = RestStub(shards=3 if "shards" in name else 1, strict=strict if "strict" in name else None)
        url = f"qdrant://{stub.address}/c"
    options = CollectionOptions(
        storage="half" if "half" in name else "float32", indexes={"lang": "keyword", "draft": "bool", "year": "integer"}
    )
    with open_store(url, identity=IDENTITY, options=options) as store:
        store.upsert(make_documents(DOCUMENTS), make_embeddings(DOCUMENTS))
        assert store.count() == DOCUMENTS
        yield store
    if stub is not None:
        stub.close()


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_every_engine_equals_the_oracle_on_many_documents(request, engine, oracle, preset, condition, record_property):
    tie = 5e-5 if "half" in request.node.name else 1e-6
    args = {"weights": PRESETS[preset], "filter": condition}
    worst, times = 0.0, []
    for query in make_queries(QUERIES):
        begin = time.perf_counter()
        hits = engine.query(query, limit=50, **args)
        times.append(time.perf_counter() - begin)
        truth = oracle.query(query, limit=60, **args)
        worst = max(worst, assert_same_hits(hits, truth, limit=50, tie=tie))
    record_property("max_relative_error", worst)
    record_property("fastest_query_ms", 1000 * min(times))


@pytest.mark.parametrize("fusion", ["weighted_sum", "rrf", "dbsf"])
def test_to_explain_changes_no_score(engine, fusion):
    for query in make_queries(5):
        args = {"limit": 30, "filter": CONDITIONS["filtered"], "fusion": fusion}
        plain, explained = engine.query(query, **args), engine.query(query, explain=True, **args)
        close = 1e-5 if fusion == "dbsf" else 1e-6  # the engine normalises in float32
        assert [hit.score for hit in explained] == pytest.approx([hit.score for hit in plain], rel=close)
        if fusion == "weighted_sum":
            assert {h.document.id: h.score for h in explained} == pytest.approx(
                {h.document.id: h.score for h in plain}, rel=1e-6
            )
            for hit in explained:
                assert hit.score == pytest.approx(hybrid_score(hit.parts, Weights()), rel=1e-6)


def test_every_engine_equals_the_oracle_after_optimize(request, engine, oracle):
    """It changes the shared collection. The HNSW graph may lose candidates, never spoil a score."""
    engine.optimize()
    tie = 5e-5 if "half" in request.node.name else 1e-6
    for query in make_queries(5):
        assert_same_hits(engine.query(query, limit=50), oracle.query(query, limit=60), limit=50, tie=tie)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_the_oracle_itself_depends_on_the_weights(oracle, preset):
    """A guard: were all presets to rank alike, the equality tests above would prove little."""
    query = make_queries(1)[0]
    rankings = {
        name: tuple(h.document.id for h in oracle.query(query, weights=PRESETS[name], limit=20))
        for name in PRESET_NAMES
    }
    assert len(set(rankings.values())) == len(PRESET_NAMES)
    hits = oracle.query(query, weights=PRESETS[preset], limit=200, source="dense", explain=True)
    assert any(h.parts.sparse == 0 for h in hits)
    assert any(h.parts.sparse > 0 for h in hits)
