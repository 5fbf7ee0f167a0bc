"""Intervals and p-values against exact enumeration, the normal approximation and SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from m3_vdb.evaluation import significance
from m3_vdb.evaluation.significance import PERMUTATIONS, Measured, bootstrap, randomization, summarise


def values(n: int, seed: int = 0, columns: int = 1) -> np.ndarray:
    """Something like nDCG: many ones, some zeros, the rest between."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0.6, 0.5, size=(n, columns)), 0, 1)


def test_an_interval_is_that_of_scipy():
    sample = values(80)
    low, high = bootstrap([sample])
    expected = scipy.stats.bootstrap(
        (sample[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # The ends rest on 50 of 2,000 samples: their own error is about 0.05 of a width, here 0.004.
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_an_interval_of_many_queries_is_the_normal_one():
    sample = values(4000)
    low, high = bootstrap([sample])
    error = 1.96 * sample.std() / np.sqrt(len(sample))
    assert low == pytest.approx(sample.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(sample.mean() + error, abs=0.1 * error)


def test_what_does_not_vary_has_no_width():
    for groups in (
        [np.full((30, 2), 0.25)],
        [np.array([[0.25, 0.25]])],
        [np.full((30, 2), 0.25), np.full((2, 2), 0.25)],
    ):
        low, high = bootstrap(groups)
        assert low == pytest.approx([0.25, 0.25], abs=1e-12)
        assert high == pytest.approx([0.25, 0.25], abs=1e-12)


def test_one_good_and_one_bad_query_may_be_drawn_twice_each():
    low, high = bootstrap([np.array([[0.0], [1.0]])])
    assert (low[0], high[0]) == (0, 1)


def test_every_group_counts_the_same_and_is_drawn_on_its_own():
    many, few = np.zeros((5000, 1)), values(20, seed=3)
    low, high = bootstrap([many, few])
    alone = bootstrap([few])
    # The big group adds 0 to every sample, so that half of the small one's interval remains.
    assert (high - low)[0] == pytest.approx((alone[1] - alone[0])[0] / 2, rel=0.1)
    assert low[0] < few.mean() / 2 < high[0]


def test_groups_keep_their_levels():
    """Two groups far apart, each without variance: drawn as one heap, their mean would vary."""
    low, high = bootstrap([np.zeros((10, 1)), np.ones((10, 1))])
    assert (low[0], high[0]) == (0.5, 0.5)


def test_the_same_values_give_the_same_interval_also_in_pieces(monkeypatch):
    sample = values(50, columns=3)
    whole = bootstrap([sample]), randomization(sample - 0.5)
    monkeypatch.setattr(significance, "_NUMBERS", 170)  # three rows at once
    pieces = bootstrap([sample]), randomization(sample - 0.5)
    np.testing.assert_allclose(whole[0], pieces[0], rtol=1e-12)
    np.testing.assert_array_equal(whole[1], pieces[1])


def exact_p(differences: np.ndarray) -> float:
    """The share of all sign patterns that are at least as far from 0."""
    sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))])
    return float((np.abs(sums) >= abs(differences.sum()) - 1e-9).mean())


TIES = np.array([0.1, 0.1, 0.1, 0.1, -0.1, 0.0, 0.0, 0.2, 0.7 - 0.6])


@pytest.mark.parametrize(
    "differences", [*(np.random.default_rng(n).normal(0.3, 0.4, size=n) for n in (1, 2, 3, 6, 10)), TIES], ids=len
)
def test_p_values_are_those_of_all_sign_patterns(differences):
    # A share of 10,000 random patterns has a standard error of at most 0.005.
    assert randomization(differences[:, None])[0] == pytest.approx(exact_p(differences), abs=0.02)


def test_a_p_value_is_that_of_scipy():
    a, b = values(25, seed=1)[:, 0], values(25, seed=2)[:, 0]
    expected = scipy.stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    ).pvalue
    assert randomization((a - b)[:, None])[0] == pytest.approx(expected, abs=0.02)


def test_a_p_value_says_how_often_chance_does_as_well():
    differences = np.random.default_rng(5).normal(0, 1, size=(40, 200))
    found = randomization(differences)
    # Where there is no difference, p-values are uniform: 200 of them stray by less than 0.1 from the diagonal.
    assert np.abs(np.sort(found) - np.linspace(0, 1, 200)).max() < 0.1


def test_neither_sign_nor_company_matters():
    differences = values(30, columns=2) - 0.45
    found = randomization(differences)
    np.testing.assert_array_equal(randomization(-differences), found)
    np.testing.assert_array_equal(randomization(differences[:, :1]), found[:1])


def test_equal_systems_have_p_one_and_unlike_ones_the_smallest():
    found = randomization(np.stack([np.zeros(40), np.ones(40)], axis=1))
    assert found.tolist() == [1.0, 1 / (PERMUTATIONS + 1)]


# Groups, their mean, all queries together, and differences to the baseline: small numbers, by hand.

SYSTEMS, MEASURES = ("all", "bm25"), ("nDCG@10", "RR@10")


def measured(collection: str, lang: str, documents: int, **values) -> Measured:
    return Measured(
        collection, lang, documents, {name: dict(zip(MEASURES, rows, strict=True)) for name, rows in values.items()}
    )


GROUPS = [
    measured(
        "help", "de", 50, all=([1.0, 0.5, 0.0, 0.5], [1.0, 1.0, 0.0, 0.5]), bm25=([0.5, 0.5, 0.5, 0.5], [0.0] * 4)
    ),
    measured("help", "en", 50, all=([0.75], [0.25]), bm25=([0.25], [0.5])),
]


def test_figures_of_two_groups():
    found = summarise(GROUPS, SYSTEMS, MEASURES, "bm25")
    assert [(group.collection, group.lang, group.documents, group.queries) for group in found.groups] == [
        ("help", "de", 50, 4),
        ("help", "en", 50, 1),
    ]
    assert [group.figures["all"]["nDCG@10"].value for group in found.groups] == [0.5, 0.75]
    assert found.mean["all"]["nDCG@10"].value == pytest.approx((0.5 + 0.75) / 2)
    assert found.pooled["all"]["nDCG@10"].value == pytest.approx(2.75 / 5)
    assert found.mean["bm25"]["RR@10"].value == pytest.approx(0.25)


def test_intervals_hold_their_value_and_one_query_has_none():
    found = summarise(GROUPS, SYSTEMS, MEASURES, "bm25")
    for figures in (found.mean, found.pooled, *(group.figures for group in found.groups)):
        for figure in (figures[system][measure] for system in SYSTEMS for measure in MEASURES):
            assert figure.low <= figure.value <= figure.high
    one = found.groups[1].figures["all"]["nDCG@10"]
    assert (one.low, one.high) == (0.75, 0.75)
    several = found.groups[0].figures["all"]["nDCG@10"]
    assert several.low < several.value < several.high


def test_differences_count_every_query_once():
    found = summarise(GROUPS, SYSTEMS, MEASURES, "bm25").comparisons
    assert set(found) == {"all"}
    gain = found["all"]["nDCG@10"]
    assert gain.delta == pytest.approx((0.5 + 0 - 0.5 + 0 + 0.5) / 5)
    assert (gain.better, gain.worse) == (2, 1)
    # Differences 0.5, -0.5, 0.5 of either sign: the sum is at least 0.5 away from 0 in any case.
    assert gain.p_value == 1
    assert gain.low < 0 < gain.delta < gain.high
    assert (found["all"]["RR@10"].better, found["all"]["RR@10"].worse) == (3, 1)


def test_the_sign_of_a_difference_is_system_minus_baseline():
    found = summarise(GROUPS, SYSTEMS, MEASURES, "all").comparisons["bm25"]["nDCG@10"]
    assert found.delta == pytest.approx(-0.1)
    assert (found.better, found.worse) == (1, 2)


def test_a_better_system_is_seen_and_an_equal_one_is_not():
    base = np.random.default_rng(0).uniform(0, 0.5, size=60)
    rows = {"all": (base + 0.2, base), "bm25": (base, base)}
    found = summarise([measured("c", "", 1, **rows)], SYSTEMS, MEASURES, "bm25").comparisons["all"]
    assert found["nDCG@10"].p_value == pytest.approx(1 / (PERMUTATIONS + 1))
    assert (found["nDCG@10"].low, found["nDCG@10"].high) == pytest.approx((0.2, 0.2))
    assert (found["RR@10"].p_value, found["RR@10"].better, found["RR@10"].worse) == (1, 0, 0)


def test_the_baseline_alone_is_compared_with_nothing():
    assert summarise(GROUPS, ("all",), MEASURES, "all").comparisons == {}
