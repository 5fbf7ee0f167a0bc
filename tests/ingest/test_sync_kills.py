"""kill -9 at any moment of a sync, twice, and again: the collection is that of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.stores import open_store
from tests._soak import soak
from tests.ingest._fakes import IDENTITY
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


def outcome(url: str) -> dict[str, object]:
    """Id → document and vectors."""
    with open_store(url, IDENTITY) as store:
        ids = [one.id for some in store.documents() for one in some]
        return {
            document.id: (document, one.dense.tolist(), one.sparse.as_dict(), one.multi_vector.tolist())
            for some, vectors in store.get_with_vectors(ids)
            for document, one in zip(some, vectors, strict=True)
        }


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The old corpus and the new one."""
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
    return old, new


FOLDER: Final = "{}.qdrant"
FILE: Final = "{}.milvus.db"
STUB: Final = "{}"
"""Name of a collection → its place in a folder, in a file of milvus-lite, on a stub of a Qdrant server."""
Place = Callable[[str], str]
"""Name of a collection → its URL."""


@pytest.fixture(scope="module")
def undisturbed(
    request: pytest.FixtureRequest, corpora: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, dict[str, object]]]:
    """Places on a store, and what a collection of it holds after both syncs."""
    with ExitStack() as opened:
        where = str(tmp_path_factory.mktemp("stores"))
        if request.param == STUB:
            where = f"qdrant://{opened.enter_context(closing(RestStub())).address}"
        place: Place = f"{where}/{request.param}".format
        encoded: list[str] = []
        run(corpora[0], place("undisturbed"))
        plan = run(corpora[1], place("undisturbed"), encoded).plan
        assert sorted(encoded) == sorted(ENCODED)
        assert (plan.moved, plan.removed, plan.updated) == (2, 8, 25)
        yield place, outcome(place("undisturbed"))


@pytest.mark.parametrize(
    ("undisturbed", "seed"),
    [
        *product([FOLDER], range(2)),
        *soak([*product([FOLDER], range(2, 20)), *product([FILE], range(5)), *product([STUB], range(10))]),
    ],
    indirect=["undisturbed"],
)
def test_killed_twice_and_run_again(
    corpora: tuple[Path, Path], undisturbed: tuple[Place, dict[str, object]], seed: int
) -> None:
    (old, new), (place, expected) = corpora, undisturbed
    url = place(f"s{seed}")
    run(old, url)
    rng = random.Random(seed)
    killed = 0
    for event in (rng.randrange(1, EVENTS), rng.randrange(1, EVENTS // 2)):
        command = [sys.executable, "-m", "tests.ingest._sync_victim", str(new), url, str(event)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        killed += done.returncode != 0
    assert killed
    run(new, url)
    assert outcome(url) == expected
    assert str(run(new, url).plan) == f"{len(expected)} unchanged"
