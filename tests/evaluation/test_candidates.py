"""Raw scores of candidates, weighed in every way: by hand, and against the slow road over run files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from m3_vdb.evaluation import Collection, Query, tuning
from m3_vdb.evaluation.metrics import per_query
from m3_vdb.evaluation.protocol import PARTS
from m3_vdb.evaluation.tuning import Candidates, curves, fusion_error, grid, mean_ndcg, three, tune
from m3_vdb.weights import Weights

COMPONENTS = {
    "dense": {"q": {"a": 0.75, "b": 0.5}, "r": {"c": 0.25}},
    "sparse": {"q": {"b": 2.0, "a": 0.0}, "r": {"c": 0.5}},
    "multi_vector": {"q": {"a": 0.125, "b": 0.25}, "r": {"c": 1.0}},
}
QRELS = {"q": {"b": 2, "x": 1, "a": -1}, "r": {"c": 0}, "nothing found": {"a": 1}}


def gather(components: dict, qrels: dict, **options: bool) -> Candidates:
    return tuning.gather(components, Collection("c", [], {query: Query("?") for query in qrels}, qrels), **options)


def pool_of(*tasks: tuple[Collection, dict]) -> list[Candidates]:
    return [tuning.gather(components, collection) for collection, components in tasks]


def test_parts_of_two_queries():
    parts = gather(COMPONENTS, QRELS)
    none = -np.inf
    assert parts.queries == ("q", "r", "nothing found")
    # b before a: descending ids
    np.testing.assert_array_equal(parts.scores[0], [[0.5, 0.75], [0.25, none], [none, none]])
    np.testing.assert_array_equal(parts.scores[1], [[2, 0], [0.5, 0], [0, 0]])
    np.testing.assert_array_equal(parts.scores[2], [[0.25, 0.125], [1, 0], [0, 0]])
    np.testing.assert_array_equal(parts.gains, [[2, 0], [0, 0], [0, 0]])
    assert parts.ideal == pytest.approx([2 + 1 / np.log2(3), 0, 1])


def test_fused_scores_are_weighted_sums():
    fused = gather(COMPONENTS, QRELS).fused(Weights(2, 0.5, 4))
    none = -np.inf
    np.testing.assert_array_equal(fused, [[1 + 1 + 1, 1.5 + 0 + 0.5], [0.5 + 0.25 + 4, none], [none, none]])
    zero = gather(COMPONENTS, QRELS).fused(Weights(0, 0, 1))
    assert np.isneginf(zero).tolist() == np.isneginf(fused).tolist(), "0 · −∞ is no number"


def test_gain_depends_on_the_weights():
    parts = gather(COMPONENTS, QRELS)
    best = 2 / (2 + 1 / np.log2(3))
    assert parts.ndcg(Weights(0, 1, 0)) == pytest.approx([best, 0, 0])
    assert parts.ndcg(Weights(1, 0, 0)) == pytest.approx([best / np.log2(3), 0, 0])


def test_only_candidates_that_every_probe_knows_are_weighed():
    components = {**COMPONENTS, "sparse": {"q": {"a": 0.0}}}
    parts = gather(components, QRELS)
    np.testing.assert_array_equal(parts.scores[:, 0, 0], [0.75, 0, 0.125])
    assert np.isneginf(parts.scores[0, :, 1:]).all()
    assert np.isneginf(parts.scores[0, 1, 0]), "r was found by two components of three"


def test_a_part_that_was_not_asked_for_counts_nothing():
    parts = gather({part: COMPONENTS[part] for part in ("dense", "sparse")}, QRELS)
    np.testing.assert_array_equal(parts.fused(Weights(1, 1, 5))[0], [2.5, 0.75])


def test_components_without_any_result_still_make_parts():
    parts = gather({part: {} for part in PARTS}, QRELS)
    assert parts.ndcg(Weights()).tolist() == [0, 0, 0]


def random_task(seed: int = 0, queries: int = 40, documents: int = 30) -> tuple[Collection, dict]:
    """Three noisy views of relevance; the lexical one is the best and has another scale."""
    rng = np.random.default_rng(seed)
    names = [f"d{i:02}" for i in range(documents)]
    qrels = {
        f"q{q}": dict(zip(names, (rng.integers(0, 3, documents) // 2).tolist(), strict=True)) for q in range(queries)
    }
    components = {part: {} for part in PARTS}
    for query, grades in qrels.items():
        found = rng.permutation(names)[: rng.integers(5, documents)]
        for part, noise, scale in zip(PARTS, (2.0, 1.0, 3.0), (1.0, 0.3, 1.0), strict=True):
            components[part][query] = {
                str(name): float(np.float32(scale * (grades[name] + noise * rng.normal()))) for name in found
            }
    langs = ("de", "en", "en", "fr")
    asked = {query: Query(query, langs[i % 4]) for i, query in enumerate(qrels)}
    return Collection(f"task {seed}", [], asked, qrels), components


@pytest.mark.parametrize("weights", [Weights(), Weights(0, 1, 0), Weights(0.2, 0.8, 0), Weights(1, 0, 3)])
def test_the_quick_road_is_the_slow_one(weights):
    collection, components = random_task()
    factors = dict(zip(PARTS, three(weights), strict=True))
    run = {
        query: {
            name: sum(factors[part] * components[part][query][name] for part in PARTS)
            for name in components["dense"][query]
        }
        for query in collection.queries
    }
    slow = per_query(run, collection.qrels, ["nDCG@10"])["nDCG@10"]
    assert gather(components, collection.qrels).ndcg(weights) == pytest.approx(list(slow.values()), abs=1e-6)


def test_ties_rank_as_in_every_other_figure():
    names = ["a", "b", "c"]
    components = {part: {"q": dict.fromkeys(names, 0.5)} for part in PARTS}
    qrels = {"q": {"b": 1}}
    run = {"q": dict.fromkeys(names, 1.0)}
    assert gather(components, qrels).ndcg(Weights()) == pytest.approx(per_query(run, qrels)["nDCG@10"]["q"])


def test_a_pool_counts_every_language_of_every_collection_once():
    collection, components = random_task()
    other = random_task(seed=1, queries=3)
    values = gather(components, collection.qrels).ndcg(Weights())
    langs = np.array([query.lang for query in collection.queries.values()])
    expected = [values[langs == lang].mean() for lang in ("de", "en", "fr")]
    expected += list(gather(other[1], other[0].qrels).ndcg(Weights()))[:1]
    expected += [gather(other[1], other[0].qrels).ndcg(Weights())[1:].mean()]
    pool = pool_of((collection, components), other)
    assert mean_ndcg(pool, Weights()) == pytest.approx(np.mean(expected))
    assert sum(len(one.queries) for one in pool) == 43


def test_queries_without_judgements_are_in_no_group():
    collection, components = random_task()
    with_more = Collection("more", [], {"unjudged": Query("u", "sv"), **collection.queries}, collection.qrels)
    assert mean_ndcg(pool_of((with_more, components)), Weights()) == mean_ndcg(
        pool_of((collection, components)), Weights()
    )


def test_only_ratios_of_weights_matter():
    pool = pool_of(random_task())
    assert mean_ndcg(pool, Weights(1, 0.3, 0.5)) == pytest.approx(mean_ndcg(pool, Weights(4, 1.2, 2)), abs=1e-9)


def test_every_ratio_is_tried_once():
    for mode, count in (("all", 241), ("dense_sparse", 17)):
        tried = list(grid(mode))
        ratios = {tuple(round(value / max(three(one)), 9) for value in three(one)) for one in tried}
        assert len(tried) == len(ratios) == count
        assert all(1.0 in three(one) for one in tried)
        assert any(three(one) == (0, 1, 0) for one in tried)
    assert not any(one.multi_vector for one in grid("dense_sparse"))


@pytest.mark.parametrize("mode", ["all", "dense_sparse"])
@pytest.mark.parametrize("start", [Weights(1, 0, 0), Weights(0.15, 0.5, 0), Weights(0, 1, 0)])
def test_tuned_weights_are_the_best_of_the_grid(mode, start):
    pool = pool_of(random_task(), random_task(seed=1))
    weights, value = tune(pool, start, mode)
    assert value == mean_ndcg(pool, weights) >= mean_ndcg(pool, start)
    assert value >= max(mean_ndcg(pool, one) for one in grid(mode)) - 1e-9
    assert mode == "all" or weights.multi_vector == 0
    assert value > mean_ndcg(pool, Weights(1, 0, 0)) + 0.02, "the lexical part is the best here, so it must be used"


def test_weights_that_are_as_good_as_any_stay():
    pool = [gather({part: {"q": {"c": 1.0}} for part in PARTS}, {"q": {"c": 1}})]
    assert tune(pool, Weights(0.7, 0.2, 0.1), "all") == (Weights(0.7, 0.2, 0.1), 1.0)


def test_a_curve_passes_through_the_weights_of_the_run():
    pool, used = pool_of(random_task()), Weights(1, 0.3, 0)
    found = {curve.weight: curve for curve in curves(pool, used)}
    assert set(found) == set(PARTS)
    for part, curve in found.items():
        weights = [weight for weight, _ in curve.points]
        assert weights == sorted(set(weights))
        assert curve.used == getattr(used, part)
        assert dict(curve.points)[curve.used] == mean_ndcg(pool, used)
    assert dict(found["dense"].points)[0.0] == mean_ndcg(pool, Weights(0, 1, 0))
    assert dict(found["multi_vector"].points)[2.0] == mean_ndcg(pool, Weights(1, 0.3, 2)), (
        "a weight of 0 varies around 1"
    )


def test_a_curve_leaves_out_the_point_where_nothing_is_weighed():
    pool = pool_of(random_task())
    dense, *_ = curves(pool, Weights(1, 0, 0))
    assert min(weight for weight, _ in dense.points) > 0


def fused(weights: Weights, **changes: float) -> dict:
    run = {
        query: {
            name: sum(getattr(weights, part) * COMPONENTS[part][query][name] for part in PARTS)
            for name in COMPONENTS["dense"][query]
        }
        for query in ("q", "r")
    }
    for name, score in changes.items():
        run["q"][name] = score
    return run


def test_a_right_fusion_has_no_error_and_a_wrong_one_has():
    weights = Weights(1, 0.3, 1)
    assert fusion_error(fused(weights), COMPONENTS, weights) < 1e-12
    # b is 0.5 + 0.6 + 0.25 = 1.35; without its lexical part it is 0.75
    assert fusion_error(fused(weights, b=0.75), COMPONENTS, weights) == pytest.approx(0.6 / 1.35)
    assert fusion_error(fused(weights), COMPONENTS, Weights(1, 1, 1)) > 0.1
    rounded = fused(weights, b=1.35 * (1 + 1e-7))
    assert fusion_error(rounded, COMPONENTS, weights) == pytest.approx(1e-7, rel=0.01)


def test_every_wrong_fusion_of_three_parts_is_seen():
    """Parts that are swapped, left out or ranked before they are added."""
    weights = Weights(1, 0.3, 0.5)
    for permutation in itertools.permutations((1, 0.3, 0.5)):
        if permutation != three(weights):
            assert fusion_error(fused(Weights(*permutation)), COMPONENTS, weights) > 0.01


def test_terms_that_cancel_do_not_magnify_rounding():
    components = {"dense": {"q": {"a": 0.5}}, "sparse": {"q": {"a": 0.0}}, "multi_vector": {"q": {"a": -0.5}}}
    assert fusion_error({"q": {"a": 1e-8}}, components, Weights(1, 0.3, 1)) == pytest.approx(1e-8)


def test_documents_that_a_probe_lacks_are_not_compared():
    components = {**COMPONENTS, "sparse": {}}
    assert fusion_error(fused(Weights(), a=99.0), components, Weights()) is None


def test_of_equally_good_weights_the_nearest_to_the_preset_win():
    # The relevant document leads as soon as its multi-vector score has some weight: nearly every ratio is perfect.
    scores = np.zeros((3, 1, 2), np.float32)
    scores[0, 0] = [0.5, 0.6]
    scores[2, 0] = [0.9, 0.1]
    rows = (np.array([0], dtype=np.intp),)
    pool = [Candidates(("q",), rows, scores, np.array([[1, 0]], np.float32), np.array([1.0]))]
    best, value = tune(pool, Weights(1, 0.3, 0), "all")
    assert value == 1
    # 0.5 + 0.9·w > 0.6 + 0.1·w from w = 0.125 on, and the next step of the grid is not far from there
    assert 0.125 < best.multi_vector / best.dense <= 0.2
    assert best.sparse / best.dense == pytest.approx(0.3, abs=0.05)
