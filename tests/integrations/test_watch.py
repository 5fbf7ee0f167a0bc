"""watch on the command line: it follows a folder, survives a bad file, and ends cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli_sync import corpus, held

__all__ = ["corpus"]
pytestmark = pytest.mark.integration


@pytest.fixture
def watching(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "m3_vdb", "watch", corpus, "--store", corpus / "notes.qdrant"]
    options = ["--model", tiny_bundle, "--quiet", "0.1", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_watch_follows_until_ctrl_c(corpus: Path, watching: subprocess.Popen[str]) -> None:
    assert watching.stdout is not None

    def next_sync() -> dict[str, object]:
        return json.loads(watching.stdout.readline())

    assert next_sync()["added"] == 3
    (corpus / "c.txt").write_text("hello repeat")
    assert next_sync()["changed"] == 1
    (corpus / "sub").mkdir()
    (corpus / "bad.txt").write_bytes(b"\xfa")  # costs itself
    (corpus / "sub" / "e.txt").write_text("la recherche")
    state = next_sync()
    while state["held"] != 4:  # the burst may have ended between the two
        state = next_sync()
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 0, said
    assert said.splitlines()[-1] == "stopped watching"
    assert "bad.txt" in said
    assert held(corpus / "notes.qdrant").keys() == {"a.md", "b.txt", "c.txt", "sub/e.txt"}
