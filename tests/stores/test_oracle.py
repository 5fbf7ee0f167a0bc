"""The oracle against the formula written out by hand, and every engine against the oracle on a larger collection."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.fusion import PRESETS, Weights
from m3_vdb.stores import MemoryStore, ModelIdentity, open_store
from m3_vdb.types import Document, M3Embedding, M3Embeddings, SparseVector
from tests.stores._corpus import IDENTITY, assert_same_hits, make_documents, make_embeddings, make_queries

EDGE_DOCUMENTS = 2000
PRESET_NAMES = ["default", "dense_sparse", "long_document"]
CONDITIONS = {"all": None, "filtered": {"lang": ["de", "en"], "draft": False}}


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
    w=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 2.5])] * 3).filter(any),
)
def test_the_oracle_is_the_formula_over_the_dense_candidates(seed, n, candidates, limit, w):
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
    nearest = sorted(scored, reverse=True)[: max(candidates, limit)]
    expected = sorted((total for _, total, _ in nearest), reverse=True)[:limit]
    hits = store.query(query, weights=Weights(*w), limit=limit, candidates=candidates)
    assert [hit.score for hit in hits] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    truth = {name: total for _, total, name in nearest}
    assert all(hit.score == pytest.approx(truth[hit.document.id], rel=1e-5, abs=1e-6) for hit in hits)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The oracle and the embedded engine with the same 2,000 documents."""
    documents, embeddings = make_documents(EDGE_DOCUMENTS), make_embeddings(EDGE_DOCUMENTS)
    oracle = MemoryStore(IDENTITY)
    oracle.upsert(documents, embeddings)
    with open_store(str(tmp_path_factory.mktemp("big") / "c.qdrant"), identity=IDENTITY) as edge:
        edge.upsert(documents, embeddings)
        assert edge.count() == oracle.count() == EDGE_DOCUMENTS
        yield edge, oracle


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_edge_equals_the_oracle_on_2000_documents(big, preset, condition, record_property):
    edge, oracle = big
    args = {"weights": PRESETS[preset], "filter": condition}
    worst, times = 0.0, []
    for query in make_queries(10):
        begin = time.perf_counter()
        hits = edge.query(query, limit=50, **args)
        times.append(time.perf_counter() - begin)
        worst = max(worst, assert_same_hits(hits, oracle.query(query, limit=60, **args), limit=50))
    record_property("max_relative_error", worst)
    record_property("fastest_query_ms", 1000 * min(times))


def test_edge_equals_the_oracle_after_optimize(big):
    """Last in the module: it changes the shared collection. The HNSW graph may lose candidates, never spoil a score."""
    edge, oracle = big
    edge.optimize()
    for query in make_queries(5):
        assert_same_hits(edge.query(query, limit=50), oracle.query(query, limit=60), limit=50)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_the_oracle_itself_depends_on_the_weights(big, preset):
    """A guard: were all presets to rank alike, the equality tests above would prove little."""
    _, oracle = big
    query = make_queries(1)[0]
    rankings = {
        name: tuple(h.document.id for h in oracle.query(query, weights=PRESETS[name], limit=20))
        for name in PRESET_NAMES
    }
    assert len(set(rankings.values())) == len(PRESET_NAMES)
    hits = oracle.query(query, weights=PRESETS[preset], limit=200, explain=True)
    assert any(h.parts.sparse == 0 for h in hits)
    assert any(h.parts.sparse > 0 for h in hits)
