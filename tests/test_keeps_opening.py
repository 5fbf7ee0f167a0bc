"""What version 0.1.0 wrote keeps opening: collections, a bundle, checkpoints, an export, an interrupted ingest."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m3_vdb import M3EmbeddingFunction
from m3_vdb.cli import app
from m3_vdb.stores import MemoryStore, open_store, transfer

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
RECORDED = json.loads((FIXTURES / "recorded.json").read_text(encoding="utf-8"))
COLLECTIONS = {"qdrant": "notes.qdrant", "milvus": "notes.milvus.db"}


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(FIXTURES / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return unpack("models.tar.xz", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def embed(models) -> M3EmbeddingFunction:
    return M3EmbeddingFunction(models / "bundle", threads=1, on_truncate="ignore")


@pytest.fixture
def collections(tmp_path) -> Path:
    return unpack("collections.tar.xz", tmp_path)


@pytest.fixture(params=["qdrant", "milvus", "parquet"])
def opened(request, collections, embed):
    """(store, name of its recorded answers): the two collections, and the export in a store of today."""
    if request.param == "parquet":
        with MemoryStore(embed.identity) as store:
            transfer.import_parquet(collections / "notes.parquet", store)
            yield store, "qdrant"
    else:
        url = str(collections / COLLECTIONS[request.param])
        with open_store(url, identity=embed.identity, create=False) as store:
            yield store, request.param


def test_the_same_scores(opened, embed):
    store, name = opened
    for query, expected in RECORDED["queries"][name].items():
        found = dict(store.rank(embed.encode_queries([query])[0], limit=100))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert len(found) == store.count()


def test_the_bundle_and_the_checkpoint_are_the_same_model(models, embed, tmp_path):
    from onnx_export.export import export

    export(models / "checkpoint", tmp_path / "again", precision="fp32", name="tiny")
    texts = ["the vector search", "数据库"]
    one, other = (f.encode_documents(texts) for f in (embed, M3EmbeddingFunction(tmp_path / "again", threads=1)))
    np.testing.assert_allclose(other.dense, one.dense, atol=1e-5)
    np.testing.assert_array_equal(other.sparse_ids, one.sparse_ids)
    np.testing.assert_allclose(other.sparse_weights, one.sparse_weights, atol=1e-5)
    np.testing.assert_allclose(other.multi_vector, one.multi_vector, atol=1e-5)


def test_a_training_resumes(tmp_path, monkeypatch):
    from tests.train._runs import config, run
    from train.config import Phase, Schedule

    monkeypatch.chdir(unpack("models.tar.xz", tmp_path))  # its settings name files by relative paths
    heads = Phase(steps=6, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2)
    settings = config(Path("checkpoint"), Path(), phases=Schedule(heads=heads), save_every=2, keep=1, out=Path("run"))
    outcome, reports, _ = run(replace(settings, resume=True))
    assert [report.step for report in reports] == list(range(3, 11))
    assert outcome.checkpoint == Path("run/step-000010")


def test_an_ingest_resumes(models, embed, tmp_path, monkeypatch):
    monkeypatch.chdir(unpack("ingest.tar.xz", tmp_path))
    with open_store("half.qdrant", identity=None) as store:
        before = store.count()
    arguments = ["ingest", "corpus.jsonl", "--store", "half.qdrant", "--model", str(models / "bundle")]
    result = CliRunner().invoke(app, [*arguments, "--resume", "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["resumed"], summary["documents"], summary["held"]) == (before, 40 - before, 40)
    assert not Path("half.qdrant.ingest").exists()
