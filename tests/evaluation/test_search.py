"""Queries asked of a store one by one, latencies, and how much two rankings share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from m3_vdb.evaluation import Query
from m3_vdb.evaluation.evaluate import overlap
from m3_vdb.evaluation.protocol import PROTOCOLS
from m3_vdb.evaluation.search import BLOCK, WARM_UP, encode, fill, search, time_encoding, time_search
from m3_vdb.stores import MemoryStore
from tests.evaluation._toy import Counting, documents, toy_embed

PAPER = PROTOCOLS["paper"]


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    store = MemoryStore(toy_embed().identity)
    fill(documents(20), toy_embed(), store)
    return store


def test_every_query_is_encoded_under_its_name():
    queries = {f"q{i}": Query(f"Zeile {i}") for i in range(BLOCK + 2)}
    found = encode(toy_embed(), queries)
    assert [name for name, _ in found] == list(queries)
    for i in (0, BLOCK - 1, BLOCK, BLOCK + 1):
        np.testing.assert_array_equal(found[i][1].dense, toy_embed().encode_queries([f"Zeile {i}"])[0].dense)


def test_a_run_holds_what_the_store_ranks(store):
    queries = encode(toy_embed(), {"q": Query("Spalte einfügen"), "r": Query("🙂")})
    told: list[int] = []
    run = search(store, queries, PAPER.request("all"), progress=told.append)
    assert told == [1, 2]
    for name, query in queries:
        assert list(run[name].items()) == store.rank(query, limit=100, candidates=200)


def test_a_query_without_words_in_common_finds_nothing_by_words(store):
    queries = encode(toy_embed(), {"": Query("")})
    assert search(store, queries, PAPER.request("sparse")) == {"": {}}
    assert len(search(store, queries, PAPER.request("all"))[""]) == store.count()


def test_latency_is_that_of_a_page_of_hits(store):
    queries = encode(toy_embed(), {f"q{i}": Query(f"Zeile {i}") for i in range(210)})
    calls: Counter[str] = Counter()
    found = time_search(Counting(store, calls=calls), queries, PAPER.request("all"))
    assert calls == {"query": 200 + WARM_UP}
    assert 0 < found.p50 <= found.p95 <= found.p99
    assert found.count == 200
    assert time_encoding(toy_embed(), {"q": Query("one")}).count == 1


def test_overlap_of_the_first_ten():
    def run(*names: str) -> dict[str, float]:
        return {name: -float(i) for i, name in enumerate(names)}

    ten = [f"d{i}" for i in range(10)]
    exact = {"same": run(*ten, "x"), "half": run(*ten), "short": run("a", "b"), "nothing": {}}
    approximate = {
        "same": run(*ten[::-1], "y"),
        "half": run(*ten[:5], "u", "v", "w", "x", "y", *ten[5:]),
        "short": run("a"),
        "nothing": {},
    }
    assert overlap(exact, approximate) == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert overlap({}, {}) == 1


def test_overlap_does_not_depend_on_how_a_store_lists_ties():
    tied = [f"d{i:02}" for i in range(15)]
    forward, backward = ({"q": dict.fromkeys(names, 0.5)} for names in (tied, tied[::-1]))
    assert overlap(forward, backward) == 1
