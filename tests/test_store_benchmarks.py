"""The benchmarks of the stores, small: that they run, that they compare, and that they can fail."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import common, exactness, storage, stores
from m3_vdb.stores import MemoryStore


def last_line(main, *arguments, code=0):
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.output.splitlines()[-1])


def test_synthetic_texts_are_the_same_for_a_seed_and_shaped_like_a_models():
    one, again, other = (common.embeddings(40, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.multi_vector, again.multi_vector)
    assert not np.array_equal(one.dense, other.dense)
    assert one.dense.shape == (40, 384)
    assert one.multi_vector.shape[1] == 96
    for rows in (one.dense, one.multi_vector):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert 80 < np.diff(one.multi_vector_offsets).mean() < 120
    assert all((np.diff(text.sparse.ids) > 0).all() for text in one)
    assert all(3 <= len(query.multi_vector) <= 13 for query in common.queries(20))


def test_exactness_of_a_small_collection():
    named = [part for name in ("qdrant folder", "qdrant gRPC stub") for part in ("--store", name)]
    result = last_line(exactness.main, *named, "--documents", 200, "--queries", 2)
    assert result["passed"]
    assert {name: found["searches"] for name, found in result["stores"].items()} == dict.fromkeys(named[1::2], 18)
    for found in result["stores"].values():
        assert found["hits"] > 18 * 40
        assert 0 < found["largest_error"] < 1e-6
        assert found["largest_gap"] < 1e-6


def test_the_synthetic_queries_ask_for_different_things():
    """A guard: equal rankings under all weights and filters would make equality cheap."""
    (query,) = common.queries(1)
    truth = exactness.oracle(300, [query])
    first = {key: tuple(name for name, _ in hits[:10]) for key, hits in truth.items()}
    assert len(set(first.values())) == len(first) == 9
    with MemoryStore(common.identity()) as store:
        exactness.fill(store, 300)
        hits = store.query(query, limit=50, explain=True)
    assert 0 < sum(hit.parts.sparse > 0 for hit in hits) < 50


@pytest.mark.parametrize(
    ("got", "error", "gap", "strangers"),
    [
        ([("a", 2.0), ("b", 1.0)], 0, 0, 0),
        ([("a", 2.001), ("b", 1.0)], 5e-4, 0, 0),
        ([("b", 1.0), ("a", 2.0)], 0, 1, 0),
        ([("a", 2.0), ("x", 1.0)], 0, 0, 1),
        ([("a", 2.0)], 0, 0, 1),
    ],
    ids=["right", "a wrong score", "a wrong order", "a stranger", "one too few"],
)
def test_a_comparison_sees_what_is_wrong(got, error, gap, strangers):
    found = exactness.Comparison()
    found.add(got, [("a", 2.0), ("b", 1.0)])
    assert (found.largest_error, found.largest_gap) == pytest.approx((error, gap))
    assert found.strangers == strangers
    assert found.passed == (error == gap == strangers == 0)


def test_speed_of_a_small_collection():
    result = last_line(stores.main, "--documents", 150, "--queries", 2)
    (folder,) = result["results"]
    assert folder["documents_per_s"] > 0
    assert set(folder["modes"]) == set(stores.MODES)
    assert all(0 < times["p50_ms"] <= times["p95_ms"] for times in folder["modes"].values())
    assert folder["one_against_three"] < 1e-6


def test_what_storage_costs():
    result = last_line(storage.main, "--documents", 60, "--queries", 2, "--width", 96)
    errors = {row["storage"]: row["largest_relative_error"] for row in result["results"]}
    assert errors["float32"] < 1e-6 < errors["half"] < errors[storage.FLOAT16] < errors["quarter"] < 1e-2
