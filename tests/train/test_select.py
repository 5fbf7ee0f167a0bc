"""Choosing training rows, on rows made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3_vdb.errors import ConfigError, DocumentError
from train.data.select import SelectConfig, select

ROWS = [
    {"query": "q0", "pos": ["p0"], "neg": ["n"], "lang": "de", "doc_lang": "de", "source": "ddtp", "concept": "c"},
    {"query": "q1", "pos": ["p1"], "lang": "de", "doc_lang": "en", "source": "ddtp"},
    {"query": "q2", "pos": ["p2"], "lang": "ar", "doc_lang": "en", "source": "libreoffice"},
    {"query": "q3", "pos": ["p3"], "lang": "en", "doc_lang": "ar", "source": "libreoffice"},
    {"query": "q4", "pos": ["p4"], "lang": "en", "doc_lang": "en", "source": "gnome"},
    {"query": "q5", "pos": ["p5"], "lang": "en", "source": "gnome"},
    {"query": "q6", "pos": ["p6"]},
]


def choose(folder: Path, rows=ROWS, **options) -> tuple[list[dict], list[str]]:
    """(rows written, warnings)."""
    data, out = folder / "in.jsonl", folder / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out.unlink(missing_ok=True)
    said: list[str] = []
    count = select(SelectConfig(data=[data], out=out, **options), report=said.append)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(written) == count
    assert said.pop().startswith(f"{out}: {count} of {len(rows)} rows")
    return written, said


def queries(rows: list[dict]) -> list[str]:
    return [row["query"] for row in rows]


def test_without_a_wish_every_row_is_kept_as_it_is(tmp_path):
    assert choose(tmp_path) == (ROWS, [])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"sources": ["ddtp", "libreoffice"]}, ["q0", "q1", "q2", "q3"]),
        ({"drop_sources": ["gnome"]}, ["q0", "q1", "q2", "q3", "q6"]),
        ({"languages": ["de", "en"]}, ["q0", "q1", "q4", "q5"]),  # both sides must be among them
        ({"drop_languages": ["ar"]}, ["q0", "q1", "q4", "q5", "q6"]),  # on either side
        ({"sources": ["ddtp"], "drop_languages": ["en"]}, ["q0"]),
    ],
)
def test_sources_and_languages(tmp_path, options, kept):
    rows, said = choose(tmp_path, **options)
    assert queries(rows) == kept
    assert said == []


def test_a_cap_counts_each_kind_by_itself_and_draws_nested_sets(tmp_path):
    rows = [
        {"query": f"{lang}{i}", "pos": ["p"], "lang": lang, "doc_lang": doc, "source": "s"}
        for i in range(20)
        for lang, doc in (("de", "de"), ("de", "en"), ("fr", "fr"))
    ]
    few, some = (choose(tmp_path, rows, cap=cap)[0] for cap in (3, 8))
    for kind in (("de", "de"), ("de", "en"), ("fr", "fr")):
        counts = [sum((row["lang"], row["doc_lang"]) == kind for row in kept) for kept in (few, some)]
        assert counts == [3, 8]
    assert all(row in some for row in few)
    assert [row for row in rows if row in some] == some  # in the order of the file
    other = choose(tmp_path, rows, cap=8, seed=1)[0]
    assert other != some
    shuffled = choose(tmp_path, rows[::-1], cap=8)[0]
    assert sorted(map(str, shuffled)) == sorted(map(str, some))
    mined = choose(tmp_path, [{**row, "neg": ["new"]} for row in rows], cap=8)[0]
    assert [{k: v for k, v in row.items() if k != "neg"} for row in mined] == some


def test_joined_rows_are_one_data_set_and_can_still_be_told_apart(tmp_path):
    from train.data.rows import dataset_of

    rows, _ = choose(tmp_path, join=["en"])
    assert [dataset_of(row) for row in rows] == [
        "ddtp/de",
        "cross-lingual/en",
        "cross-lingual/en",
        "libreoffice/en",
        "gnome/en",
        "gnome/en",
        "/",
    ]
    assert rows[2] == ROWS[2] | {"source": "cross-lingual", "lang": "en", "origin": "libreoffice", "query_lang": "ar"}
    assert rows[0] == ROWS[0]
    again, said = choose(tmp_path, rows, drop_languages=["ar"], sources=["ddtp", "libreoffice"])
    assert queries(again) == ["q0", "q1"]
    assert said == []


def test_a_name_that_no_row_has_is_said(tmp_path):
    rows, said = choose(tmp_path, drop_languages=["ar", "kmm"], sources=["ddtp", "libre"], join=["eng"])
    assert queries(rows) == ["q0", "q1"]
    assert [line.split(";")[0] for line in said] == [
        "warning: sources: no row has libre",
        "warning: drop_languages: no row has kmm",
        "warning: join: no row has eng",
    ]


def test_nothing_left_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(ConfigError, match="none of 7 rows is left"):
        choose(tmp_path, sources=["none"])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_exists_is_never_overwritten(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine", encoding="utf-8")
    config = SelectConfig(data=[tmp_path / "in.jsonl"], out=tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match=r"out\.jsonl exists"):
        select(config, report=print)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "mine"


def test_a_bad_row_is_named(tmp_path):
    with pytest.raises(DocumentError, match=r"in\.jsonl, line 2: 'pos'"):
        choose(tmp_path, [ROWS[0], {"query": "q", "pos": []}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": []}, "data is empty"),
        ({"cap": -1}, "cap=-1"),
        ({"languages": ["de"], "drop_languages": ["de"]}, "de: both in languages and in drop_languages"),
        ({"sources": ["a", "b"], "drop_sources": ["b"]}, "b: both in sources"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        SelectConfig(**{"data": [Path("rows.jsonl")], "out": Path("out.jsonl"), **options})
