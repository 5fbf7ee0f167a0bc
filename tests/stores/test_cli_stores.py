"""The command line's words for filters and for new collections."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from benchmarks.stubs.qdrant_stub_engine import RefusedError
from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError, StoreRequestError
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


def test_exact_words_from_ingest_to_search(tmp_path, tiny_bundle):
    """Added to a collection that exists, then with the documents of an ingest, found and explained."""
    store, corpus, more = tmp_path / "parts.qdrant", tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path, numbers in ((corpus, range(1000, 1040)), (more, range(1040, 1050))):
        path.write_text("".join(json.dumps({"id": str(i), "text": f"Pump AB-{i}/X"}) + "\n" for i in numbers))
    assert m3_vdb("ingest", corpus, "--store", store, "--model", tiny_bundle).exit_code == 0
    refused = m3_vdb("search", "AB-1007/X", "--store", store, "--model", tiny_bundle, "--weights", "1,0.3,1,1")
    assert "has no exact words: make it with CollectionOptions(bm25=True)" in str(refused.exception)
    assert m3_vdb("ingest", more, "--bm25", "--store", store, "--model", tiny_bundle).exit_code == 0
    asked = ["--store", store, "--model", tiny_bundle, "--weights", "0,0,0,1", "--limit", "1"]
    for number in (1007, 1044):
        (line,) = m3_vdb("search", f"where is ab-{number}/x?", *asked, "--json").stdout.splitlines()
        hit = json.loads(line)
        assert hit["id"] == str(number)
        assert hit["score"] == pytest.approx(hit["bm25"], rel=1e-5)
    shown = m3_vdb("search", "where is ab-1044/x?", *asked, "--explain").stdout
    assert "exact words: ab-1044/x, ab-1044, ab, 1044, x" in shown
    assert "bm25" in shown.splitlines()[1] + shown.splitlines()[2]
    assert "exact words" in m3_vdb("create", "--store", store, "--bm25").stderr


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


def test_a_key_that_may_only_read_is_not_told_to_resume(tmp_path, tiny_bundle, monkeypatch):
    stub = RestStub()
    store = f"qdrant://{stub.address}/notes"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "text": "vector"}\n', encoding="utf-8")
    ingest = ["ingest", corpus, "--store", store, "--model", tiny_bundle, "--checkpoint", tmp_path / "run.ingest"]
    assert m3_vdb("create", "--store", store, "--model", tiny_bundle).exit_code == 0
    stub.keys = {"reads": False}
    monkeypatch.setenv("QDRANT_API_KEY", "reads")
    done = m3_vdb(*ingest)
    assert isinstance(done.exception, StoreRequestError)
    assert "403 Forbidden: Write access to collection notes is required; the key may not do that" in str(done.exception)
    assert "--resume" not in done.stderr
    stub.keys = {}

    def full(_points):
        raise RefusedError(500, "Service internal error: No space left on device")

    monkeypatch.setattr(stub.engine.collections["notes"], "upsert", full)
    assert "--resume" in m3_vdb(*ingest, "--attempts", 1).stderr
    stub.close()


def test_info_on_a_collection_that_does_not_exist_fails_in_one_line(tmp_path, tiny_bundle):
    command = [sys.executable, "-m", "m3_vdb", "info", "--model", tiny_bundle, "--store", tmp_path / "no.qdrant"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line == f"error: there is no collection in {tmp_path}/no.qdrant: check the name, or ingest into it first"
