"""Collections and their thinning: chosen by hash, nested, and with everything judged still there."""

from __future__ import annotations

import random
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection, Query, choose, subsample, subsample_splits
from m3_vdb.types import Document

DOCUMENTS = [Document(f"d{i}", f"text {i}") for i in range(40)]
QUERIES = {f"q{i}": Query(f"query {i}") for i in range(10)}
QRELS = {name: {f"d{i}": 1, f"d{i + 20}": 0, "gone": 1} for i, name in enumerate(QUERIES)}
WHOLE = Collection("c", DOCUMENTS, QUERIES, QRELS)

names = st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), max_size=30)


def ids(collection: Collection) -> list[str]:
    return [document.id for document in collection.documents]


class Stream:
    """Documents that say how often they were read, and never all at once."""

    def __init__(self, count: int) -> None:
        self.count, self.reads = count, 0

    def __iter__(self):
        self.reads += 1
        return (Document(f"d{i}", f"text {i}") for i in range(self.count))

    def __len__(self) -> int:
        raise AssertionError("nobody needs the length")


@given(names, st.integers(0, 35), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_choice_is_the_trainers_in_any_order_and_nested(pool, count, seed, shuffler):
    def place(name: str) -> bytes:
        return blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()

    shuffled = shuffler.sample(sorted(pool), len(pool))
    chosen = choose(shuffled, count, seed)
    assert chosen == sorted(pool, key=place)[:count]
    assert choose(iter(sorted(pool)), count + 1, seed)[:count] == chosen


def test_the_choice_is_the_same_for_ever():
    assert choose((f"d{i}" for i in range(1000)), 4) == ["d8", "d244", "d899", "d990"]


def test_thinning_keeps_what_is_judged_and_is_nested():
    judged = {document for grades in QRELS.values() for document in grades} - {"gone"}
    smallest = subsample(WHOLE, max_documents=1)
    assert set(ids(smallest)) == judged
    assert len(smallest.documents) == len(judged) == 20
    twenty_five, thirty = (set(ids(subsample(WHOLE, max_documents=count))) for count in (25, 30))
    assert judged < twenty_five < thirty < {document.id for document in DOCUMENTS}
    assert (len(twenty_five), len(thirty)) == (25, 30)
    assert set(ids(subsample(WHOLE, max_documents=25, seed=1))) != twenty_five
    assert subsample(WHOLE, max_documents=40).documents is DOCUMENTS


def test_documents_are_thinned_for_the_queries_that_stay():
    few = subsample(WHOLE, max_queries=3, max_documents=8)
    more = subsample(WHOLE, max_queries=5)
    assert set(few.queries) < set(more.queries) < set(QUERIES)
    assert len(few.queries) == len(few.qrels) == 3
    assert len(ids(few)) == len(few.documents) == 8
    assert {document for grades in few.qrels.values() for document in grades} - {"gone"} <= set(ids(few))
    assert list(few.queries) == [name for name in QUERIES if name in few.queries]
    assert subsample(WHOLE) == WHOLE


@given(st.randoms(use_true_random=False), st.integers(1, 45), st.integers(1, 12))
def test_thinning_does_not_depend_on_any_order(shuffler, documents, queries):
    order = shuffler.sample(sorted(QUERIES), len(QUERIES))
    shuffled = Collection(
        "c",
        shuffler.sample(DOCUMENTS, len(DOCUMENTS)),
        {name: QUERIES[name] for name in order},
        {name: QRELS[name] for name in reversed(order)},
    )
    one, other = (subsample(c, max_documents=documents, max_queries=queries) for c in (WHOLE, shuffled))
    assert set(ids(one)) == set(ids(other))
    assert one.queries == other.queries
    assert one.qrels == other.qrels


def test_thinned_documents_are_a_stream_that_can_be_read_again():
    stream = Stream(500)
    thinned = subsample(Collection("c", stream, QUERIES, QRELS), max_documents=50)
    assert stream.reads == 1
    assert len(thinned.documents) == 50
    assert stream.reads == 1
    assert ids(thinned) == ids(thinned)
    assert stream.reads == 3
    places = [int(name[1:]) for name in ids(thinned)]
    assert places == sorted(places)


def test_documents_with_an_answer_stay():
    documents = [Document(f"d{i}", "Dave Edmunds sang" if i % 10 == 0 else "nobody sang") for i in range(60)]
    queries = {f"{i}-{lang}": Query("who", lang, str(i)) for i in range(4) for lang in ("de", "fr", "en")}
    answers = {name: ("Dave Edmunds",) if query.question == "0" else ("Rome",) for name, query in queries.items()}
    collection = Collection("mkqa", documents, queries, answers=answers)
    singing = {f"d{i}" for i in range(0, 60, 10)}
    assert set(ids(subsample(collection, max_documents=1))) == singing
    ten = set(ids(subsample(collection, max_documents=10)))
    assert singing < ten < set(ids(subsample(collection, max_documents=11)))
    also_judged = Collection("both", documents, queries, {"1-de": {"d7": 0}}, answers)
    assert set(ids(subsample(also_judged, max_documents=1))) == singing | {"d7"}
    without = collection.only(name for name, query in queries.items() if query.question != "0")
    assert len(ids(subsample(without, max_documents=1))) == 1


def test_queries_are_thinned_in_each_language_to_the_same_questions():
    queries = {f"{i}-{lang}": Query(f"{lang} {i}", lang, str(i)) for lang in ("fr", "de") for i in range(20)}
    collection = Collection("mkqa", DOCUMENTS, queries, answers=dict.fromkeys(queries, ("x",)))
    thinned = subsample(collection, max_queries=5)
    groups = thinned.by_language()
    assert list(groups) == ["de", "fr"]
    questions = [{queries[name].question for name in group} for group in groups.values()]
    assert questions[0] == questions[1]
    assert [len(group) for group in groups.values()] == [5, 5]
    assert set(thinned.answers) == set(thinned.queries) < set(subsample(collection, max_queries=6).queries)


@pytest.mark.parametrize("options", [{"max_documents": 0}, {"max_queries": 0}, {"max_queries": -1}])
def test_a_count_below_1_is_refused(options):
    with pytest.raises(ConfigError, match=rf"{next(iter(options))}=.*at least 1"):
        subsample(WHOLE, **options)


def test_what_is_judged_must_be_among_the_queries():
    with pytest.raises(ConfigError, match="c: the judged query 'r' is not among"):
        Collection("c", [], {"q": Query("x")}, {"r": {"d": 1}})
    with pytest.raises(ConfigError, match="c: the judged query 's' is not among"):
        Collection("c", [], {"q": Query("x")}, answers={"s": ("x",)})


def test_groups_keep_the_order_of_the_queries():
    order = random.Random(3).sample(range(8), 8)
    queries = {str(i): Query("x", ("b", "", "a")[i % 3]) for i in order}
    groups = Collection("c", [], queries).by_language()
    assert list(groups) == ["", "a", "b"]
    assert [name for name in queries if name in groups["b"]] == groups["b"]
    assert sorted(name for group in groups.values() for name in group) == sorted(queries)


def part_of(name: str, part: str, first: int, count: int = 3) -> Collection:
    """Query k of a part asks for document ``first + k``."""
    names = [f"{part}{i}" for i in range(count)]
    qrels = {query: {f"d{first + i}": 1} for i, query in enumerate(names)}
    return Collection(name, DOCUMENTS, {query: Query(query) for query in names}, qrels)


def test_without_limits_everything_stays():
    test, dev = [part_of("a", "t", 0), part_of("b", "t", 5)], [part_of("b", "v", 10)]
    found = subsample_splits(test, dev)
    assert [one.name for one in found[0]] == ["a", "b"]
    assert [one.name for one in found[1]] == ["b"]
    assert all(ids(one) == ids(test[0]) for one in found[0] + found[1])


def test_both_splits_search_the_same_documents():
    (test,), (dev,) = subsample_splits([part_of("a", "t", 0)], [part_of("a", "v", 30)], max_documents=10)
    assert ids(test) == ids(dev)
    assert len(ids(test)) == len(test.documents) == 10
    assert {"d0", "d1", "d2", "d30", "d31", "d32"} < set(ids(test))
    assert set(test.queries) == {"t0", "t1", "t2"}
    assert set(dev.queries) == {"v0", "v1", "v2"}


def test_each_split_keeps_so_many_queries_and_their_documents_alone():
    (test,), (dev,) = subsample_splits(
        [part_of("a", "t", 0, 10)], [part_of("a", "v", 20, 10)], max_documents=4, max_queries=2
    )
    assert (len(test.queries), len(dev.queries)) == (2, 2)
    judged = {name for one in (test, dev) for grades in one.qrels.values() for name in grades}
    assert set(ids(test)) == judged, "four judged documents fill the four places"


def test_tuning_does_not_change_which_queries_are_reported():
    alone, _ = subsample_splits([part_of("a", "t", 0, 10)], [], max_queries=3)
    beside, _ = subsample_splits([part_of("a", "t", 0, 10)], [part_of("a", "v", 20)], max_queries=3)
    assert alone[0].queries == beside[0].queries


def test_what_would_report_nothing_or_cheat_is_refused():
    with pytest.raises(ConfigError, match="b: no such collection is evaluated"):
        subsample_splits([part_of("a", "t", 0)], [part_of("b", "v", 0)])
    with pytest.raises(ConfigError, match="'t0' is in dev and in test"):
        subsample_splits([part_of("a", "t", 0)], [part_of("a", "t", 0)])


def test_no_collection_is_lost_because_of_its_name():
    for test, dev in (("aa", ""), ("a", "aa")):
        with pytest.raises(ConfigError, match="two collections have the name 'a'"):
            subsample_splits([part_of(name, "t", 0) for name in test], [part_of(name, "v", 9) for name in dev])
