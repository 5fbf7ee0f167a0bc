"""Groups, their mean, all queries together, and differences to the baseline: small numbers, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from m3_vdb.evaluation.significance import PERMUTATIONS
from m3_vdb.evaluation.summary import Measured, summarise

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
