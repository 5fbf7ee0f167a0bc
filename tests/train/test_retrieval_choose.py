"""Which results become negatives, on results that are written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from m3_vdb.types import Document
from train.retrieval.choose import Found, choose, score_limit
from train.retrieval.config import MineOptions
from train.retrieval.data import Corpus

CORPUS = Corpus([Document("", f"passage {i}") for i in range(100)])
TOP = MineOptions(first=1, last=100, sample="top", ratio=None)


def found(*rows, scores=None, limit=math.inf):
    values = scores if scores is not None else np.linspace(1, 0.1, len(rows))
    return Found(np.array(rows, dtype=np.int64), np.array(values, dtype=np.float32), limit)


def pick(*results, options=TOP, skipped=(), wanted=100, key="row", corpus=CORPUS):
    rows = np.array(skipped, dtype=np.int64)
    return choose(list(results), corpus, skipped=rows, key=key, wanted=wanted, options=options)


@pytest.mark.parametrize(
    ("positive", "margin", "ratio", "limit"),
    [
        (0.8, None, None, math.inf),
        (0.8, 0.1, None, 0.7),
        (0.8, None, 0.95, 0.76),
        (0.8, 0.1, 0.95, 0.7),
        (0.8, 0.01, 0.5, 0.4),
        (-0.2, None, 0.9, -0.22),  # below the positive, where 0.9 · −0.2 = −0.18 would be above it
        (0.8, 0.0, 1.0, 0.8),
    ],
)
def test_the_limit_is_the_stricter_of_both_margins(positive, margin, ratio, limit):
    assert score_limit(positive, MineOptions(margin=margin, ratio=ratio)) == pytest.approx(limit)


def test_the_window_is_counted_without_what_is_skipped():
    options = replace(TOP, first=3, last=5)
    # ranks without 11 and 14: 10, 12, 13, 15, 16, 17 → the third to the fifth
    assert pick(found(*range(10, 20)), options=options, skipped=[11, 14, 99]).rows == [13, 15, 16]


def test_a_score_at_the_limit_stays_and_one_above_it_goes():
    choice = pick(found(1, 2, 3, 4, scores=[0.9, 0.76, 0.75, 0.1], limit=0.75))
    assert choice.rows == [3, 4]
    assert choice.dropped == 2


def test_candidates_are_the_union_of_the_modes_by_best_rank():
    choice = pick(found(1, 2, 3), found(3, 4, 1))
    assert set(choice.rows[:2]) == {1, 3}  # rank 1 in one of the modes
    assert set(choice.rows[2:]) == {2, 4}
    assert choice.dropped == 0


def test_what_one_mode_finds_too_close_is_no_candidate_of_another():
    dense = found(1, 2, 3, scores=[0.9, 0.5, 0.4], limit=0.8)
    sparse = found(3, 2, 1, scores=[9.0, 3.0, 2.0], limit=8.0)
    choice = pick(dense, sparse)
    assert choice.rows == [2]
    assert choice.dropped == 2


def test_a_close_one_is_dropped_from_every_mode():
    options = replace(TOP, first=2)
    choice = pick(found(1, 2, scores=[0.9, 0.5], limit=0.8), found(5, 1, scores=[3, 2]), options=options)
    assert choice.rows == [2]
    assert choice.dropped == 1


def test_ranks_beyond_the_window_judge_nothing():
    options = replace(TOP, last=2)
    # 9 is third in the second mode, and close there: it is a candidate of the first all the same
    choice = pick(found(9, 8), found(5, 6, 9, scores=[0.5, 0.4, 0.3], limit=0.2), options=options)
    assert set(choice.rows) == {9, 8}


def test_equal_texts_are_chosen_once():
    corpus = Corpus([Document(str(i), "same " if i % 2 else "same") for i in range(4)] + [Document("", "other")])
    assert pick(found(0, 1, 2, 3, 4), corpus=corpus).rows == [0, 4]


def test_the_draw_depends_on_seed_and_row_and_only_on_them():
    options = replace(TOP, sample="random")
    results = found(*range(50))
    first = pick(results, options=options, wanted=7)
    assert len(set(first.rows)) == 7
    assert pick(results, options=options, wanted=7) == first
    assert pick(found(*range(50), scores=np.full(50, 0.5)), options=options, wanted=7) == first
    assert pick(results, options=options, wanted=7, key="other row").rows != first.rows
    assert pick(results, options=replace(options, seed=1), wanted=7).rows != first.rows
    assert first.rows != pick(results, wanted=7).rows == list(range(7))


def test_one_candidate_less_changes_one_place_of_a_draw():
    options = replace(TOP, sample="random")
    first = pick(found(*range(50)), options=options, wanted=7).rows
    others = [row for row in range(50) if row != first[3]]
    again = pick(found(*others), options=options, wanted=7).rows
    assert again[:6] == [row for row in first if row != first[3]]


def test_the_draw_is_even():
    options = replace(TOP, sample="random")
    counts = np.zeros(20)
    for i in range(400):
        counts[pick(found(*range(20)), options=options, wanted=5, key=str(i)).rows] += 1
    assert (abs(counts - 100) < 35).all()  # four standard deviations of 8.7


def test_too_few_candidates_are_all_there_are_and_none_are_none():
    assert pick(found(1, 2), wanted=7).rows == [1, 2]
    assert pick(found(1, 2), wanted=0).rows == pick(wanted=3).rows == []
