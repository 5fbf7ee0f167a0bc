from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb import scoring
from m3_vdb.errors import ConfigError
from m3_vdb.types import M3Embedding, M3Embeddings, Scores, SparseVector
from m3_vdb.weights import PRESETS, Weights

NUMBERS = st.floats(2.0**-6, 100, width=32)
PARTS = st.builds(Scores, dense=st.floats(-1, 1), sparse=st.floats(0, 1000), multi_vector=st.floats(-1, 1))
LEXICAL = st.dictionaries(st.integers(4, 40), NUMBERS, max_size=12)


def rows(*values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def sparse(weights: dict[int, float]) -> SparseVector:
    ids = sorted(weights)
    return SparseVector(np.array(ids, np.int32), np.array([weights[i] for i in ids], np.float32))


@st.composite
def unit_rows(draw, dim=4):
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 6))
    values = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_dense_is_the_inner_product():
    assert scoring.dense_score(rows((0.6, 0.8))[0], rows((0.8, 0.6))[0]) == pytest.approx(0.48 + 0.48)
    assert scoring.dense_score(rows((1, 0))[0], rows((-1, 0))[0]) == -1


def test_lexical_sums_products_over_common_ids_alone():
    query, passage = sparse({5: 0.5, 7: 2.0, 9: 1.0}), sparse({7: 3.0, 9: 0.25, 11: 100.0})
    assert scoring.lexical_score(query, passage) == 2.0 * 3.0 + 1.0 * 0.25


def test_lexical_of_an_empty_text_is_zero():
    assert scoring.lexical_score(sparse({}), sparse({7: 3.0})) == 0
    assert scoring.lexical_score(sparse({}), sparse({})) == 0


def test_multi_vector_is_the_mean_over_query_rows_of_the_best_passage_row():
    query, passage = rows((1, 0), (0, 1)), rows((0.6, 0.8), (-1, 0), (0, -1))
    # row (1, 0): max(0.6, -1, 0) = 0.6; row (0, 1): max(0.8, 0, -1) = 0.8
    assert scoring.multi_vector_score(query, passage) == pytest.approx((0.6 + 0.8) / 2)


def test_multi_vector_divides_by_the_rows_of_the_query_and_not_of_the_passage():
    query, passage = rows((1, 0)), rows((0.6, 0.8), (0, 1), (0, 1))
    assert scoring.multi_vector_score(query, passage) == pytest.approx(0.6)
    assert scoring.multi_vector_score(passage, query) == pytest.approx(0.6 / 3)


def test_multi_vector_keeps_negative_similarities():
    # (1, 0): max(-1, -0.6) = -0.6; (0, 1): max(0, -0.8) = 0. A floor of 0 would give 0.
    assert scoring.multi_vector_score(rows((1, 0), (0, 1)), rows((-1, 0), (-0.6, -0.8))) == pytest.approx(-0.3)


def test_hybrid_is_the_weighted_sum_of_raw_scores():
    parts = Scores(dense=0.5, sparse=20.0, multi_vector=-0.25)
    assert scoring.hybrid_score(parts, Weights(1, 0.3, 1)) == pytest.approx(0.5 + 6.0 - 0.25)
    assert scoring.hybrid_score(parts, PRESETS["long_document"]) == pytest.approx(0.075 + 10.0 - 0.0875)


def test_score_of_a_pair_has_all_three_parts():
    query = M3Embedding(rows((0.6, 0.8))[0], sparse({4: 2.0}), rows((1, 0)))
    passage = M3Embedding(rows((1, 0))[0], sparse({4: 0.5, 5: 9.0}), rows((0, 1), (-1, 0)))
    parts = scoring.score(query, passage)
    assert (parts.dense, parts.sparse, parts.multi_vector) == (pytest.approx(0.6), 1.0, 0.0)


@pytest.mark.parametrize("side", ["query", "passage"])
@pytest.mark.parametrize("part", ["dense", "sparse", "multi_vector"])
def test_score_without_a_part_says_which_side_lacks_it(side, part):
    full = {"dense": rows((1, 0))[0], "sparse": sparse({4: 1.0}), "multi_vector": rows((1, 0))}
    whole, lacking = M3Embedding(**full), M3Embedding(**{**full, part: None})
    pair = (lacking, whole) if side == "query" else (whole, lacking)
    with pytest.raises(ValueError, match=f"the {side} lacks a part"):
        scoring.score(*pair)


def test_score_scores_every_passage_in_order():
    passages = M3Embeddings(
        token_counts=np.array([3, 2], np.int32),
        truncated=np.zeros(2, bool),
        dense=rows((0, 1), (1, 0)),
        sparse_ids=np.array([4, 9], np.int32),
        sparse_weights=np.array([0.5, 3.0], np.float32),
        sparse_offsets=np.array([0, 2, 2]),
        multi_vector=rows((1, 0), (0, 1), (-1, 0)),
        multi_vector_offsets=np.array([0, 2, 3]),
    )
    query = M3Embedding(rows((0.6, 0.8))[0], sparse({4: 2.0, 9: 1.0}), rows((1, 0)))
    first, second = (scoring.score(query, passage) for passage in passages)
    assert (first.dense, first.sparse, first.multi_vector) == (pytest.approx(0.8), 4.0, 1.0)
    assert (second.dense, second.sparse, second.multi_vector) == (pytest.approx(0.6), 0.0, -1.0)


@given(LEXICAL, LEXICAL)
def test_lexical_equals_a_dictionary_sum_and_is_symmetric(left, right):
    expected = sum(np.float64(np.float32(left[i])) * np.float32(right[i]) for i in left.keys() & right.keys())
    assert scoring.lexical_score(sparse(left), sparse(right)) == pytest.approx(expected, rel=1e-5)
    assert scoring.lexical_score(sparse(right), sparse(left)) == pytest.approx(expected, rel=1e-5)


@given(LEXICAL, LEXICAL)
def test_lexical_without_overlap_is_zero(left, right):
    apart = {token_id + 100: weight for token_id, weight in right.items()}
    assert scoring.lexical_score(sparse(left), sparse(apart)) == 0


@given(unit_rows(), unit_rows())
def test_multi_vector_lies_between_minus_one_and_one(query, passage):
    assert -1 - 1e-6 <= scoring.multi_vector_score(query, passage) <= 1 + 1e-6


@given(unit_rows())
def test_multi_vector_of_a_text_with_itself_is_one(vectors):
    assert scoring.multi_vector_score(vectors, vectors[::-1]) == pytest.approx(1, abs=1e-6)


@given(unit_rows(), unit_rows(), unit_rows())
def test_another_passage_row_never_lowers_the_multi_vector_score(query, passage, more):
    before = scoring.multi_vector_score(query, passage)
    assert scoring.multi_vector_score(query, np.concatenate([passage, more])) >= before - 1e-6


@given(PARTS, st.tuples(NUMBERS, NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS, NUMBERS), NUMBERS)
def test_hybrid_is_linear_in_the_weights(parts, left, right, factor):
    mixed = Weights(*(a + factor * b for a, b in zip(left, right, strict=True)))
    separate = scoring.hybrid_score(parts, Weights(*left)) + factor * scoring.hybrid_score(parts, Weights(*right))
    assert scoring.hybrid_score(parts, mixed) == pytest.approx(separate, rel=1e-9, abs=1e-6)


def test_presets_are_those_of_the_paper():
    paper = {
        "default": Weights(1, 0.3, 1),
        "dense_sparse": Weights(1, 0.3, 0),
        "long_document": Weights(0.15, 0.5, 0.35),
        "long_dense_sparse": Weights(0.2, 0.8, 0),
    }
    assert paper == PRESETS
    assert Weights() == PRESETS["default"]


@pytest.mark.parametrize("name", PRESETS)
def test_weights_parse_a_preset_by_name(name):
    assert Weights.parse(name) is PRESETS[name]


def test_weights_parse_three_numbers():
    assert Weights.parse("1, .25,0") == Weights(1, 0.25, 0)


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4,5", "a,b,c", "Default"])
def test_weights_refuse_what_is_neither_preset_nor_three_or_four_numbers(text):
    with pytest.raises(ConfigError, match=r"expected three numbers .* or one of default, dense_sparse"):
        Weights.parse(text)


@pytest.mark.parametrize("text", ["-1,1,1", "nan,1,1", "inf,0,0", "0,0,0"])
def test_weights_refuse_values_that_rank_nothing(text):
    with pytest.raises(ConfigError, match="at least 0 and not all 0"):
        Weights.parse(text)
