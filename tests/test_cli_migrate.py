"""migrate on the command line: what it would do, the comparison, the switch, and the old one deleted."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from m3_vdb import M3EmbeddingFunction
from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError
from m3_vdb.stores import open_store
from m3_vdb.types import Document
from tests.ingest._fakes import IDENTITY, HashEmbed


def m3_vdb(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_migrate_a_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    store, judged = tmp_path / "notes.qdrant", tmp_path / "judged.jsonl"
    texts = ["the vector search", "die Suche", "hello world"]
    with open_store(store, IDENTITY) as opened:
        given = [Document(f"d{i}", text) for i, text in enumerate(texts)]
        opened.upsert(given, HashEmbed().encode_documents(texts))
    judged.write_text('{"query": "hello world", "relevant": {"d2": 2}}\n')
    command = ("migrate", "--store", store, "--model", tiny_bundle)
    dry = m3_vdb(*command, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would encode 3 rows of" in dry.stderr
    built = m3_vdb(*command, "--no-switch", "--eval", judged)
    assert "nDCG@10" in built.stderr
    assert "name it with --old-model" in built.stderr
    assert "to switch, run without --no-switch" in built.stderr
    done = m3_vdb(*command, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["switched"]
    assert json.loads(done.stdout)["encoded"] == 0, "all was encoded by the run before"
    with M3EmbeddingFunction(tiny_bundle) as embed, open_store(store, embed) as opened:
        assert opened.count() == 3
    assert "already" in m3_vdb(*command).stderr
    assert "deleted" in m3_vdb("migrate", "--store", store, "--drop-old").stderr
    assert "there is nothing to drop" in m3_vdb("migrate", "--store", store, "--drop-old").stderr
    assert "there is nothing to give up" in m3_vdb("migrate", "--store", store, "--cancel").stderr
    away = tmp_path / "away.qdrant"
    with open_store(away, IDENTITY) as opened:
        opened.upsert([Document("d0", "")], HashEmbed().encode_documents([""]))
    (tmp_path / "texts.csv").write_text("key;body\nd0;hello\n")
    reading = ("--from", tmp_path / "texts.csv", "--id-field", "key", "--text-field", "body", "--delimiter", ";")
    assert m3_vdb("migrate", "--store", away, "--model", tiny_bundle, *reading).exit_code == 0
    with open_store(away) as opened:
        assert opened.get(["d0"]) == [Document("d0", "hello")]
    wrong = m3_vdb("migrate", "--store", store)
    assert isinstance(wrong.exception, ConfigError)
    assert "expected --model NEW, or --drop-old or --cancel" in str(wrong.exception)
