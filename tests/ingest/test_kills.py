"""kill -9 at any moment, and again while resuming: collection and dead letters are those of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, rows
from tests.ingest._victim import run

IDS = [f"d{i}" for i in range(60)]
EVENTS = 2 * 10 + 2 * 11 + 8
"""Of an undisturbed run: upserts, commits, dead letters."""


def write_corpus(path: Path) -> Path:
    lines = [json.dumps({"id": one, "text": f"text {i} of {one}", "n": i}) for i, one in enumerate(IDS)]
    for at, bad in ((5, "not json"), (17, '{"id": "d3", "text": "again"}'), (18, '{"id": "p", "text": "poison"}')):
        lines.insert(at, bad)
    lines += ['{"id": "q", "text": "nan"}', '{"id": "d59", "text": "again"}', '{"text": "no id"}']
    path.write_text("\n".join(lines) + "\n")
    return path


def outcome(folder: Path) -> tuple[object, list[str]]:
    with QdrantEdgeStore(folder / "x.qdrant", identity=IDENTITY) as store:
        assert store.count() == len(IDS)
        return rows(store, IDS), (folder / "rejected.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, list[str]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    corpus = write_corpus(folder / "c.jsonl")
    report = run(corpus, folder)
    assert (report.documents, report.rejected_count) == (60, 6)
    return corpus, outcome(folder)


@pytest.mark.parametrize("seed", [0, *soak(range(1, 24))])
def test_killed_twice_and_resumed(
    tmp_path: Path, undisturbed: tuple[Path, tuple[object, list[str]]], seed: int
) -> None:
    corpus, expected = undisturbed
    rng = random.Random(seed)
    for event in (rng.randrange(1, EVENTS), rng.randrange(1, EVENTS // 2)):
        command = [sys.executable, "-m", "tests.ingest._victim", str(corpus), str(tmp_path), str(event)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    report = run(corpus, tmp_path)
    assert report.resumed + report.documents + report.unchanged <= len(IDS) + 6
    assert report.rejections == {
        "not JSON": 1, "duplicate id": 2, "model output": 1, "not storable": 1, "no id": 1
    }  # fmt: skip
    assert outcome(tmp_path) == expected
    assert not (tmp_path / "checkpoint").exists()
