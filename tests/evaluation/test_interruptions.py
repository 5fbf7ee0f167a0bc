"""An evaluation that stopped, failed or is repeated asks only for what is missing, and ends with the same figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from m3_vdb.errors import StoreRequestError
from m3_vdb.evaluation import MODES, Collection, Evaluation, Protocol, Query, evaluate
from m3_vdb.evaluation.search import WARM_UP
from m3_vdb.weights import Weights
from tests.evaluation._toy import Kept, same, task, toy_embed

QUERIES = 17
RANKINGS = 7
"""Five modes, and two raw scores beside multi_vector."""
LATENCIES = len(MODES) * (QUERIES + WARM_UP)


def run(opener: Kept, out: Path, changed: Collection | None = None, **options) -> Evaluation:
    options = {"bm25": True, "approximate": True, **options}
    return evaluate([changed or task()], options.pop("embed", toy_embed()), opener, out=out, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(Kept(toy_embed()), tmp_path_factory.mktemp("undisturbed"))


class Stopped(Exception):  # noqa: N818 - not an error
    pass


@pytest.mark.parametrize(
    ("what", "done", "finished"),
    [
        ("documents", 0, 0),
        ("dense", 1, 0),
        ("multi_vector", 17, 2),
        ("all.sparse.dense", 9, 6),
        ("bm25", 0, 7),
        ("latency", 0, 7),
    ],
)
def test_a_stopped_evaluation_goes_on(undisturbed: Evaluation, tmp_path: Path, what: str, done: int, finished: int):
    def stop(_name: str, at: str, count: int, _total: int) -> None:
        if at == what and count >= done:
            raise Stopped

    opener = Kept(toy_embed())
    with pytest.raises(Stopped):
        run(opener, tmp_path, progress=stop)
    assert not (tmp_path / "results.json").exists()
    with opener.counting() as calls:
        found = run(opener, tmp_path)
    approximate = len(MODES) * QUERIES
    assert calls["rank"] == (RANKINGS - finished) * QUERIES + approximate
    assert calls["stored"] == 0, "all documents were stored before the first stop"
    costs = {"help": replace(found.costs["help"], documents=16, reused=0, tokens=undisturbed.costs["help"].tokens)}
    assert same(replace(found, costs=costs if what == "documents" else found.costs)) == same(undisturbed)


def test_a_failing_store_goes_on_wherever_it_failed(undisturbed: Evaluation, tmp_path: Path):
    opener = Kept(toy_embed())
    for requests in (0, 20, 40, 70, 30):
        opener.fail_after = opener.calls["rank"] + requests
        with pytest.raises(StoreRequestError):
            run(opener, tmp_path)
    opener.fail_after = None
    assert same(run(opener, tmp_path)) == same(undisturbed)


def test_a_finished_evaluation_asks_nothing(undisturbed: Evaluation, tmp_path: Path):
    opener = Kept(toy_embed())
    first = run(opener, tmp_path)
    with opener.counting() as calls:
        second = run(opener, tmp_path)
    assert calls == {"optimize": 1}
    assert same(first) == same(second) == same(undisturbed)
    assert replace(first.costs["help"], index_bytes=None) == replace(second.costs["help"], index_bytes=None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"protocol": Protocol(weights=Weights(1, 2, 3))}),
        ({"modes": ["dense", "sparse"]}, {"modes": ["dense", "dense_sparse", "sparse"]}),
    ],
    ids=["weights", "mode"],
)
def test_other_weights_or_another_mode_ask_for_one_ranking(tmp_path: Path, before: dict, after: dict):
    opener = Kept(toy_embed())
    run(opener, tmp_path, approximate=False, **before)
    with opener.counting() as calls:
        found = run(opener, tmp_path, approximate=False, **after)
    assert calls == {"rank": QUERIES, "query": QUERIES + WARM_UP}
    assert same(found) == same(run(Kept(toy_embed()), tmp_path / "fresh", approximate=False, **after))


@pytest.mark.parametrize("change", ["text", "query", "query length", "length", "model"])
def test_another_corpus_or_model_or_query_asks_for_everything(tmp_path: Path, change: str):
    pages, options, opener = task(), {"approximate": False}, Kept(toy_embed())
    run(opener, tmp_path, **options)
    if change == "text":
        pages = replace(pages, documents=[replace(pages.documents[0], text="other"), *pages.documents[1:]])
    elif change == "query":
        pages = replace(pages, queries={**pages.queries, "🙂": Query("Zeile", "en")})
    elif change == "query length":
        options["protocol"] = Protocol(query_max_length=8)
    else:
        options["embed"] = toy_embed(max_length=32) if change == "length" else toy_embed(mcls_every=256)
        opener = Kept(options["embed"])
    with opener.counting() as calls:
        found = run(opener, tmp_path, pages, **options)
    stored = {"text": 1, "query": 0, "query length": 0, "length": 16, "model": 16}[change]
    assert (calls["rank"], calls["query"], calls["stored"]) == (RANKINGS * QUERIES, LATENCIES, stored)
    if change == "text":
        assert found.mean == run(Kept(toy_embed()), tmp_path / "fresh", pages, **options).mean


def test_a_half_written_ranking_is_asked_for_again(tmp_path: Path):
    opener = Kept(toy_embed())
    first = run(opener, tmp_path)
    path = tmp_path / "help" / "all.trec"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    with opener.counting() as calls:
        second = run(opener, tmp_path)
    assert calls == {"rank": QUERIES, "optimize": 1}
    assert same(first) == same(second)


def test_a_damaged_state_asks_for_everything_and_ends_well(undisturbed: Evaluation, tmp_path: Path):
    opener = Kept(toy_embed())
    run(opener, tmp_path)
    state = tmp_path / "help" / "state.json"
    state.write_text(state.read_text()[:100])
    with opener.counting() as calls:
        found = run(opener, tmp_path)
    assert calls["rank"] == (RANKINGS + len(MODES)) * QUERIES
    assert found.mean == undisturbed.mean
    json.loads(state.read_text())
