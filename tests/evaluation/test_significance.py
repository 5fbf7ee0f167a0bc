"""Intervals and p-values against exact enumeration, the normal approximation and SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from m3_vdb.evaluation import significance
from m3_vdb.evaluation.significance import PERMUTATIONS, bootstrap, randomization


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


def test_an_interval_of_many_queries_is_that_of_the_normal_distribution():
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


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
def test_p_values_are_those_of_all_sign_patterns(n):
    differences = np.random.default_rng(n).normal(0.3, 0.4, size=n)
    # A share of 10,000 random patterns has a standard error of at most 0.005.
    assert randomization(differences[:, None])[0] == pytest.approx(exact_p(differences), abs=0.02)


def test_p_values_with_many_ties_are_those_of_all_sign_patterns():
    differences = np.array([0.1, 0.1, 0.1, 0.1, -0.1, 0.0, 0.0, 0.2, 0.7 - 0.6])
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
