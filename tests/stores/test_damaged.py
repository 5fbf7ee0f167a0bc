"""Collections on disk that are not whole, or not collections: one line that names the file and says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from m3_vdb.cli.main import main
from m3_vdb.errors import StoreError
from m3_vdb.stores import open_store
from tests._soak import soak
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings

RESTORE = "restore the folder from a copy, or ingest into a new one"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection of either engine."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("n.qdrant", "n.milvus.db"):
        with open_store(folder / name, identity=IDENTITY) as store:
            store.upsert(make_documents(5), make_embeddings(5))
    return folder


def cut(pattern: str, size: int = 20) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        files = [path for path in folder.rglob(pattern) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:size])

    return damage


def replaced(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.write_text(text)

    return damage


def foreign(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "readme").write_text("mine")


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "empty m3.json": (
        "n.qdrant",
        cut("m3.json", 0),
        "m3.json is damaged (Expecting value: line 1 column 1 (char 0)): ",
    ),
    "m3.json of another": (
        "n.qdrant",
        lambda folder: (folder / "m3.json").write_text('{"x": 1}') and None,
        "does not say which model made it",
    ),
    "half an m3.json": ("n.qdrant", cut("m3.json", 1), "m3.json is damaged ("),
    "a list as m3.json": (
        "n.qdrant",
        lambda folder: (folder / "m3.json").write_text("[]") and None,
        "does not say which model made it",
    ),
    "no shard": ("n.qdrant", lambda folder: shutil.rmtree(folder / "shard"), f"shard is missing: {RESTORE}"),
    "cut config": ("n.qdrant", cut("edge_config.json"), "edge_config.json is damaged ("),
    "cut segment": ("n.qdrant", cut("segment.json"), RESTORE),
    "cut vectors": ("n.qdrant", cut("*.dat", 3), RESTORE),
    "folder of another": ("n.qdrant", foreign, "n.qdrant has no m3.json but holds readme"),
    "file": ("n.qdrant", replaced("x"), "n.qdrant is a file, and a collection is a folder"),
    "file of milvus": ("n.milvus.db", replaced("x"), "n.milvus.db is a file"),
    "cut schema": ("n.milvus.db", cut("schema.json", 10), "schema.json' is not valid JSON"),
}


FIRST = ("empty m3.json", "no shard", "cut vectors", "file of milvus")


@pytest.mark.parametrize("name", [*FIRST, *soak(name for name in DAMAGE if name not in FIRST)])
def test_damage_is_one_line_and_nothing_is_made_anew(
    whole: Path, tmp_path: Path, name: str, tiny_bundle: Path, monkeypatch, capfd
) -> None:
    engine, damage, said = DAMAGE[name]
    path = Path(shutil.copytree(whole / engine, tmp_path / engine))
    damage(path)
    for create in (False, True):
        with pytest.raises(StoreError) as raised:
            open_store(path, identity=IDENTITY, create=create)
        assert said in str(raised.value)
    monkeypatch.setattr("sys.argv", ["m3-vdb", "info", "--store", str(path), "--model", str(tiny_bundle)])
    with pytest.raises(SystemExit):
        main()
    shown = capfd.readouterr()
    assert len(shown.err.splitlines()) <= 1, shown.err
    assert said in " ".join((shown.err + shown.out).split())
