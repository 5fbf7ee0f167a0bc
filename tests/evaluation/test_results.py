"""``results.json``: what is saved is what is loaded, and a damaged file is named as such."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.results import (
    Approximation,
    Comparison,
    Cost,
    Curve,
    Evaluation,
    Figure,
    Group,
    Percentiles,
    Tuning,
)
from tests.evaluation import _results

NUMBER = st.floats(allow_nan=False)
NAME = st.text()  # lone surrogates are among them
COUNT = st.integers(min_value=0)


def by_name(values):
    return st.dictionaries(NAME, values, max_size=3)


def tuples(values):
    return st.lists(values, max_size=3).map(tuple)


FIGURES = by_name(by_name(st.builds(Figure, NUMBER, NUMBER, NUMBER)))
PERCENTILES = st.builds(Percentiles, NUMBER, NUMBER, NUMBER, COUNT)
MAYBE = st.none() | PERCENTILES
ENDS = st.none() | NUMBER
WEIGHTS = st.tuples(NUMBER, NUMBER, NUMBER)
EVALUATIONS = st.builds(
    Evaluation,
    task=NAME,
    created=NAME,
    command=NAME,
    environment=by_name(NAME),
    model=by_name(NAME),
    store=NAME,
    protocol=by_name(NAME),
    measures=tuples(NAME),
    systems=tuples(NAME),
    baseline=NAME,
    groups=tuples(st.builds(Group, NAME, NAME, COUNT, COUNT, FIGURES)),
    mean=FIGURES,
    pooled=FIGURES,
    comparisons=by_name(by_name(st.builds(Comparison, NUMBER, NUMBER, COUNT, COUNT, ENDS, ENDS))),
    costs=by_name(
        st.builds(
            Cost,
            documents=COUNT,
            reused=COUNT,
            rejected=COUNT,
            tokens=COUNT,
            truncated=COUNT,
            ingest_seconds=NUMBER,
            index_bytes=st.none() | COUNT,
            encode_ms=MAYBE,
            search_ms=by_name(PERCENTILES),
        )
    ),
    approximations=by_name(st.builds(Approximation, by_name(NUMBER), by_name(NUMBER), NUMBER, MAYBE)),
    curves=tuples(st.builds(Curve, NAME, NUMBER, tuples(st.tuples(NUMBER, NUMBER)))),
    tunings=tuples(st.builds(Tuning, NAME, WEIGHTS, WEIGHTS, COUNT, NUMBER, NUMBER, NUMBER, NUMBER)),
    fusion_error=ENDS,
)


@given(evaluation=EVALUATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
def test_what_is_saved_is_loaded(tmp_path: Path, evaluation: Evaluation) -> None:
    path = tmp_path / "results.json"
    evaluation.save(path)
    assert Evaluation.load(path) == evaluation


@pytest.mark.parametrize("make", [_results.many_languages, _results.pooled_collection, _results.one_group])
def test_examples_come_back(tmp_path: Path, make) -> None:
    path = tmp_path / "results.json"
    make().save(path)
    loaded = Evaluation.load(path)
    assert loaded == make()
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_nan_comes_back(tmp_path: Path) -> None:
    _results.with_gaps().save(tmp_path / "results.json")
    assert math.isnan(Evaluation.load(tmp_path / "results.json").groups[0].figures["all"]["nDCG@10"].value)


def test_a_whole_number_is_a_float_where_one_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    _results.one_group().save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["mean"]["dense"]["nDCG@10"]["value"] = 1
    path.write_text(json.dumps(content), encoding="utf-8")
    value = Evaluation.load(path).mean["dense"]["nDCG@10"].value
    assert (value, type(value)) == (1.0, float)


DAMAGE = {
    "a field is missing": lambda content: content.pop("groups"),
    "a nested field is missing": lambda content: content["groups"][0].pop("queries"),
    "text for a list": lambda content: content.update(systems="dense"),
    "a list for an object": lambda content: content.update(mean=[]),
    "an object for a list": lambda content: content.update(groups={}),
    "text for a number": lambda content: content["groups"][0].update(queries="many"),
    "true for a number": lambda content: content["groups"][0].update(queries=True),
    "a number for text": lambda content: content.update(task=3),
    "null for text": lambda content: content.update(task=None),
    "a pair of three": lambda content: content["curves"][0]["points"][0].append(1.0),
    "no format": lambda content: content.pop("format"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_content_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results.json"
    _results.pooled_collection().save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    DAMAGE[damage](content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"results\.json is not an m3-vdb results\.json, or is damaged"):
        Evaluation.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b'{"format": 1}', b"[" * 200_000]
)
def test_what_is_no_results_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.json"):
        Evaluation.load(path)


def test_another_format_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(ConfigError, match="format 99, expected 1: evaluate again"):
        Evaluation.load(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Evaluation.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize(
    ("collection", "lang", "label"), [("mkqa", "de", "mkqa de"), ("de", "de", "de"), ("notes", "", "notes")]
)
def test_labels(collection: str, lang: str, label: str) -> None:
    assert Group(collection, lang, 1, 1, {}).label == label
