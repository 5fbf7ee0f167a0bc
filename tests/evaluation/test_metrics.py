"""Measures of rankings, computed by hand and by ir-measures, and run files."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.metrics import (
    ANSWER_MEASURES,
    MEASURES,
    measure,
    ordered,
    per_query,
    read_run,
    write_run,
)
from m3_vdb.evaluation.tuning import ideal_dcg, ndcg


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


LONG = {f"{rank:03}": -float(rank) for rank in range(1, 151)}


@pytest.mark.parametrize(
    ("hits", "grades", "expected"),
    [
        pytest.param(LONG, {"012": 1}, (0, 1, 0), id="nDCG and RR end at ten"),
        pytest.param(LONG, {"010": 1}, (discount(10), 1, 1 / 10), id="the tenth counts"),
        pytest.param(LONG, {"100": 1, "101": 1}, (0, 1 / 2, 0), id="recall ends at one hundred"),
        pytest.param({"a": 1.0, "c": 1.0, "b": 1.0}, {"b": 1}, (discount(2), 1, 1 / 2), id="ties: descending ids"),
        pytest.param({"a": 100.00000001, "b": 100.0}, {"a": 1}, (1, 1, 1), id="differences below float32 rank"),
        pytest.param({"a": 2.0, "b": 1.0}, {"a": -1, "b": 1}, (discount(2), 1, 1 / 2), id="below 0: not relevant"),
        pytest.param({"a": 2.0, "b": 1.0}, {"a": -1, "b": -2}, (0, 0, 0), id="nothing relevant"),
    ],
)
def test_measures_of_one_query(hits, grades, expected):
    assert tuple(measure({"q": hits}, {"q": grades}).values()) == pytest.approx(expected)


def test_queries_without_relevant_results_count_as_zero():
    run = {"good": {"a": 1.0}, "bad": {"b": 1.0}, "nothing": {}}
    qrels = {"good": {"a": 1}, "bad": {"a": 1}, "nothing": {"a": 1}, "absent": {"a": 1}}
    assert measure(run, qrels) == pytest.approx(dict.fromkeys(MEASURES, 1 / 4))


def test_a_run_file_has_ranks_and_scores_and_can_grow(tmp_path):
    path = tmp_path / "runs" / "a.trec"
    write_run({"q1": {"x": 0.25, "y": 0.5}}, path, tag="dense")
    write_run({"q2": {"z": 1 / 3}}, path, tag="dense", append=True)
    assert path.read_text().splitlines() == [
        "q1 Q0 y 1 0.5 dense",
        "q1 Q0 x 2 0.25 dense",
        "q2 Q0 z 1 0.333333333 dense",
    ]


def test_queries_that_nobody_judged_do_not_count():
    run = {"judged": {"a": 1.0}, "other": {"b": 1.0}}
    assert measure(run, {"judged": {"a": 1}}) == pytest.approx(dict.fromkeys(MEASURES, 1))


@pytest.mark.parametrize("qrels", [{"q": {}}, {"q": {"a": 0}}, {"q": {"x": 1}}])
def test_every_query_of_the_judgements_has_a_value(qrels):
    for run in ({}, {"q": {}}, {"q": {"a": 1.0}}):
        for name in (*MEASURES, *ANSWER_MEASURES):
            assert per_query(run, qrels, [name]) == {name: {"q": 0.0}}


def test_answer_recall_looks_at_twenty_and_at_a_hundred():
    run = {"q": {f"{i:03}": -float(i) for i in range(1, 151)}}
    found = [tuple(measure(run, {"q": {name: 1}}, ANSWER_MEASURES).values()) for name in ("020", "021", "100", "101")]
    assert found == [(1, 1), (0, 1), (0, 1), (0, 0)]


IDS = [f"d{i}" for i in range(14)]


@given(
    st.dictionaries(st.sampled_from("pq"), st.dictionaries(st.sampled_from(IDS), st.integers(-1, 3)), min_size=1),
    st.dictionaries(st.sampled_from("pqr"), st.dictionaries(st.sampled_from(IDS), st.integers(-3, 3))),
)
def test_values_are_those_of_ir_measures_where_nothing_is_tied(qrels, scores):
    # Distinct scores, so that every tool orders them in the same way.
    run = {
        query: {name: score + i / 100 for i, (name, score) in enumerate(hits.items())} for query, hits in scores.items()
    }
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    found = per_query(run, qrels)
    for metric in ir_measures.iter_calc(measures, qrels, run):
        assert found[str(metric.measure)][metric.query_id] == pytest.approx(metric.value)


candidates = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 3)), max_size=14)


@given(st.lists(st.tuples(candidates, st.lists(st.integers(-1, 3), max_size=4)), min_size=1, max_size=5))
def test_the_vectorised_gain_is_that_of_ir_measures(queries):
    """Any number of candidates with ties, some relevant documents that were not found, nothing relevant at all."""
    width = max(1, *(len(hits) for hits, _ in queries))
    scores = np.full((len(queries), width), -np.inf, np.float32)
    gains = np.zeros((len(queries), width), np.float32)
    run, qrels = {}, {}
    for q, (hits, missed) in enumerate(queries):
        # Descending ids: equal scores keep their order in one implementation and fall with the id in the other.
        names = [f"{99 - i}" for i in range(len(hits))]
        scores[q, : len(hits)] = [score for score, _ in hits]
        gains[q, : len(hits)] = [grade for _, grade in hits]
        run[f"q{q}"] = {name: float(score) for name, (score, _) in zip(names, hits, strict=True)}
        qrels[f"q{q}"] = {name: grade for name, (_, grade) in zip(names, hits, strict=True)}
        qrels[f"q{q}"] |= {f"missed {i}": grade for i, grade in enumerate(missed)}
    ideal = np.array([ideal_dcg(grades.values()) for grades in qrels.values()])
    expected = per_query(run, qrels, ["nDCG@10"])["nDCG@10"]
    # Gains are float32: a sum of ten of them is right to about 1e-6.
    assert ndcg(scores, gains, ideal) == pytest.approx(list(expected.values()), abs=1e-6)


def test_a_relevant_document_beyond_the_tenth_gains_nothing():
    scores = -np.arange(12, dtype=np.float32)[None]
    gains = np.zeros((1, 12), np.float32)
    gains[0, 10] = 1
    assert ndcg(scores, gains, np.ones(1)) == 0
    gains[0, 9] = 1
    assert ndcg(scores, gains, np.ones(1)) == pytest.approx(discount(10))


names = st.text(
    alphabet=st.one_of(st.sampled_from(" \t\n\r\x1c\x85\xa0\u2028\u3000%241aAfé"), st.characters(codec="utf-8")),
    min_size=1,
)
# float32, as engines compute them: nine digits tell any two of these apart.
scores = st.floats(width=32, allow_nan=False, allow_infinity=False)
runs = st.dictionaries(names, st.dictionaries(names, scores, min_size=1, max_size=6), min_size=1, max_size=4)


@given(runs)
def test_a_run_comes_back_from_its_file(tmp_path_factory, run):
    path = tmp_path_factory.getbasetemp() / "run.trec"
    write_run(run, path, tag="t")
    back = read_run(path)
    for query, hits in run.items():
        assert {name: np.float32(score) for name, score in back[query].items()} == hits
        assert [name for name, _ in ordered(back[query])] == [name for name, _ in ordered(hits)]
    write_run(back, path, tag="t")
    assert read_run(path) == back, "what was read once is exact"


def test_other_tools_read_a_run_file(tmp_path):
    run = {"q%41": {"a b": 0.5, "50%": 0.25, "%20": 0.125}}
    write_run(run, tmp_path / "a.trec", tag="dense, exact")
    rows = [(one.query_id, one.doc_id, one.score) for one in ir_measures.read_trec_run(str(tmp_path / "a.trec"))]
    assert rows == [("q%2541", "a%20b", 0.5), ("q%2541", "50%", 0.25), ("q%2541", "%2520", 0.125)]


def test_a_file_that_is_no_run_is_named_with_the_line(tmp_path):
    path = tmp_path / "a.trec"
    for line in ("q Q0 d 1 0.5", "q Q0 d 1 high tag"):
        path.write_text(f"q Q0 d 1 0.5 tag\n{line}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"a\.trec, line 2: expected 'query Q0"):
            read_run(path)


def test_a_run_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.trec"
    write_run({"q": {"d": 1.0}}, path, tag="t")
    with pytest.raises(ValueError, match="format"):
        write_run({"q": {"d": 2.0}, "r": {"d": "no number"}}, path, tag="t")
    assert read_run(path) == {"q": {"d": 1.0}}
