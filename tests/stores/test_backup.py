"""Backups go from any store to any store, and what is not whole is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.cli.main import app
from m3_vdb.errors import ConfigError, StoreError
from m3_vdb.stores import CollectionOptions, describe, open_store
from m3_vdb.stores.backup import DOCUMENTS, MANIFEST, backup, check_backup, restore
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of 20 documents in a folder with an index and exact words."""
    folder = tmp_path_factory.mktemp("made")
    options = CollectionOptions(indexes={"year": "integer"}, bm25=True)
    with open_store(folder / "c.qdrant", IDENTITY, options=options) as store:
        store.upsert(make_documents(20), make_embeddings(20))
        backup(store, folder / "copy")
    return folder / "copy"


def test_from_any_store_into_a_folder(backend, tmp_path):
    with backend.open(IDENTITY) as store:
        store.upsert(make_documents(20), make_embeddings(20))
        done = backup(store, tmp_path / "copy")
    assert done == check_backup(tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new.qdrant")
    with open_store(tmp_path / "new.qdrant", IDENTITY) as restored:
        assert sorted(one.id for one in restored.sample(50)) == sorted(one.id for one in make_documents(20))
        ((documents, embeddings),) = restored.get_with_vectors(["d7"])
        expected = list(make_embeddings(20))[7]
        assert documents == [make_documents(20)[7]]
        np.testing.assert_array_equal(embeddings.multi_vector, expected.multi_vector)
        np.testing.assert_array_equal(embeddings.dense[0], expected.dense)
        np.testing.assert_array_equal(embeddings.sparse_weights, expected.sparse.weights)


@pytest.mark.parametrize("where", ["folder", "server"])
def test_a_tenant_and_the_index_of_words_are_carried(tmp_path, where):
    stub = RestStub()
    url = tmp_path / "old.qdrant" if where == "folder" else f"qdrant://{stub.address}/old"
    options = CollectionOptions(tenant="customer", indexes={"meta.rank": "integer"}, full_text=True)
    with open_store(url, IDENTITY, options=options) as store:
        store.upsert(make_documents(3), make_embeddings(3))
        assert backup(store, tmp_path / "copy").options == replace(options, indexes=store.field_types)
    for new in (tmp_path / "new.qdrant", f"qdrant://{stub.address}/new"):
        restore(tmp_path / "copy", new)
        with open_store(new, IDENTITY) as store:
            told = store.facts().options
            assert (told["tenant"], told["full_text"], store.count({"$text": "text 1"})) == ("customer", True, 1)
    with pytest.raises(ConfigError, match=r"milvus-lite does not support the option tenant \(given: 'customer'\)"):
        restore(tmp_path / "copy", tmp_path / "new.milvus.db")
    command = ["restore", str(tmp_path / "copy"), "--store", str(tmp_path / "new.milvus.db")]
    for options in ([], ["--no-tenant"]):
        option = "full-text" if options else "tenant"
        refused = CliRunner().invoke(app, [*command, *options])
        assert str(refused.exception).endswith(f"; --no-{option} restores without it"), "what to do next"
    done = CliRunner().invoke(app, [*command, "--no-tenant", "--no-full-text"])
    assert (done.exit_code, "3 documents" in done.stderr) == (0, True), done.output
    refused = CliRunner().invoke(app, [*command[:3], f"qdrant://{stub.address}/storage", "--grpc"])
    assert type(refused.exception) is ConfigError
    assert "restores without it" not in str(refused.exception), "it is about a collection of that name, not the option"
    stub.close()


def test_options_are_restored_and_a_store_without_one_says_so(made, tmp_path):
    restore(made, tmp_path / "new.qdrant")
    with open_store(tmp_path / "new.qdrant", IDENTITY) as store:
        told = describe(store).options
    assert (told["bm25"], told["indexes"]) == (True, {"year": "integer"})
    milvus = tmp_path / "new.milvus.db"
    with pytest.raises(ConfigError, match="bm25=True: Milvus"):
        restore(made, milvus)
    restore(made, milvus, options={"bm25": False})
    with open_store(milvus, IDENTITY) as store:
        assert store.count({"year": {"$gte": 2000}}) == 20
        assert store.field_types == {"year": "integer"}


def changed_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 9}))


def flipped(folder: Path) -> None:
    path = folder / DOCUMENTS
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flipped, "has not the checksum of its manifest"),
        (lambda folder: (folder / DOCUMENTS).write_bytes((folder / DOCUMENTS).read_bytes()[:-9]), "it is not whole"),
        (lambda folder: (folder / DOCUMENTS).unlink(), "has no bytes, and its manifest says"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 1'), "manifest.json is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "manifest.json is damaged"),
        (lambda folder: (folder / MANIFEST).unlink(), "is not a backup: it has no manifest.json"),
        (changed_manifest, "has format 9, and this m3-vdb reads 1"),
    ],
    ids=["flipped bit", "cut", "no file", "cut manifest", "empty manifest", "no manifest", "newer"],
)
def test_what_is_not_whole_is_refused_before_anything_is_written(made, tmp_path, damage, said):
    copy, target = Path(shutil.copytree(made, tmp_path / "copy")), tmp_path / "new.qdrant"
    damage(copy)
    done = CliRunner().invoke(app, ["restore", str(copy), "--store", str(target)])
    assert isinstance(done.exception, StoreError)
    assert said in str(done.exception)
    assert not target.exists()


def test_commands(made, tmp_path):
    store, copy = str(tmp_path / "new.qdrant"), str(tmp_path / "copy")
    run = CliRunner().invoke
    assert "is whole: 20 documents, model toy" in run(app, ["restore", str(made), "--store", store, "--check"]).stderr
    assert not Path(store).exists()
    assert "20 documents from" in run(app, ["restore", str(made), "--store", store]).stderr
    assert "holds 20 documents already" in str(run(app, ["restore", str(made), "--store", store]).exception)
    assert run(app, ["restore", str(made), "--store", store, "--into-existing"]).exit_code == 0
    assert "20 documents of" in run(app, ["backup", copy, "--store", store]).stderr
    assert "exists: name a new folder" in str(run(app, ["backup", copy, "--store", store]).exception)
