"""The examples for Milvus run: in a file, and on the stub of a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*args, **environment):
    command = [sys.executable, *map(str, args)]
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env).stdout.splitlines()


def test_lite(tmp_path):
    able, best, *_, last = run("examples/milvus_file.py", tmp_path / "notes.milvus.db")
    assert "multi_vector_search=False" in able
    assert "Sparse vectors find the same words." in best
    assert last == "c"


def test_server(milvus_stub):
    able, best, *_, last = run("examples/milvus_docker.py", MILVUS_URI=milvus_stub)
    assert "multi_vector_search=True, fusion='server'" in able
    assert "Sparse vectors find the same words." in best
    assert last in {"a", "c"}
