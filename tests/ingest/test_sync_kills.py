"""kill -9 at any moment of a sync, twice, and again: the collection is that of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, rows
from tests.ingest._sync_victim import run

EVENTS = 46
"""Of an undisturbed run."""
ENCODED = [f"new {i}" for i in range(5, 10)] + [f"text {i}" for i in range(40, 50)] + ["new f5"]


def write_rows(folder: Path, texts: dict[int, str]) -> None:
    lines = [
        json.dumps({"id": f"d{i}", "text": text, "n": i if "old" in folder.name else i % 5})
        for i, text in texts.items()
    ]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))


def outcome(folder: Path) -> object:
    with QdrantEdgeStore(folder / "x.qdrant", identity=IDENTITY) as store:
        return rows(store, sorted(one.id for some in store.documents() for one in some))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, object]:
    """A collection that holds the old corpus, the new corpus, and what the collection then holds."""
    folder = tmp_path_factory.mktemp("sync")
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        path.mkdir()
    write_rows(old, {i: f"text {i}" for i in range(40)})
    write_rows(new, {i: f"{'new' if 5 <= i < 10 else 'text'} {i}" for i in range(50) if not 10 <= i < 15})
    for i in range(10):
        (old / f"f{i}.txt").write_text(f"file {i}")
    for source, target in ((0, "moved"), (1, "f2"), (2, "f1"), (3, "f3"), (6, "f7"), (7, "f8"), (8, "f9"), (9, "f10")):
        (new / f"{target}.txt").write_text(f"file {source}")  # two change places, four move up by one, f4 is gone
    (new / "f5.txt").write_text("new f5")
    run(old, folder)
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    shutil.copytree(folder / "x.qdrant", undisturbed / "x.qdrant")
    encoded: list[str] = []
    plan = run(new, undisturbed, encoded).plan
    assert sorted(encoded) == sorted(ENCODED)
    assert (plan.moved, plan.removed, plan.updated) == (2, 8, 25)
    return folder, new, outcome(undisturbed)


@pytest.mark.parametrize("seed", [0, 1, *soak(range(2, 20))])
def test_killed_twice_and_run_again(tmp_path: Path, corpora: tuple[Path, Path, object], seed: int) -> None:
    folder, corpus, expected = corpora
    shutil.copytree(folder / "x.qdrant", tmp_path / "x.qdrant")
    rng = random.Random(seed)
    killed = 0
    for event in (rng.randrange(1, EVENTS), rng.randrange(1, EVENTS // 2)):
        command = [sys.executable, "-m", "tests.ingest._sync_victim", str(corpus), str(tmp_path), str(event)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        killed += done.returncode != 0
    assert killed
    run(corpus, tmp_path)
    assert outcome(tmp_path) == expected
    assert str(run(corpus, tmp_path).plan) == f"{len(expected)} unchanged"
