from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m3_vdb.encoding import pooling
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE, Packed

TOKEN_BATCHES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int64, shape, elements=st.integers(0, 9)),
        hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])),
    )
)


def ids_of(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def weights_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def as_dicts(packed: Packed) -> list[dict[int, float]]:
    bounds = zip(packed.offsets[:-1], packed.offsets[1:], strict=True)
    return [dict(zip(packed.ids[a:b].tolist(), packed.values[a:b].tolist(), strict=True)) for a, b in bounds]


def test_a_repeated_id_keeps_its_largest_weight():
    packed = pooling.pool_sparse(ids_of([7, 9, 7, 7]), weights_of([0.5, 1.0, 2.0, 0.25]))
    assert packed.ids.tolist() == [7, 9]
    assert packed.values.tolist() == [2.0, 1.0]
    assert packed.offsets.tolist() == [0, 2]


def test_special_ids_never_get_a_weight():
    packed = pooling.pool_sparse(ids_of([0, 3, 8, 2, 1]), weights_of([9, 9, 0.5, 9, 9]))
    assert as_dicts(packed) == [{8: 0.5}]


def test_weights_that_are_not_positive_are_dropped():
    packed = pooling.pool_sparse(ids_of([5, 6, 7]), weights_of([0.0, -1.0, 0.125]))
    assert as_dicts(packed) == [{7: 0.125}]


def test_rows_stay_apart_and_may_be_empty():
    packed = pooling.pool_sparse(ids_of([0, 2, 1], [9, 5, 2], [0, 2, 1], [5, 4, 5]), np.full((4, 3), 0.5, np.float32))
    assert as_dicts(packed) == [{}, {5: 0.5, 9: 0.5}, {}, {4: 0.5, 5: 0.5}]


def test_ids_are_int32_and_weights_float32():
    packed = pooling.pool_sparse(ids_of([5]), weights_of([1.0]))
    assert (packed.ids.dtype, packed.values.dtype, packed.offsets.dtype) == (np.int32, np.float32, np.int64)


@given(TOKEN_BATCHES)
def test_pool_sparse_equals_a_loop_over_dictionaries(batch):
    input_ids, weights = batch
    expected = []
    for row, row_weights in zip(input_ids.tolist(), weights.tolist(), strict=True):
        best: dict[int, float] = {}
        for token_id, weight in zip(row, row_weights, strict=True):
            if token_id > 3 and weight > 0:
                best[token_id] = max(weight, best.get(token_id, 0.0))
        expected.append(dict(sorted(best.items())))
    packed = pooling.pool_sparse(input_ids, weights)
    assert as_dicts(packed) == expected
    assert [list(row) for row in as_dicts(packed)] == [list(row) for row in expected], "ids ascend"


def test_multi_vector_drops_padding_and_keeps_the_end_of_the_text():
    vectors = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    packed = pooling.pool_multi_vector(vectors, np.array([4, 2], np.int32))
    assert packed.values.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert packed.offsets.tolist() == [0, 3, 4]


def test_inserted_starts_have_no_row():
    vectors = np.arange(20, dtype=np.float32).reshape(2, 5, 2)
    packed = pooling.pool_multi_vector(
        vectors, np.array([6, 4], np.int32), ids_of([0, 7, 8, 0, 9, 2], [0, 7, 0, 2, 1, 1])
    )
    assert packed.values.tolist() == [[0, 1], [2, 3], [6, 7], [8, 9], [10, 11], [14, 15]]
    assert packed.offsets.tolist() == [0, 4, 6]


def test_the_dense_vector_is_the_average_state_of_all_starts_by_hand():
    hidden = np.full((3, 4, 2), 99, np.float32)
    hidden[0, 0] = [6, 8]  # one <s>: its own direction
    hidden[1, 0], hidden[1, 2] = [1, 6], [5, 2]  # two: (3, 4)
    hidden[2, 0], hidden[2, 1] = [0, -2], [3, 5]  # what looks like one in the padding does not count
    dense = pooling.pool_dense(hidden, ids_of([0, 5, 2, 1], [0, 5, 0, 2], [0, 0, 2, 0]), ids_of(*[[1] * 3 + [0]] * 3))
    np.testing.assert_allclose(dense, np.array([[0.6, 0.8], [0.6, 0.8], [3 / 18**0.5, 3 / 18**0.5]]), atol=1e-6)
    assert dense.dtype == np.float32


@given(
    hnp.arrays(np.float32, (3, 6, 4), elements=st.floats(-4, 4, width=16)),
    hnp.arrays(np.int64, (3, 6), elements=st.integers(0, 3)),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_the_dense_vector_equals_a_loop(hidden, input_ids, lengths):
    input_ids[:, 0] = 0
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int64)
    for row, dense in enumerate(pooling.pool_dense(hidden, input_ids, mask)):
        own = [hidden[row, i].astype(np.float64) for i in range(lengths[row]) if input_ids[row, i] == 0]
        total = np.sum(own, axis=0)
        if np.linalg.norm(total) > 1e-3:
            np.testing.assert_allclose(dense, total / np.linalg.norm(total), atol=1e-4)


def test_a_vector_of_zero_stays_zero():
    dense = pooling.pool_dense(np.zeros((1, 2, 3), np.float32), ids_of([0, 2]), ids_of([1, 1]))
    assert dense.tolist() == [[0, 0, 0]]


@given(st.data())
def test_join_restores_the_order_of_the_input_for_any_batching(data):
    counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    n = len(counts)
    order = np.array(data.draw(st.permutations(range(n))))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
    texts = [np.arange(count, dtype=np.float32) + 100 * i for i, count in enumerate(counts)]
    parts = []
    for rows in np.split(order, cuts):
        values = np.concatenate([texts[i] for i in rows])
        offsets = np.concatenate([[0], np.cumsum([counts[i] for i in rows])])
        parts.append(Packed(values, offsets, values.astype(np.int32)))
    joined = pooling.join(parts, order)
    assert joined.values.tolist() == np.concatenate(texts).tolist()
    assert joined.ids.tolist() == joined.values.tolist()
    assert np.diff(joined.offsets).tolist() == counts


def finite_outputs() -> dict[str, np.ndarray]:
    """Texts of 2 and 4 tokens, padded to 4."""
    return {
        DENSE: np.ones((2, 3), np.float32),
        SPARSE: np.ones((2, 4), np.float32),
        MULTI_VECTOR: np.ones((2, 3, 2), np.float32),
    }


LENGTHS = np.array([2, 4], np.int32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "cell"), [(SPARSE, (0, 2)), (SPARSE, (0, 3)), (MULTI_VECTOR, (0, 1, 0))])
def test_padding_may_hold_anything(name, cell, value):
    raw = finite_outputs()
    assert not pooling.not_finite(raw, LENGTHS).any()
    raw[name][cell] = value
    assert not pooling.not_finite(raw, LENGTHS).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "cell"),
    [
        (DENSE, (1, 2)),
        (SPARSE, (1, 3)),
        (SPARSE, (0, 1)),
        (MULTI_VECTOR, (1, 2, 1)),
        (MULTI_VECTOR, (0, 0, 1)),
    ],
)
def test_a_real_cell_that_is_not_finite_is_found_in_its_row(name, cell, value):
    raw = finite_outputs()
    raw[name][cell] = value
    assert pooling.not_finite(raw, LENGTHS).tolist() == [cell[0] == 0, cell[0] == 1]


def test_infinities_that_cancel_out_are_found():
    raw = {SPARSE: np.array([[1.0, 1.0, 1.0, 1.0], [np.inf, 0.0, -np.inf, 0.0]], np.float32)}
    assert pooling.not_finite(raw, LENGTHS).tolist() == [False, True]
