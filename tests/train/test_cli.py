"""``python -m train`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.train._runs import write_rows

ROOT = Path(__file__).parents[2]


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_the_stages_without_importing_torch():
    shown = train("--help")
    assert shown.returncode == 0
    assert "import-base" in shown.stdout
    assert "finetune" in shown.stdout
    probe = "import sys, train.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False).returncode == 0


def test_finetune_writes_a_checkpoint_and_says_where(tiny_checkpoint, tmp_path):
    rows, out = write_rows(tmp_path / "rows.jsonl"), tmp_path / "out"
    done = train("finetune", tiny_checkpoint, rows, out, "--max-steps", 2, "--batch-size", 4, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == str(out / "step-000002")
    assert (out / "step-000002" / "sparse_linear.pt").is_file()


def test_an_error_is_one_line_with_brackets_intact_and_exit_code_1(tiny_checkpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"pos": ["p"]}\n', encoding="utf-8")
    failed = train("finetune", tiny_checkpoint, rows, tmp_path / "out")
    assert failed.returncode == 1
    expected = f'error: {rows}, line 1: expected {{"query": str, "pos": [str], "neg": [str]}}'
    assert failed.stderr.splitlines()[-1] == expected
    assert "Traceback" not in failed.stderr
