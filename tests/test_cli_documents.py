"""get, count, update and delete on the command line: no model is opened, and what a filter means is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3_vdb import Document, Passage
from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError
from m3_vdb.stores import open_store
from tests.ingest._fakes import IDENTITY, HashEmbed, rows

DOCUMENTS = [
    Document("a", "one", "A", {"lang": "de", "year": 2001}),
    Document("b", "two", payload={"lang": "de"}),
    Document("long", "three ", payload={"lang": "fr"}, passage=Passage("long", 1, 2, 0, 6)),
    Document("long¶2", "four", payload={"lang": "fr"}, passage=Passage("long", 2, 2, 6, 10)),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "notes.qdrant"
    with open_store(path, identity=IDENTITY) as opened:
        opened.upsert(DOCUMENTS, HashEmbed().encode_documents([one.content for one in DOCUMENTS]))
    return path


def m3_vdb(command: str, store: Path, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [command, "--store", str(store), *arguments], input=answer)


def found(store: Path, *ids: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in m3_vdb("get", store, *ids).stdout.splitlines()]


def count(store: Path, *filters: str) -> int:
    options = [part for one in filters for part in ("--filter", one)]
    return int(m3_vdb("count", store, *options).stdout)


def test_get_prints_whole_documents_and_names_those_that_are_missing(store: Path) -> None:
    assert found(store, "long", "a") == [
        {"id": "long", "title": "", "text": "three four", "payload": {"lang": "fr"}},
        {"id": "a", "title": "A", "text": "one", "payload": {"lang": "de", "year": 2001}},
    ]
    done = m3_vdb("get", store, "a", "nope")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert "no document 'nope'" in done.stderr


def test_delete_by_ids_takes_all_passages_and_by_a_filter_needs_a_yes(store: Path) -> None:
    assert "deleted 1 of 4" in m3_vdb("delete", store, "long", "nope").stderr
    assert count(store) == 2
    asked = m3_vdb("delete", store, "--filter", "lang=de")
    with pytest.raises(ConfigError, match=r"would delete 2 of 2 in .*: add --yes"):
        raise asked.exception
    assert "would delete 2 of 2" in m3_vdb("delete", store, "--filter", "lang=de", "--dry-run").stderr
    assert count(store, "lang=de") == 2
    assert m3_vdb("delete", store, "--filter", "year>=2000", "--yes").exit_code == 0
    assert (count(store), count(store, "lang=de")) == (1, 1)


def test_update_changes_payloads_and_nothing_else(store: Path) -> None:
    with open_store(store) as opened:
        before = rows(opened, ["a", "b", "long", "long¶2"])
    assert m3_vdb("update", store, "a", "long", "--set", "year=2024", "--set", 'tags=["x"]').exit_code == 0
    assert m3_vdb("update", store, "--filter", "lang=fr", "--unset", "lang", "--yes").exit_code == 0
    assert m3_vdb("update", store, "b", "--payload", '{"kind": "new"}').exit_code == 0
    new = {"a": {"lang": "de", "year": 2024, "tags": ["x"]}, "b": {"kind": "new"}}
    new |= {"long": {"year": 2024, "tags": ["x"]}, "long¶2": {"year": 2024, "tags": ["x"]}}
    with open_store(store) as opened:
        after = rows(opened, list(before))
        assert {one.id: one.payload for one in opened.get(list(before))} == new
    assert {id: vectors for id, (_, vectors) in after.items()} == {id: vectors for id, (_, vectors) in before.items()}
    assert [one["text"] for one in found(store, "a", "long")] == ["one", "three four"]


def test_a_source_is_counted_and_deleted_as_a_whole(store: Path) -> None:
    with open_store(store) as opened:
        opened.update_payloads([replace(one, source="old") for one in opened.get(["a", "long", "long¶2"])])
    options = ("--source", "old")
    assert m3_vdb("count", store, *options).stdout == "3\n"
    assert m3_vdb("count", store, *options, "--filter", "lang=de").stdout == "1\n"
    assert "would delete 2 of 4" in str(m3_vdb("delete", store, *options).exception)
    assert m3_vdb("delete", store, *options, "--yes").exit_code == 0
    assert [one["id"] for one in found(store, "a", "b", "long")] == ["b"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("delete", [], "expected IDS, --filter or --source, got nothing"),
        ("delete", ["a", "--filter", "lang=de"], "expected IDS, --filter or --source, got IDS and --filter"),
        ("update", ["a"], "expected --set FIELD=VALUE"),
        ("update", ["a", "--set", "lang"], "expected FIELD=VALUE"),
        ("update", ["a", "--payload", "[1]"], "expected a JSON object"),
    ],
)
def test_what_cannot_be_meant_is_one_line(store: Path, command: str, arguments: list[str], message: str) -> None:
    done = m3_vdb(command, store, *arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
