"""Rankings and values are made once for every key, and a file that was touched is not believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3_vdb.evaluation.protocol import Request
from m3_vdb.evaluation.runs import STATE, Workspace, file_name
from m3_vdb.weights import Weights

RUN = {"q": {"a": 0.5, "b": 0.25}, "r": {"a": 1 / 3}}


class Maker:
    """Gives a value and counts how often it was asked."""

    def __init__(self, value) -> None:
        self.value, self.made = value, 0

    def __call__(self):
        self.made += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_a_ranking_that_was_just_made_is_the_one_that_is_read_back(tmp_path: Path):
    """More digits than a file says, and a query without results."""
    run = {**RUN, "nothing": {}, "ties": {"a": 0.1234567891, "b": 0.1234567892}}
    made = Workspace(tmp_path, "").run("dense", "", Maker(run))
    assert made == Workspace(tmp_path, "").run("dense", "", Maker(AssertionError("made again")))
    assert made["r"] == {"a": 0.333333333}
    assert made["ties"] == {"a": 0.123456789, "b": 0.123456789}
    assert "nothing" not in made


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "\n".join(text.splitlines()[:-1]) + "\n",
        lambda text: text.replace("0.25", "0.75"),
        lambda _: "",
    ],
)
def test_a_file_that_was_cut_off_or_changed_is_made_again(tmp_path: Path, damage):
    Workspace(tmp_path, "").run("dense", "", Maker(RUN))
    path = tmp_path / "dense.trec"
    whole = path.read_text()
    path.write_text(damage(whole))
    make = Maker(RUN)
    Workspace(tmp_path, "").run("dense", "", make)
    assert make.made == 1
    assert path.read_text() == whole


def test_a_file_of_another_key_is_not_believed(tmp_path: Path):
    """Stopped after the file of the second request was written and before its key was."""
    Workspace(tmp_path, "").run("dense", "first", Maker(RUN))
    state = (tmp_path / STATE).read_text()
    Workspace(tmp_path, "").run("dense", "second", Maker({"q": {"z": 1.0}}))
    (tmp_path / STATE).write_text(state)
    assert Workspace(tmp_path, "").run("dense", "first", Maker(RUN))["q"] == RUN["q"]


@pytest.mark.parametrize("text", ["", '{"dense": {"key', "[1]", '{"dense": 5, "cost": "x"}', "null"])
def test_a_damaged_state_forgets_and_does_not_fail(tmp_path: Path, text: str):
    Workspace(tmp_path, "").run("dense", "", Maker(RUN))
    (tmp_path / STATE).write_text(text)
    make, cost = Maker(RUN), Maker([1])
    workspace = Workspace(tmp_path, "")
    workspace.run("dense", "", make)
    assert workspace.value("cost", "", cost) == [1]
    assert (make.made, cost.made) == (1, 1)
    json.loads((tmp_path / STATE).read_text())


def test_what_fails_is_not_kept_and_what_was_kept_stays(tmp_path: Path):
    workspace = Workspace(tmp_path, "")
    workspace.run("dense", "", Maker(RUN))
    with pytest.raises(KeyError):
        workspace.run("dense", "other", Maker(KeyError("store")))
    with pytest.raises(KeyError):
        workspace.run("sparse", "", Maker(KeyError("store")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.trec", STATE]
    assert Workspace(tmp_path, "").run("dense", "", Maker(AssertionError()))["q"] == RUN["q"]


def test_values_are_kept_under_a_key_until_they_are_forgotten(tmp_path: Path):
    make = Maker({"p50": 1.5})
    for _ in range(2):
        assert Workspace(tmp_path, "").value("latency", "", make) == {"p50": 1.5}
    assert make.made == 1
    Workspace(tmp_path, "").value("latency", "other", make)
    assert make.made == 2
    workspace = Workspace(tmp_path, "")
    workspace.forget("latency")
    workspace.value("latency", "other", make)
    assert make.made == 3


def test_a_collection_in_a_folder_gets_a_flat_name():
    assert file_name("debian/de") == "debian-de"


def test_rankings_of_version_0_1_0_are_read_back(tmp_path: Path):
    """The key is a hash of the request's ``repr``, so neither its class nor its fields may get other names."""
    request = Request(Weights(1, 0.3, 1), "dense", 200)
    workspace = Workspace(tmp_path, "corpus")
    workspace.run("all", (request, "queries"), Maker(RUN))
    assert json.loads((tmp_path / STATE).read_text())["all"]["key"] == "9e907094dce7591f23fc7462"
