"""The example goes the whole way, and the model learns something on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_the_example_trains_exports_and_searches(tmp_path):
    command = [sys.executable, "-m", "examples.train_tiny", str(tmp_path / "tiny")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other where a core is busy
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = [
        json.loads((tmp_path / "tiny" / name / "metrics.json").read_text()) for name in ("random", "stage1", "stage2")
    ]
    fused = [figure["mean"]["all"]["nDCG@10"] for figure in figures]
    assert fused[0] < fused[1] < fused[2]
    assert fused[2] > fused[0] + 0.1
    assert "→" in done.stderr
