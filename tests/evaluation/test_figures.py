"""From rankings to figures, on rankings written by hand."""

from __future__ import annotations

import math

import pytest

from m3_vdb.evaluation import Collection, Query
from m3_vdb.evaluation.evaluate import (
    approximation_of,
    judgements,
    measure_groups,
)
from m3_vdb.evaluation.metrics import ANSWER_MEASURES, MEASURES
from m3_vdb.evaluation.results import Cost, Percentiles
from m3_vdb.evaluation.runs import CollectionRuns
from m3_vdb.types import Document

TEXTS = [Document("a", "Rome is old"), Document("b", "Paris"), Document("c", "", title="in Rome")]
JUDGED = Collection(
    "capitals",
    TEXTS,
    {"q1": Query("?", "en"), "q2": Query("?", "de"), "q3": Query("?", "de"), "unjudged": Query("?", "sv")},
    {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}},
)
ANSWERED = Collection(
    "capitals", TEXTS, {"q1": Query("?", "en"), "q2": Query("?", "de")}, answers={"q1": ["Rome"], "q2": ["Oslo"]}
)
COST = Cost(3, 0, 0, 9, 0, 1.0, None, None, {})
SECOND = 1 / math.log2(3)


def first(**documents: str) -> dict[str, dict[str, float]]:
    """Query → its one result, or several in order."""
    return {query: {name: -float(rank) for rank, name in enumerate(names)} for query, names in documents.items()}


def searched(collection: Collection = JUDGED, **parts) -> CollectionRuns:
    return CollectionRuns(collection, **{"documents": 3, "runs": {}, "components": {}, "cost": COST, **parts})


def test_groups_are_languages_in_order_with_their_judged_queries():
    runs = {"dense": first(q1="a", q2="ab", q3="c", unjudged="a"), "bm25": first(q1="b")}
    groups = measure_groups([searched(runs=runs)], ["bm25", "dense"], MEASURES)
    assert [(group.collection, group.lang, group.documents) for group in groups] == [
        ("capitals", "de", 3),
        ("capitals", "en", 3),
    ]
    de, en = groups
    assert list(de.values) == ["bm25", "dense"]
    assert de.values["dense"]["nDCG@10"] == pytest.approx([SECOND, 1])
    assert de.values["dense"]["RR@10"] == pytest.approx([0.5, 1])
    assert de.values["bm25"]["R@100"] == [0, 0]
    assert en.values["dense"]["nDCG@10"] == [1]


def test_queries_without_a_language_have_that_of_the_documents():
    plain = Collection("c", TEXTS, {"q": Query("?")}, {"q": {"a": 1}}, lang="fr")
    (group,) = measure_groups([searched(plain, runs={"dense": first(q="a")})], ["dense"], MEASURES)
    assert group.lang == "fr"


def test_answers_judge_what_any_system_found():
    runs = [first(q1="bc", q2="a"), first(q1="a")]
    assert judgements(ANSWERED, runs) == {"q1": {"a": 1, "b": 0, "c": 1}, "q2": {"a": 0}}
    assert judgements(JUDGED, runs) is JUDGED.qrels
    one = searched(ANSWERED, runs={"dense": runs[0], "all": runs[1]})
    de, en = measure_groups([one], ["dense", "all"], ANSWER_MEASURES)
    assert (en.values["dense"]["Success@20"], en.values["all"]["Success@20"]) == ([1], [1])
    assert (de.values["dense"]["Success@20"], de.values["all"]["Success@100"]) == ([0], [0])


def test_approximate_search_is_compared_on_the_queries_asked_both_ways():
    exact = first(q1="abc", q2="bac", q3="cab")
    one = searched(
        runs={"dense": exact},
        approximate={"dense": first(q1="abc", q2="ac")},
        approximate_ms={"dense": Percentiles(2, 3, 4, 10)},
    )
    other = searched(
        runs={"dense": exact},
        approximate={"dense": first(q3="cab")},
        approximate_ms={"dense": Percentiles(5, 6, 7, 10)},
    )
    found = approximation_of([one, other], "dense", ["nDCG@10"])
    # Groups: de (q2) and en (q1) of the first collection, de (q3) of the second.
    assert found.exact == {"nDCG@10": 1}
    assert found.approximate == pytest.approx({"nDCG@10": (0 + 1 + 1) / 3})
    assert found.overlap == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found.search_ms == Percentiles(5, 6, 7, 10), "the slowest collection"
