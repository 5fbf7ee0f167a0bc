"""The command line for its user: tables, one-line errors, exit codes."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3_vdb.cli.main import app

ROWS = [
    {"id": "en-1", "title": "Formula bar", "text": "hide the formula bar", "lang": "en", "year": 2024},
    {"id": "de-1", "title": "", "text": "die Suche und der Vektor", "lang": "de", "year": 2023},
    {"id": "zh-1", "title": "", "text": "数据库 [bold] 搜索", "lang": "zh", "year": 2024},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def m3_vdb(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_ingest_then_search_then_info(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    store = tmp_path / "notes.qdrant"
    done = m3_vdb("ingest", corpus, "--store", store, "--model", tiny_bundle)
    assert done.exit_code == 0, done.output
    assert "3 documents" in done.stderr

    found = m3_vdb("search", "formula bar", "--store", store, "--model", tiny_bundle, "--json")
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert {hit["id"] for hit in hits} == {"en-1", "de-1", "zh-1"}
    for hit in hits:
        expected = hit["dense"] + 0.3 * hit["sparse"] + hit["multi_vector"]
        assert hit["score"] == pytest.approx(expected, rel=1e-4)
    assert hits == sorted(hits, key=lambda hit: -hit["score"])

    table = m3_vdb("search", "搜索", "--store", store, "--model", tiny_bundle).stdout
    assert "[bold]" in table, "a document's brackets are text, not markup"

    options = ("--store", store, "--model", tiny_bundle, "--filter", "lang=zh", "--explain")
    (hit,) = (json.loads(line) for line in m3_vdb("search", "搜索", *options, "--json").stdout.splitlines())
    explanation = hit["explanation"]
    assert sum(match["product"] for match in explanation["lexical"]) == pytest.approx(hit["sparse"], abs=1e-5)
    similarities = [match["similarity"] for match in explanation["alignment"]]
    assert sum(similarities) / len(similarities) == pytest.approx(hit["multi_vector"], abs=1e-5)
    shown = m3_vdb("search", "搜索", *options).stdout
    assert re.search(r"搜 +[\d.]+ × [\d.]+ = [\d.]+ +数据库 \[bold\] \[搜\]索", shown)
    assert "mean of each token's best similarity" in shown
    options = ("--store", store, "--model", tiny_bundle, "--boost", "year:0.001")
    best, *_ = (json.loads(line) for line in m3_vdb("search", "formula bar", *options, "--json").stdout.splitlines())
    year = best["payload"].get("year", 0)
    assert best["boost"] == pytest.approx(year / 1000)
    assert best["score"] == pytest.approx(best["dense"] + 0.3 * best["sparse"] + best["multi_vector"] + best["boost"])
    shown = m3_vdb("search", "formula bar", *options, "--explain").stdout
    assert f"boost {year / 1000:.3f}, from the payload" in shown
    info = m3_vdb("info", "--store", store, "--model", tiny_bundle).stdout
    assert "3 documents, made by this model" in info
    assert re.search(r"languages +de 1, en 1, zh 1\n", info)
    assert re.search(r"last run +command ingest, documents 3, rejected 0, time 2", info)
    whole = json.loads(m3_vdb("info", "--store", store, "--model", tiny_bundle, "--json", "--read-only").stdout)
    assert (whole["collection"]["documents"], whole["collection"]["last_run"]["command"]) == (3, "ingest")


def test_filters_understand_numbers_and_any_of(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    store = tmp_path / "notes.qdrant"
    m3_vdb("ingest", corpus, "--store", store, "--model", tiny_bundle)

    def ids(*conditions: str) -> set[str]:
        options = [part for condition in conditions for part in ("--filter", condition)]
        found = m3_vdb("search", "vector", "--store", store, "--model", tiny_bundle, "--json", *options)
        return {json.loads(line)["id"] for line in found.stdout.splitlines()}

    assert ids("year=2024") == {"en-1", "zh-1"}
    assert ids("lang=de", "lang=zh") == {"de-1", "zh-1"}
    assert ids("lang=zh", "year=2023") == set()


def test_bad_rows_are_named_and_the_exit_code_says_so(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("not json\n")
    done = m3_vdb("ingest", corpus, "--store", tmp_path / "notes.qdrant", "--model", tiny_bundle)
    assert done.exit_code == 3
    assert "line 4: not JSON" in done.stderr
    assert "3 documents, " in done.stderr
    assert "1 row not stored (1 not JSON): " in done.stderr


def test_help_names_every_command() -> None:
    shown = m3_vdb("--help").stdout
    assert all(command in shown for command in ("ingest", "search", "info"))
