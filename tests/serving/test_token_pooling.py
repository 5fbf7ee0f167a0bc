"""Token pooling: by hand, against scipy's Ward clustering, and what holds for any rows."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from m3_vdb.encoding.token_pooling import _clusters, first_rows, pool_rows, pool_tokens, rows_to_keep
from m3_vdb.errors import ConfigError
from m3_vdb.scoring import multi_vector_score
from tests.stores._corpus import make_embeddings


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_rows(n, m=8, *, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n, m)))


def test_by_hand():
    # Rows at 0°, 90°, 10°, 100° and 180°: the pairs that are 10° apart are merged, to 5° and 95°; 180° stays.
    angles = np.deg2rad([0, 90, 10, 100, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    expected = np.deg2rad([5, 95, 180])
    pooled = pool_rows(rows, 3)
    np.testing.assert_allclose(pooled, np.stack([np.cos(expected), np.sin(expected)], axis=1), atol=1e-6)
    # Two clusters: {90°, 100°} and 180° cost 2/3 · ‖·‖² by Ward, {0°, 10°} and {90°, 100°} 1 · ‖·‖².
    mean = np.cos(np.deg2rad([90, 100, 180])).sum(), np.sin(np.deg2rad([90, 100, 180])).sum()
    np.testing.assert_allclose(pool_rows(rows, 2)[1], np.array(mean) / np.hypot(*mean), atol=1e-6)


@pytest.mark.parametrize(("n", "m", "keep"), [(40, 4, 7), (150, 16, 75), (300, 96, 100), (33, 2, 1)])
def test_clusters_are_those_of_scipy(n, m, keep):
    rows = random_rows(n, m, seed=n).astype(np.float64)
    ours = _clusters(rows, keep)
    theirs = fcluster(linkage(rows, "ward"), keep, "maxclust")
    assert len(set(ours)) == keep
    assert len(set(zip(ours, theirs, strict=True))) == keep, "the same partition"


@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.integers(0, 9))
def test_any_rows(n, keep, window, seed):
    rows = random_rows(n, seed=seed)
    pooled = pool_rows(rows, keep, window=window)
    assert pooled.shape == (min(n, keep), 8)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-6)
    if n <= keep:
        assert pooled is rows
    np.testing.assert_array_equal(pool_rows(rows, keep, window=window), pooled)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 9))
def test_identical_rows_become_one(distinct, copies, seed):
    rows = random_rows(distinct, seed=seed)
    repeated = np.tile(rows, (copies, 1))
    np.testing.assert_allclose(pool_rows(repeated, distinct), rows, atol=1e-6)


def test_rows_that_cancel_out_give_the_first():
    rows = unit([[1, 0], [-1, 0], [0, 1]])
    assert np.isfinite(pool_rows(rows, 1)).all()
    np.testing.assert_array_equal(pool_rows(rows[:2], 1), rows[:1])


def test_a_window_never_pools_rows_far_apart():
    near = unit([[1, 0.1 * i] for i in range(6)])
    rows = np.concatenate([near, near])
    pooled = pool_rows(rows, 2, window=6)  # one of each half, though the halves are the same
    np.testing.assert_allclose(pooled[0], pooled[1], atol=1e-6)
    np.testing.assert_allclose(pooled[0], unit([near.mean(axis=0)])[0], atol=1e-6)


def test_the_longest_documents_cost_little_time_and_memory():
    rows = random_rows(8191, 128)
    tracemalloc.start()
    begun = time.process_time()
    assert pool_rows(rows, 4095).shape == (4095, 128)
    assert time.process_time() - begun < 20, "0.3 s on a free core; a quadratic or cubic one takes minutes"
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_a_batch():
    embeddings = make_embeddings(20)
    counts = np.diff(embeddings.multi_vector_offsets)
    pooled = pool_tokens(embeddings, factor=2, max_rows=20)
    assert np.diff(pooled.multi_vector_offsets).tolist() == [min(-(-count // 2), 20) for count in counts]
    assert pooled.dense is embeddings.dense
    assert pooled.sparse_ids is embeddings.sparse_ids
    for before, after in zip(embeddings, pooled, strict=True):
        np.testing.assert_array_equal(after.multi_vector, pool_rows(before.multi_vector, len(after.multi_vector)))
    assert pool_tokens(embeddings) is embeddings


def test_pooling_keeps_more_of_a_score_than_cutting():
    documents = make_embeddings(40, max_rows=60)
    queries = make_embeddings(10, seed=5, max_rows=16)
    pooled = pool_tokens(documents, factor=2)
    error = {"pool": 0.0, "cut": 0.0}
    for query in queries:
        for before, after in zip(documents, pooled, strict=True):
            exact = multi_vector_score(query.multi_vector, before.multi_vector)
            cut = first_rows(before.multi_vector, len(after.multi_vector))
            error["pool"] += abs(exact - multi_vector_score(query.multi_vector, after.multi_vector))
            error["cut"] += abs(exact - multi_vector_score(query.multi_vector, cut))
    assert 0 < error["pool"] < error["cut"]


def test_rows_to_keep():
    counts = np.array([1, 2, 5, 100], np.int32)
    assert rows_to_keep(counts).tolist() == [1, 2, 5, 100]
    assert rows_to_keep(counts, factor=2.5, max_rows=30).tolist() == [1, 1, 2, 30]


@pytest.mark.parametrize("call", [
    lambda: pool_rows(random_rows(3), 0),
    lambda: pool_rows(random_rows(3), 2, window=1),
    lambda: first_rows(random_rows(3), 0),
    lambda: rows_to_keep(np.ones(2, np.int32), factor=0.5),
    lambda: rows_to_keep(np.ones(2, np.int32), factor=float("nan")),
    lambda: rows_to_keep(np.ones(2, np.int32), max_rows=0),
])  # fmt: skip
def test_what_is_out_of_range(call):
    with pytest.raises(ConfigError, match="expected"):
        call()
