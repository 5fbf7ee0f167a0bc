"""Mining end to end: with scores written by hand, and with a tiny model."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from m3_vdb.errors import DocumentError
from m3_vdb.types import Document
from tests.train._retrieval import TableEncoder
from train.retrieval import mining
from train.retrieval.config import MineOptions
from train.retrieval.data import Corpus, digest, parse_row
from train.retrieval.data import pool as pool_of
from train.retrieval.mining import mine_rows

EASY = MineOptions(modes=("dense",), first=1, last=100, ratio=None, score="dense", sample="top", negatives=3)
# One query and what its passages score in each mode; p is the positive.
DENSE = {"p": 0.6, "a": 0.55, "b": 0.3, "c": 0.2, "d": 0.1}
SPARSE = {"p": 2.0, "a": 0.5, "b": 1.9, "d": 4.0}


def table(scores, query="q"):
    return {(query, passage): score for passage, score in scores.items()}


def encoder(**tables):
    return TableEncoder(table(DENSE), sparse=table(SPARSE), **tables)


def corpus(*texts):
    return Corpus([Document(f"id-{text}", text) for text in texts or DENSE])


def mined(rows, options=EASY, *, pool=None, model=None):
    """The rows after mining."""
    return mine_rows(model or encoder(), rows, options, corpus=pool)[0]


def row(query="q", pos=("p",), **fields):
    return {"query": query, "pos": list(pos), **fields}


def test_negatives_are_the_best_that_are_not_relevant():
    found = mined([row()], pool=corpus())[0]
    assert found["neg"] == ["a", "b", "c"]
    assert found["neg_scores"] == pytest.approx([0.55, 0.3, 0.2], abs=1e-3)
    assert found["pos_scores"] == pytest.approx([0.6], abs=1e-3)
    assert found["neg_ids"] == ["id-a", "id-b", "id-c"]


def test_the_window_begins_after_the_positives():
    assert mined([row()], replace(EASY, first=2, last=3), pool=corpus())[0]["neg"] == ["b", "c"]


@pytest.mark.parametrize(
    ("margin", "ratio", "kept"),
    [
        (None, 0.95, ["a", "b", "c"]),  # 0.55 ≤ 0.95 · 0.6 = 0.57
        (None, 0.9, ["b", "c", "d"]),  # 0.55 > 0.54
        (0.04, None, ["a", "b", "c"]),  # 0.55 ≤ 0.56
        (0.1, None, ["b", "c", "d"]),
        (0.45, 0.95, ["d"]),  # 0.2 > 0.15
        (0.55, 0.95, []),  # and that is below all of them
    ],
)
def test_both_margins(margin, ratio, kept):
    found, report = mine_rows(encoder(), [row()], replace(EASY, margin=margin, ratio=ratio), corpus=corpus())
    assert found[0]["neg"] == kept
    assert report.dropped == {3: 0, 2: 1, 1: 3, 0: 4}[len(kept)] + (kept == ["b", "c", "d"])


def test_each_mode_has_its_own_margin():
    options = replace(EASY, modes=("dense", "sparse"), ratio=0.9)
    # dense drops a (0.55 > 0.54), sparse b (1.9 > 1.8) and d (4 > 1.8)
    assert mined([row()], options, pool=corpus())[0]["neg"] == ["c"]
    assert sorted(mined([row()], replace(options, modes=("sparse",)), pool=corpus())[0]["neg"]) == ["a"]


def test_the_margin_is_taken_from_the_lowest_positive():
    # 0.5 · 0.3 = 0.15 of b, not 0.3 of p
    assert mined([row(pos=["p", "b"])], replace(EASY, ratio=0.5), pool=corpus())[0]["neg"] == ["d"]


def test_a_positive_without_a_common_token_leaves_the_sparse_mode_out():
    model = TableEncoder(table(DENSE), sparse=table({"a": 3.0, "b": 2.0}))
    options = replace(EASY, modes=("dense", "sparse"), ratio=0.95)
    assert mined([row()], options, pool=corpus(), model=model)[0]["neg"] == ["a", "b", "c"]
    assert mined([row()], replace(options, modes=("sparse",)), pool=corpus(), model=model)[0]["neg"] == []


def test_multi_vector_finds_candidates_by_its_own_scores():
    model = encoder(multi_vector=table({"p": 0.5, "a": -0.4, "b": -0.2, "c": 0.1, "d": 0.3}))
    assert mined([row()], replace(EASY, modes=("multi_vector",)), pool=corpus(), model=model)[0]["neg"] == [
        "d",
        "c",
        "b",
    ]


@pytest.mark.parametrize(
    ("score", "expected"),
    [("dense", 0.3), ("sparse", 1.9), ("multi_vector", 0.7), ("dense_sparse", 0.87), ("all", 1.57)],
)
def test_scores_are_written_in_the_mode_asked_for(score, expected):
    model = encoder(multi_vector=table({"b": 0.7}))
    found = mined([row()], replace(EASY, score=score), pool=corpus(), model=model)[0]
    assert found["neg_scores"][1] == pytest.approx(expected, abs=1e-3)


def test_a_positive_is_never_a_negative():
    options = replace(EASY, negatives=9)
    assert "a" not in mined([row(pos=["p", " a\n"])], options, pool=corpus())[0]["neg"]
    assert "b" not in mined([row(pos_ids=["id-b"])], options, pool=corpus())[0]["neg"]
    found = mined([row(), row(query=" q ", pos=["c"], pos_ids=["id-d"])], options, pool=corpus())
    assert [set(one["neg"]) for one in found] == [{"a", "b"}, {"a", "b"}]


def test_a_positive_with_a_title_is_recognised_with_and_without_it():
    model = TableEncoder(table(DENSE | {"t\na": 0.5, "t\nb": 0.4}))
    pool = Corpus([Document("1", "a", "t"), Document("2", "b", "t"), Document("3", "c")])
    assert mined([row(pos=["a"])], pool=pool, model=model)[0]["neg"] == ["t\nb", "c"]
    assert mined([row(pos=["t\nb"])], pool=pool, model=model)[0]["neg"] == ["t\na", "c"]


def test_a_passage_that_is_the_query_is_no_negative():
    pool = corpus("q", *DENSE)
    assert mined([row()], replace(EASY, negatives=9), pool=pool)[0]["neg"] == ["a", "b", "c", "d"]


def test_a_window_is_as_wide_with_many_positives_as_with_one():
    passages = [f"p{i}" for i in range(50)] + [f"n{i}" for i in range(30)]
    model = TableEncoder({("q", text): 0.9 - i / 100 for i, text in enumerate(passages)})
    options = replace(EASY, first=10, last=20, negatives=99)
    found = mined([row(pos=passages[:50])], options, pool=corpus(*passages), model=model)[0]
    assert found["neg"] == [f"n{i}" for i in range(9, 20)]


def test_without_a_corpus_the_pool_is_all_passages_of_the_data_set():
    dense = table(DENSE) | table({"p": 0.2, "x": 0.5, "y": 0.4}, query="r")
    rows = [
        row(neg=["a"], source="one", lang="de"),
        row("r", ["x"], neg=["y"], source="one", lang="en"),
        row("r", ["b", "c"], source="one", lang="de"),
    ]
    found = mined(rows, model=TableEncoder(dense))
    assert [one["neg"] for one in found] == [["a", "b", "c"], ["y"], ["p", "a"]]
    shared = mined([{k: v for k, v in one.items() if k != "lang"} for one in rows], model=TableEncoder(dense))
    assert set(shared[1]["neg"]) <= {"p", "a", "y"}
    assert len(shared[1]["neg"]) == 3


def test_ids_of_rows_travel_with_their_passages():
    rows = [row(pos_ids=["P"], neg=["a"], neg_ids=["A"]), row("r", ["b"], neg=["c"])]
    dense = table(DENSE) | table({"p": 0.5, "a": 0.1}, query="r")
    found = mined(rows, replace(EASY, negatives=2), model=TableEncoder(dense))
    assert found[1]["neg"] == ["p", "a"]
    assert found[1]["neg_ids"] == ["P", "A"]
    assert "neg_ids" not in found[0]  # b and c have none, and A alone would name the wrong passage


def test_the_pool_does_not_depend_on_the_order_of_rows():
    rows = [
        row(pos_ids=["P"], neg=["a", "b"]),
        row("r", [" a "], pos_ids=["A"], neg=["p"]),
        row("s", ["a"], pos_ids=["B"]),
    ]
    parsed = [parse_row(one, where="", index=0) for one in rows]
    pools = [pool_of(some) for some in (parsed, parsed[::-1], [parsed[1], parsed[2], parsed[0]])]
    assert {tuple(one.digests.tolist()) for one in pools} == {tuple(sorted(map(digest, "pab")))}
    assert {tuple(sorted(one.ids)) for one in pools} == {("", "A", "P")}


def test_every_other_field_and_the_order_are_kept():
    fields = {"source": "s", "lang": "de", "prompt": None, "nested": {"a": [1, 2.5]}, "neg": ["c"], "neg_scores": [7]}
    rows = [row(**fields, number=i) for i in range(3)]
    before = json.dumps(rows)
    found = mined(rows, pool=corpus())
    assert json.dumps(rows) == before
    for i, one in enumerate(found):
        assert {k: v for k, v in one.items() if k in fields.keys() - {"neg", "neg_scores"}} == {
            k: v for k, v in fields.items() if k not in ("neg", "neg_scores")
        }
        assert (one["number"], one["query"], one["pos"]) == (i, "q", ["p"])
        assert one["neg"] == ["a", "b", "c"]


def test_existing_negatives_are_kept_first_and_scored():
    options = replace(EASY, keep_existing=True)
    rows = [row(neg=["d", "b"], neg_ids=["D", "id-b"]), row(pos=["b"])]
    found = mined(rows, options, pool=corpus())
    assert found[0]["neg"] == ["d", "a", "c"]  # b is relevant, says the other row
    assert found[0]["neg_ids"] == ["D", "id-a", "id-c"]
    assert found[0]["neg_scores"] == pytest.approx([0.1, 0.55, 0.2], abs=1e-3)
    more = mined(rows, replace(options, negatives=9), pool=corpus())
    assert more[0]["neg"] == ["d", "a", "c"]  # what is kept is not mined again
    assert mined([row(neg=["x", "y", "z", "w"])], options, pool=corpus())[0]["neg"] == ["x", "y", "z", "w"]


def test_the_report_counts_what_was_done():
    rows = [row(), row("r", ["a"])]
    model = TableEncoder(table(DENSE) | table({"a": 0.5, "p": 0.2}, query="r"))
    options = replace(EASY, ratio=0.8, negatives=4)
    found, report = mine_rows(model, rows, options, corpus=corpus("p", "a", "b"))
    assert [one["neg"] for one in found] == [["b"], ["p", "b"]]
    assert (report.rows, report.negatives, report.short_rows, report.empty_rows, report.dropped) == (2, 3, 2, 0, 1)
    assert report.positive_mean == pytest.approx((0.6 + 0.5) / 2, abs=1e-3)
    assert report.negative_mean == pytest.approx((0.3 + 0.2 + 0) / 3, abs=1e-3)


def test_rows_without_any_candidate_stay_and_are_counted():
    found, report = mine_rows(encoder(), [row()], EASY, corpus=corpus("p"))
    assert (found[0]["neg"], found[0]["neg_scores"]) == ([], [])
    assert (report.short_rows, report.empty_rows) == (1, 1)
    assert math.isnan(report.negative_mean)


@pytest.mark.parametrize("with_corpus", [True, False])
def test_a_row_gets_the_same_negatives_in_any_order_and_in_any_blocks(monkeypatch, with_corpus):
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(40)]
    scores = {
        (f"q{i}", text): float(v) for i in range(8) for text, v in zip(texts, rng.uniform(0, 0.3, 40), strict=True)
    }
    rows = [row(f"q{i}", [texts[i]], neg=texts[8 + 4 * i : 12 + 4 * i]) for i in range(8)]
    options = replace(EASY, sample="random", first=3, last=20, negatives=5)
    pool = corpus(*texts) if with_corpus else None
    shuffled = random.Random(1).sample(rows, len(rows))
    models = [TableEncoder(scores), TableEncoder(scores)]
    first = {one["query"]: one for one in mined(rows, options, pool=pool, model=models[0])}
    mined(shuffled, options, pool=pool, model=models[1])
    assert models[0].encoded == models[1].encoded  # the same batches, thus the same roundings
    monkeypatch.setattr(mining, "BLOCK", 3)
    again = mined(shuffled, replace(options, shard_size=7), pool=pool, model=TableEncoder(scores))
    assert [one["query"] for one in again] == [one["query"] for one in shuffled]
    assert {one["query"]: one["neg"] for one in again} == {query: one["neg"] for query, one in first.items()}
    other = mined(rows, replace(options, seed=1), pool=pool, model=TableEncoder(scores))
    assert sum(one["neg"] != first[one["query"]]["neg"] for one in other) > 4


def test_a_bad_row_in_memory_is_named_by_its_number():
    with pytest.raises(DocumentError, match="row 1: 'pos'") as error:
        mined([row(), {"query": "q"}], pool=corpus())
    assert error.value.index == 1
