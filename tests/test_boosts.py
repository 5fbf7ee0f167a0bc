"""Boosts by hand, and what holds for any payload."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.boosts import Boost, boost_score, read_boosts
from m3_vdb.errors import ConfigError
from m3_vdb.filters import field_values

NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
BOOSTS = ["flag:0.1", "rating:0.02", "clicks:0.2:1000", "at:0.4:30d"]
BY_HAND = [
    ({"flag": True}, 0.1),
    ({"flag": False}, 0.0),
    ({"flag": "true"}, 0.0),
    ({"flag": 3}, 0.3),
    ({"rating": 4.5}, 0.09),
    ({"rating": -1}, -0.02),
    ({"clicks": 1000}, 0.1),
    ({"clicks": [3000]}, 0.15),  # 3000 / 4000
    ({"clicks": -1000}, 0.0),  # not a division by zero
    ({"clicks": True}, 0.0),
    ({"at": "2026-11-30"}, 0.4),
    ({"at": "2026-10-31"}, 0.2),  # 30 days
    ({"at": ["2026-10-01T02:00:00+02:00"]}, 0.1),  # 60 days
    ({"at": "2026-12-30"}, 0.2),  # as far in the future
    ({"at": "soon"}, 0.0),
    ({"at": 2026}, 0.0),
    ({"flag": True, "clicks": 1000, "at": "2026-11-30", "rating": 5}, 0.7),
    ({"flag": [True, True], "rating": [1, 2], "clicks": None, "at": []}, 0.0),
    ({"rating": 1e31}, 0.0),
    ({}, 0.0),
]


@pytest.mark.parametrize(("payload", "added"), BY_HAND)
def test_what_a_payload_adds(payload, added):
    assert boost_score(payload, read_boosts(BOOSTS), NOW) == pytest.approx(added)


def test_a_field_of_an_object_is_named_with_a_dot():
    (boost,) = read_boosts("meta.official:0.5")
    assert boost_score({"meta": {"official": True}}, [boost], NOW) == 0.5
    assert boost_score({"meta.official": True}, [boost], NOW) == 0.5


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates().map(str) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(VALUES, st.floats(-1000, 1000), st.sampled_from([5.0, timedelta(days=3)]))
def test_with_half_a_boost_stays_between_nothing_and_its_weight(value, weight, half):
    added = boost_score({"f": value}, [Boost("f", weight, half)], NOW)
    assert min(weight, 0) <= added <= max(weight, 0)
    assert added == 0 or field_values({"f": value}, "f")
    nearer = boost_score({"f": value}, [Boost("f", abs(weight), half)], NOW)
    assert boost_score({"f": value}, [Boost("f", abs(weight), half), Boost("g", 1)], NOW) == nearer


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_what_is_newer_or_larger_adds_more(first, second):
    for boost, value in (
        (Boost("f", 1, half="30d"), lambda days: str((NOW - timedelta(days=days)).date())),
        (Boost("f", 1, half=7), lambda number: -number),
    ):
        one, other = (boost_score({"f": value(number)}, [boost], NOW) for number in (first, second))
        assert (one >= other) if first <= second else (one <= other)


def test_text_is_read_as_a_boost():
    assert read_boosts(BOOSTS[2:]) == (Boost("clicks", 0.2, 1000), Boost("at", 0.4, timedelta(days=30)))
    assert read_boosts("a:b:-1.5e-1:12h") == (Boost("a:b", -0.15, timedelta(hours=12)),)
    assert read_boosts(Boost("f", 1, "2w")) == (Boost("f", 1, timedelta(days=14)),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("official", r"boost 'official': expected FIELD:WEIGHT or FIELD:WEIGHT:HALF, such as"),
        ("official:much", r"boost 'official:much': expected FIELD:WEIGHT"),
        ("at:0.1:30 years", r"boost 'at': half='30 years', expected a number above 0, or for dates a duration"),
        ("at:0.1:0d", r"boost 'at': half='0d'"),
        ("clicks:0.1:-5", r"boost 'clicks': half='-5'"),
        ("clicks:2000", r"boost 'clicks': weight=2000\.0, expected a number within ±1000"),
        ("$clicks:1", r"boost field '\$clicks': fields whose name begins with \$"),
        ([3], r"boost 3: expected FIELD:WEIGHT"),
    ],
)
def test_what_cannot_be_read_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        read_boosts(given)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "0.1", True])
def test_a_weight_is_a_number(weight):
    with pytest.raises(ConfigError, match="expected a number within"):
        Boost("f", weight)
