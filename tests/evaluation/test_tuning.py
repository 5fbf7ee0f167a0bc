"""Weights found on dev queries: what they gain there, what they gain elsewhere, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import Collection, Evaluation, Protocol, Query, evaluate
from m3_vdb.types import Document
from m3_vdb.weights import Weights
from tests.evaluation._toy import Kept, collection, toy_embed

START = Protocol("start", weights=Weights(0, 1, 0.1), dense_sparse_weights=Weights(0.2, 1, 0))


def halves(name: str = "help", langs=("de", "en")) -> tuple[Collection, Collection]:
    """The same documents; the first five pages of every language are asked for on dev, the others in the test."""
    options = {"n": 12, "langs": langs, "length": 100}
    return collection(name, queries=slice(5, None), **options), collection(name, queries=slice(5), **options)


@pytest.fixture(scope="module")
def opener() -> Kept:
    return Kept(toy_embed())


@pytest.fixture(scope="module")
def tuned(opener: Kept) -> Evaluation:
    test, dev = halves()
    return evaluate([test], toy_embed(), opener, protocol=START, dev=[dev])


def with_weights(task: Collection, opener: Kept, mode: str, weights) -> float:
    """The mean over languages, asked of the store anew."""
    protocol = START.with_weights(mode, Weights(*weights))
    return evaluate([task], toy_embed(), opener, protocol=protocol, modes=[mode]).mean[mode]["nDCG@10"].value


def test_gains_on_dev_and_test_are_those_of_the_store(tuned: Evaluation, opener: Kept):
    test, dev = halves()
    assert [one.mode for one in tuned.tunings] == ["dense_sparse", "all"]
    for one in tuned.tunings:
        assert one.before == {"all": (0, 1, 0.1), "dense_sparse": (0.2, 1, 0)}[one.mode]
        assert one.dev_queries == len(dev.queries) == 10
        # Weights are tried on float32 sums; none is so close that a rank differs.
        assert one.dev_before == pytest.approx(with_weights(dev, opener, one.mode, one.before), abs=1e-6)
        assert one.dev_after == pytest.approx(with_weights(dev, opener, one.mode, one.after), abs=1e-6)
        assert one.test_before == pytest.approx(with_weights(test, opener, one.mode, one.before), abs=1e-9)
        assert one.test_after == pytest.approx(with_weights(test, opener, one.mode, one.after), abs=1e-9)
        assert one.dev_after > one.dev_before + 0.01, "there is something to gain, or this shows nothing"


def test_the_figures_are_those_of_the_tuned_weights(tuned: Evaluation):
    after = {one.mode: one for one in tuned.tunings}
    for mode in ("all", "dense_sparse"):
        assert tuned.mean[mode]["nDCG@10"].value == pytest.approx(after[mode].test_after)
    assert {curve.weight: curve.used for curve in tuned.curves} == dict(
        zip(("dense", "sparse", "multi_vector"), after["all"].after, strict=True)
    )
    assert after["dense_sparse"].after[2] == 0
    assert tuned.protocol["protocol"] == "start, weights tuned on dev"
    assert tuned.fusion_error is not None
    assert tuned.fusion_error < 1e-6
    assert not {"dev", "untuned"} & set(tuned.systems)


def test_single_scores_are_what_they_were(tuned: Evaluation, opener: Kept):
    test, _ = halves()
    plain = evaluate([test], toy_embed(), opener, protocol=START)
    for mode in ("dense", "sparse", "multi_vector"):
        assert tuned.mean[mode] == plain.mean[mode]


def test_filling_is_reported_though_dev_queries_came_first(tmp_path: Path):
    test, dev = halves()
    for out in (tmp_path / "out", None):
        found = evaluate([test], toy_embed(), Kept(toy_embed()), dev=[dev], modes=["all"], out=out)
        cost = found.costs["help"]
        assert (cost.documents, cost.reused) == (24, 0)
        assert cost.tokens > 0
        assert cost.ingest_seconds > 0


def test_only_modes_that_are_measured_are_tuned():
    test, dev = halves()
    found = evaluate([test], toy_embed(), Kept(toy_embed()), dev=[dev], modes=["dense", "all"])
    assert [one.mode for one in found.tunings] == ["all"]


def test_several_collections_share_one_set_of_weights():
    pairs = [halves("de", ["de"]), halves("en", ["en"])]
    opener = Kept(toy_embed())
    found = evaluate([test for test, _ in pairs], toy_embed(), opener, dev=[dev for _, dev in pairs], protocol=START)
    assert opener.opened == [("de", True), ("en", True), ("de", True), ("en", True)]
    assert {one.dev_queries for one in found.tunings} == {10}
    assert len(found.groups) == 2
    one = evaluate([pairs[0][0]], toy_embed(), Kept(toy_embed()), dev=[pairs[0][1]], protocol=START)
    assert {one.dev_queries for one in one.tunings} == {5}


def test_tuning_again_asks_nothing_and_finds_the_same(tmp_path: Path):
    test, dev = halves()
    opener = Kept(toy_embed())
    first = evaluate([test], toy_embed(), opener, dev=[dev], out=tmp_path)
    with opener.counting() as calls:
        second = evaluate([test], toy_embed(), opener, dev=[dev], out=tmp_path)
    assert calls == {}
    assert (first.tunings, first.mean, first.curves) == (second.tunings, second.mean, second.curves)
    assert (tmp_path / "help" / "dev.all.sparse.dense.trec").is_file()


def test_other_test_queries_choose_no_other_weights():
    test, dev = halves()
    few = test.only(list(test.queries)[:3])
    one, other = (evaluate([part], toy_embed(), Kept(toy_embed()), dev=[dev]) for part in (test, few))
    assert [tuning.after for tuning in one.tunings] == [tuning.after for tuning in other.tunings]
    assert [tuning.dev_after for tuning in one.tunings] == [tuning.dev_after for tuning in other.tunings]


TEST, DEV = halves()
ANSWERS = Collection("help", [Document("d", "x")], {"q": Query("q")}, answers={"q": ["x"]})


@pytest.mark.parametrize(
    ("dev", "test", "modes", "message"),
    [
        (replace(DEV, qrels={}), TEST, ["all"], "the dev queries have no judgements"),
        (replace(DEV, name="other"), TEST, ["all"], "other: no such collection is evaluated"),
        (TEST, TEST, ["all"], "is in dev and in test"),
        (DEV, TEST, ["dense", "sparse"], "none has weights to tune: add dense_sparse or all"),
    ],
)
def test_dev_queries_that_would_cheat_or_tune_nothing_are_refused(dev, test, modes, message):
    opener = Kept(toy_embed())
    with pytest.raises(ConfigError, match=message):
        evaluate([test], toy_embed(), opener, dev=[dev], modes=modes)
    assert opener.opened == []


def test_judgements_cannot_tune_what_answers_measure():
    with pytest.raises(ConfigError, match="either judgements everywhere or answers everywhere"):
        evaluate([ANSWERS], toy_embed(), "memory://", dev=[DEV])
