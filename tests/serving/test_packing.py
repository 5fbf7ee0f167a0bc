from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.encoding.packing import CALL_COST, DEFAULT_BATCH_TOKENS, pack
from m3_vdb.errors import ConfigError

LENGTHS = st.lists(st.integers(2, 600), max_size=60).map(lambda values: np.array(values, dtype=np.int32))


def padded_tokens(lengths, batches) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches)


def cost(lengths, batches, call_cost) -> int:
    return padded_tokens(lengths, batches) + call_cost * len(batches)


def partitions(items):
    """Every way to put the items into groups."""
    if not items:
        yield []
        return
    first, *others = items
    for groups in partitions(others):
        yield [[first], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [first, *group], *groups[i + 1 :]]


def fits(lengths, rows, batch_tokens) -> bool:
    return len(rows) == 1 or len(rows) * int(lengths[rows].max()) <= batch_tokens


@given(LENGTHS, st.integers(1, 2000), st.integers(0, 200), st.none() | st.integers(1, 9))
def test_every_text_is_in_one_batch_within_the_limits(lengths, batch_tokens, call_cost, batch_size):
    batches = pack(lengths, batch_tokens=batch_tokens, call_cost=call_cost, batch_size=batch_size)
    assert sorted(int(i) for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        assert 1 <= len(rows) <= (batch_size or len(lengths))
        assert fits(lengths, rows, batch_tokens), "a text that alone exceeds the budget is alone"
    longest = [int(lengths[rows].max()) for rows in batches]
    assert longest == sorted(longest, reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=7).map(lambda values: np.array(values, dtype=np.int32)),
    st.integers(1, 120),
    st.integers(0, 50),
)
def test_no_grouping_at_all_costs_less(lengths, batch_tokens, call_cost):
    allowed = (
        groups
        for groups in partitions(list(range(len(lengths))))
        if all(fits(lengths, rows, batch_tokens) for rows in groups)
    )
    least = min(cost(lengths, groups, call_cost) for groups in allowed)
    batches = pack(lengths, batch_tokens=batch_tokens, call_cost=call_cost)
    assert cost(lengths, batches, call_cost) == least


@pytest.mark.parametrize("longest", [512, 8192])
@pytest.mark.parametrize("count", [200, 700, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_padding_stays_within_fifteen_percent_on_mixed_lengths(longest, count, seed):
    draws = np.random.default_rng(seed).lognormal(mean=np.log(120), sigma=1.2, size=count)
    lengths = np.clip(draws, 10, longest).astype(np.int32)
    assert lengths.max() > 4 * np.median(lengths), "the lengths must be mixed"
    batches = pack(lengths)
    assert padded_tokens(lengths, batches) / lengths.sum() <= 1.15
    assert len(batches) < count / 3, "texts do share batches"


def test_no_texts_make_no_batches():
    assert pack(np.zeros(0, dtype=np.int32)) == []


@pytest.mark.parametrize("length", [2, DEFAULT_BATCH_TOKENS, 8192])
def test_one_text_is_one_batch(length):
    (rows,) = pack(np.array([length], dtype=np.int32))
    assert rows.tolist() == [0]


def test_equal_lengths_fill_batches_to_the_budget_and_need_no_padding():
    lengths = np.full(100, 64, dtype=np.int32)
    batches = pack(lengths)
    assert len(batches) == -(-100 * 64 // DEFAULT_BATCH_TOKENS) == 2
    assert padded_tokens(lengths, batches) == lengths.sum()


def test_a_call_is_saved_only_if_the_padding_costs_less():
    # Together: 2 · 50 = 100 tokens. Apart: 10 + 50 tokens and one more call.
    lengths = np.array([10, 50], dtype=np.int32)
    assert len(pack(lengths, call_cost=39)) == 2
    assert len(pack(lengths, call_cost=41)) == 1
    assert len(pack(np.array([50 - CALL_COST + 1, 50], dtype=np.int32))) == 1


def test_a_budget_below_one_token_is_refused():
    with pytest.raises(ConfigError, match="batch_tokens=0: at least 1"):
        pack(np.array([3], dtype=np.int32), batch_tokens=0)
