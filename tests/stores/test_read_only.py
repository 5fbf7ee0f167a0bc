"""Reading without writing: folders that cannot be written, several readers of one folder, a reader beside a writer."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from m3_vdb.errors import CollectionNotFoundError, StoreError
from m3_vdb.index import HybridIndex
from m3_vdb.stores import open_store
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries


@pytest.fixture(scope="module", params=["n.qdrant", "n.milvus.db"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("folder") / request.param
    with open_store(path, IDENTITY) as store:
        store.upsert(make_documents(20), make_embeddings(20))
    return path


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_and_readers_share(folder):
    before, query = content(folder), make_queries(1)[0]
    with open_store(folder, IDENTITY) as store:
        expected = store.rank(query)
    before = content(folder)
    with open_store(folder, IDENTITY, read_only=True) as one, open_store(folder, read_only=True) as other:
        assert one.is_read_only
        assert one.rank(query) == other.rank(query) == expected
        assert one.count({"lang": "de"}) == 7
        assert one.disk_bytes()
        for change in (
            lambda: one.upsert(make_documents(1), make_embeddings(1)),
            lambda: one.delete(["d1"]),
            lambda: one.delete(filter={"lang": "de"}),
            lambda: one.update(["d1"], {}),
            lambda: one.update_payloads([Document("d1", "")]),
            one.optimize,
        ):
            with pytest.raises(StoreError, match="is open for reading only: to change it"):
                change()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_count, (folder,)) == 20
    assert content(folder) == before
    with open_store(folder, IDENTITY) as store:  # a reader keeps nothing from writing
        assert not store.is_read_only
        with pytest.raises(StoreError, match=r"is open for writing in process \d+: close it there, or search through"):
            open_store(folder, read_only=True)


def _count(folder: Path) -> int:
    with open_store(folder, read_only=True) as store:
        return store.count()


def test_a_folder_that_cannot_be_written_opens_for_search(folder, monkeypatch):
    def access(path: str | os.PathLike[str], mode: int) -> bool:  # as of a read-only disk; root may write everything
        return mode != os.W_OK or not Path(path).is_relative_to(folder)

    monkeypatch.setattr("os.access", access)
    before = content(folder)
    with open_store(folder, IDENTITY) as store:
        assert store.is_read_only
        assert len(store.query(make_queries(1)[0])) == 10
        with pytest.raises(StoreError, match="is open for reading only"):
            store.check_writable()
    assert content(folder) == before


def test_a_folder_without_a_collection_is_no_reader_s(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)
    with open_store(tmp_path / "new.qdrant", IDENTITY) as store:
        assert not store.is_read_only


def test_reading_makes_nothing(tmp_path, tiny_bundle):
    with pytest.raises(CollectionNotFoundError):
        HybridIndex.open(tmp_path / "new.qdrant", model=tiny_bundle, read_only=True)
    assert not (tmp_path / "new.qdrant").exists()
