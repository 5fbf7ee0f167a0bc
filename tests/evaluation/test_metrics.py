"""Measures of rankings, computed by hand, and run files."""

from __future__ import annotations

import math

import pytest

from m3_vdb.evaluation.metrics import MEASURES, measure, write_run


def discount(rank):
    return 1 / math.log2(rank + 1)


def test_measures_of_one_ranking():
    run = {"q": {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0}}
    found = measure(run, {"q": {"b": 2, "d": 1, "x": 1, "a": 0}})
    # grade 2 at rank 2, grade 1 at rank 4; the best order would be 2, 1, 1
    gain = 2 * discount(2) + discount(4)
    assert found == pytest.approx(
        {
            "nDCG@10": gain / (2 * discount(1) + discount(2) + discount(3)),
            "R@100": 2 / 3,
            "RR@10": 1 / 2,
        }
    )


def test_reciprocal_rank_is_cut_at_ten():
    run = {"q": {f"{i:02}": -float(i) for i in range(1, 21)}}
    assert measure(run, {"q": {"12": 1}}) == pytest.approx({"nDCG@10": 0, "R@100": 1, "RR@10": 0})
    assert measure(run, {"q": {"10": 1}})["RR@10"] == pytest.approx(1 / 10)


def test_recall_ends_at_one_hundred():
    run = {"q": {f"{i:03}": -float(i) for i in range(1, 151)}}
    assert measure(run, {"q": {"100": 1, "101": 1}})["R@100"] == 0.5


def test_equal_scores_rank_by_descending_id_in_every_measure():
    run = {"q": {"a": 1.0, "c": 1.0, "b": 1.0}}
    found = measure(run, {"q": {"b": 1}})
    assert found == pytest.approx({"nDCG@10": discount(2), "R@100": 1, "RR@10": 1 / 2})


def test_queries_without_results_or_without_a_relevant_one_count_as_zero():
    run = {"good": {"a": 1.0}, "bad": {"b": 1.0}, "nothing": {}}
    qrels = {"good": {"a": 1}, "bad": {"a": 1}, "nothing": {"a": 1}, "absent": {"a": 1}}
    assert measure(run, qrels) == pytest.approx(dict.fromkeys(MEASURES, 1 / 4))


def test_differences_below_float32_still_rank():
    run = {"q": {"a": 100.00000001, "b": 100.0}}
    assert measure(run, {"q": {"a": 1}})["RR@10"] == 1


def test_a_run_file_has_ranks_and_scores_and_can_grow(tmp_path):
    path = tmp_path / "runs" / "a.trec"
    write_run({"q1": {"x": 0.25, "y": 0.5}}, path, tag="dense")
    write_run({"q2": {"z": 1 / 3}}, path, tag="dense", append=True)
    assert path.read_text().splitlines() == [
        "q1 Q0 y 1 0.5 dense",
        "q1 Q0 x 2 0.25 dense",
        "q2 Q0 z 1 0.333333333 dense",
    ]
