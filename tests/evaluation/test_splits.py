"""Reported and dev queries over the same thinned documents."""

from __future__ import annotations

import pytest

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import Collection, Query
from m3_vdb.evaluation.splits import thin_splits
from m3_vdb.types import Document

TEXTS = [Document(f"d{i:02}", f"text {i}") for i in range(40)]


def collection(name: str, part: str, first: int, count: int = 3) -> Collection:
    """Query k of a part asks for document ``first + k``."""
    names = [f"{part}{i}" for i in range(count)]
    qrels = {query: {f"d{first + i:02}": 1} for i, query in enumerate(names)}
    return Collection(name, TEXTS, {query: Query(query) for query in names}, qrels)


def ids(one: Collection) -> list[str]:
    return [document.id for document in one.documents]


def test_without_limits_everything_stays():
    test, dev = [collection("a", "t", 0), collection("b", "t", 5)], [collection("b", "v", 10)]
    found = thin_splits(test, dev)
    assert [one.name for one in found[0]] == ["a", "b"]
    assert [one.name for one in found[1]] == ["b"]
    assert all(ids(one) == ids(test[0]) for one in found[0] + found[1])


def test_both_splits_search_the_same_documents_and_keep_what_either_judges():
    (test,), (dev,) = thin_splits([collection("a", "t", 0)], [collection("a", "v", 30)], max_documents=10)
    assert ids(test) == ids(dev)
    assert len(ids(test)) == len(test.documents) == 10
    assert {"d00", "d01", "d02", "d30", "d31", "d32"} < set(ids(test))
    assert set(test.queries) == {"t0", "t1", "t2"}
    assert set(dev.queries) == {"v0", "v1", "v2"}


def test_each_split_keeps_so_many_queries_and_their_documents_alone():
    (test,), (dev,) = thin_splits(
        [collection("a", "t", 0, 10)], [collection("a", "v", 20, 10)], max_documents=4, max_queries=2
    )
    assert (len(test.queries), len(dev.queries)) == (2, 2)
    judged = {name for one in (test, dev) for grades in one.qrels.values() for name in grades}
    assert set(ids(test)) == judged, "four judged documents fill the four places"


def test_tuning_does_not_change_which_queries_are_reported():
    alone, _ = thin_splits([collection("a", "t", 0, 10)], [], max_queries=3)
    beside, _ = thin_splits([collection("a", "t", 0, 10)], [collection("a", "v", 20)], max_queries=3)
    assert alone[0].queries == beside[0].queries


def test_what_would_report_nothing_or_cheat_is_refused():
    with pytest.raises(ConfigError, match="b: no such collection is evaluated"):
        thin_splits([collection("a", "t", 0)], [collection("b", "v", 0)])
    with pytest.raises(ConfigError, match="'t0' is in dev and in test"):
        thin_splits([collection("a", "t", 0)], [collection("a", "t", 0)])


def test_no_collection_is_lost_because_of_its_name():
    for test, dev in (("aa", ""), ("a", "aa")):
        with pytest.raises(ConfigError, match="two collections have the name 'a'"):
            thin_splits([collection(name, "t", 0) for name in test], [collection(name, "v", 9) for name in dev])
