"""sync on the command line: the plan before anything happens, and the summary after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError, StoreError
from m3_vdb.stores import open_store


def m3_vdb(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, text in (("a.md", "# Title\n\nthe vector search"), ("b.txt", "die Suche"), ("c.txt", "hello world")):
        (folder / name).write_text(text)
    return folder


def held(store: Path) -> dict[str, str]:
    with open_store(store) as opened:
        return {one.id: one.text for some in opened.documents() for one in some}


def test_plan_then_sync_then_what_has_changed(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    store = tmp_path / "notes.qdrant"
    options = (corpus, "--store", store, "--model", tiny_bundle)
    plan = m3_vdb("sync", *options, "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "would be: 3 added, 0 unchanged" in plan.stderr
    assert "  added: a.md, b.txt, c.txt" in plan.stderr
    assert not store.exists()

    done = m3_vdb("sync", *options)
    assert done.exit_code == 0, done.output
    assert "3 added, 0 unchanged" in done.stderr
    assert "now holds 3" in done.stderr

    (corpus / "b.txt").rename(corpus / "d.txt")
    (corpus / "c.txt").write_text("hello repeat")
    (corpus / "bad.txt").write_bytes(b"\xfa")
    again = m3_vdb("sync", *options, "--json")
    assert again.exit_code == 3, "a file was rejected"
    assert "1 changed, 1 moved, 1 removed, 1 rejected, 1 unchanged" in again.stderr
    assert "bad.txt" in again.stderr
    summary = json.loads(again.stdout)
    assert summary["source"] == str(corpus)
    assert (summary["documents"], summary["held"], summary["moved"]) == (1, 3, 1)
    assert held(store) == {"a.md": "the vector search", "d.txt": "die Suche", "c.txt": "hello repeat"}

    rejected = m3_vdb("sync", *options)
    assert f"0 documents; {store} now holds 3" in rejected.stderr
    assert "encoder" not in rejected.stderr, "nothing was encoded, so nothing is said about its speed"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX terminal")
def test_no_bar_stays_on_a_terminal(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """After a sync of nothing new it would read "reading" for ever."""
    options = (corpus, "--store", tmp_path / "notes.qdrant", "--model", tiny_bundle)
    m3_vdb("sync", *options)
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "m3_vdb", "sync", *map(str, options)]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that the other side was closed
            pass
    os.close(ours)
    assert "━" in shown.decode()
    assert "3 unchanged" in shown.decode()
    assert "━" not in shown.decode().rsplit("\x1b[2K", 1)[1], "erased"


def test_what_cannot_be_meant_is_one_line(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    options = (corpus, "--store", tmp_path / "notes.qdrant", "--model", tiny_bundle)
    for wrong, message in (
        (("sync", *options, "--max-removed", "some"), "expected a share such as 20%"),
        (("ingest", *options, "--prune", "--resume"), "a sync has no --resume"),
        (("watch", *options, "--dry-run"), "--dry-run is for m3-vdb sync"),
        (("sync", "-", *options[1:]), "standard input has no name: m3-vdb sync --source NAME"),
    ):
        done = m3_vdb(*wrong)
        assert isinstance(done.exception, ConfigError)
        assert message in str(done.exception)
    assert "3 added" in m3_vdb("ingest", *options, "--prune", "--bm25").stderr
    assert "3 unchanged" in m3_vdb("sync", *options).stderr
    with open_store(tmp_path / "notes.qdrant") as opened:
        assert opened.has_bm25
        busy = m3_vdb("sync", *options)
    assert isinstance(busy.exception, StoreError)
    assert "is open already" in str(busy.exception)
