"""Figures of an evaluation by source of the texts."""

import pytest

from benchmarks.debian.by_source import by_source, source_of
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.metrics import write_run
from tests.test_zero_shot import write


def test_the_source_is_the_first_part_of_a_query_id():
    assert [source_of("q-lo/shared/02/01171300"), source_of("q-gnome/help")] == ["lo", "gnome"]


def test_every_collection_counts_once_in_the_mean_of_a_source(tmp_path):
    """de: lo found first and second, gnome found first; fr: lo not found; one query of de was thinned away."""
    asked = {"q-lo/1": ("de", "a", "lo/1"), "q-lo/2": ("de", "b", "lo/2"), "q-gnome/1": ("de", "c", "gnome/1")}
    asked_too = {"q-lo/1": ("fr", "a", "lo/1")}
    documents = {"lo/1": "a", "lo/2": "b", "gnome/1": "c"}
    de = write(tmp_path / "de", documents, asked | {"q-lo/3": ("de", "d", "lo/1")})
    fr = write(tmp_path / "fr", documents, asked_too)
    run = {
        "q-lo/1": {"lo/1": 2.0},
        "q-lo/2": {"lo/1": 2.0, "lo/2": 1.0},  # second: 1 / log2(3)
        "q-gnome/1": {"gnome/1": 1.0},
    }
    write_run(run, tmp_path / "out/de/all.trec", tag="all")
    write_run({"q-lo/1": {"lo/2": 1.0}}, tmp_path / "out/fr/all.trec", tag="all")
    means, queries = by_source(tmp_path / "out", [str(de), str(fr)])
    assert queries == {"lo": 3, "gnome": 1}
    assert means["gnome"] == {"all": 1.0}
    assert means["lo"]["all"] == pytest.approx(((1 + 0.6309297535714575) / 2 + 0) / 2)


def test_a_folder_without_runs_says_what_it_should_be(tmp_path):
    de = write(tmp_path / "de", {"lo/1": "a"}, {"q-lo/1": ("de", "a", "lo/1")})
    with pytest.raises(ConfigError, match="no run files"):
        by_source(tmp_path / "out", [str(de)])
