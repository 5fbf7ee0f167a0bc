"""The examples for stores run: in folders, and on the stubs of servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.stubs.qdrant_rest_stub import RestStub

ROOT = Path(__file__).parents[2]


def run(name, *args, **environment):
    command = [sys.executable, f"examples/{name}", *map(str, args)]
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env).stdout.splitlines()


def test_qdrant_embedded():
    everything, since, english, _, size, back = run("qdrant_embedded.py")
    assert all(name in everything for name in ("bar", "leiste", "print"))
    assert "print" not in since
    assert "leiste" not in english
    assert size.startswith("3 documents in a file, ")
    assert back == "3 documents back"


def test_qdrant_server():
    stub = RestStub()
    able, best, *_, last = run("qdrant_docker.py", QDRANT_URL=f"qdrant://{stub.address}")
    assert "shards=2" in able
    assert "multi_vector_datatype='turbo16'" in able
    assert "Sparse vectors find the same words." in best
    assert "Multi-vectors" in last
    stub.close()


def test_milvus_file(tmp_path):
    able, best, *_, last = run("milvus_file.py", tmp_path / "notes.milvus.db")
    assert "multi_vector_search=False" in able
    assert "Sparse vectors find the same words." in best
    assert last == "c"


def test_milvus_server(milvus_stub):
    able, best, *_, last = run("milvus_docker.py", MILVUS_URI=milvus_stub)
    assert "multi_vector_search=True, fusion='server'" in able
    assert "Sparse vectors find the same words." in best
    assert last in {"a", "c"}
