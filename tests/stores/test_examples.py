"""The examples for stores run: in folders, and on the stubs of servers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Lines that an example prints; it runs in this process."""

    def run_here(name, *args, **environment):
        monkeypatch.setattr("sys.argv", [name, *map(str, args)])
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_here


def test_qdrant_embedded(run):
    everything, since, english, _, size, back = run("qdrant_embedded.py")
    assert all(name in everything for name in ("bar", "leiste", "print"))
    assert "print" not in since
    assert "leiste" not in english
    assert size.startswith("3 documents in a file, ")
    assert back == "3 documents back"


def test_qdrant_server(run):
    stub = RestStub()
    able, best, *_, last = run("qdrant_docker.py", QDRANT_URL=f"qdrant://{stub.address}")
    assert "shards=2" in able
    assert "multi_vector_datatype='turbo16'" in able
    assert "Sparse vectors find the same words." in best
    assert "Multi-vectors" in last
    stub.close()


def test_milvus_file(run, tmp_path):
    able, best, *_, last = run("milvus_file.py", tmp_path / "notes.milvus.db")
    assert "multi_vector_search=False" in able
    assert "Sparse vectors find the same words." in best
    assert last == "c"


def test_milvus_server(run, milvus_stub):
    able, best, *_, last = run("milvus_docker.py", MILVUS_URI=milvus_stub)
    assert "multi_vector_search=True, fusion='server'" in able
    assert "Sparse vectors find the same words." in best
    assert last in {"a", "c"}
