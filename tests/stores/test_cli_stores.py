"""The command line's words for filters and for new collections."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError
from m3_vdb.stores import open_store


def m3_vdb(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_create_then_ingest_then_search_by_a_range(tmp_path, tiny_bundle):
    store, corpus = tmp_path / "notes.qdrant", tmp_path / "corpus.jsonl"
    rows = [{"id": str(year), "text": f"text of {year}", "year": year} for year in range(2000, 2006)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = m3_vdb("create", "--store", store, "--model", tiny_bundle, "--storage", "half", "--index", "year=integer")
    assert made.exit_code == 0, made.output
    assert "0 documents" in made.stderr
    assert m3_vdb("ingest", corpus, "--store", store, "--model", tiny_bundle).exit_code == 0
    with open_store(str(store), identity=None, create=False) as opened:
        assert opened.field_types == {"year": "integer"}
        assert opened._shard.info().payload_schema
    found = m3_vdb(
        "search", "text", "--store", store, "--model", tiny_bundle, "--json", "--limit", "9",
        "--filter", "year>2001", "--filter", "year<=2004", "--filter", "year!=2003",
    )  # fmt: skip
    assert {json.loads(line)["id"] for line in found.stdout.splitlines()} == {"2002", "2004"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "tiny"], "storage='tiny': expected one of float32, half, quarter"),
        (["--index", "year"], "--index 'year': expected FIELD=TYPE"),
        (["--index", "year=int"], "'int' is not a type; expected one of keyword"),
        (["--index", "$x=integer"], r"begins with \$ cannot be filtered"),
        (["--shards", "2"], "does not support the option shard_number"),
        (["--replicas", "0"], "replication_factor=0"),
        (["--index", "who=integer", "--tenant", "who"], "tenant 'who': it is a keyword field"),
    ],
    ids=str,
)
def test_options_that_cannot_be_kept(tmp_path, tiny_bundle, arguments, message):
    done = m3_vdb("create", "--store", tmp_path / "c.qdrant", "--model", tiny_bundle, *arguments)
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise done.exception
    assert not (tmp_path / "c.qdrant").exists()


def test_grpc_travels_from_both_commands_to_the_client(tmp_path, tiny_bundle, monkeypatch):
    stub, told = GrpcStub(), []

    def opened(url, **given):
        told.append((url, given["prefer_grpc"]))
        return open_store(url, **given, grpc_port=stub.port)

    monkeypatch.setattr("m3_vdb.cli.main.open_store", opened)
    monkeypatch.setattr("m3_vdb.cli.run.open_store", opened)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "text": "vector"}\n', encoding="utf-8")
    options = ["--store", "qdrant://127.0.0.1:1/notes", "--model", tiny_bundle, "--grpc"]  # nothing listens for REST
    try:
        done = m3_vdb("ingest", corpus, *options, "--checkpoint", tmp_path / "run.ingest")
        assert done.exit_code == 0, done.output
        assert [
            json.loads(line)["id"] for line in m3_vdb("search", "vector", *options, "--json").stdout.splitlines()
        ] == ["a"]
    finally:
        stub.close()
    assert told == [("qdrant://127.0.0.1:1/notes", True)] * 2
