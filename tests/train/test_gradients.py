"""The same batch by 1, 2 and 4 real processes (gloo), by all three ways through memory: the same gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests._soak import soak
from tests.train._gradients import CASES, ROWS, collect
from tests.train._runs import write_rows

ROOT = Path(__file__).parents[2]
MEMORIES = ("plain", "split", "gradcache")
TOLERANCE = 1e-5  # float32 sums in another order


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("gradients") / "rows.jsonl", rows=len(ROWS), scores=True)


@pytest.fixture(scope="module")
def alone(tiny_checkpoint, rows) -> dict[str, torch.Tensor]:
    """One process, everything kept."""
    return collect(tiny_checkpoint, rows, "ddp", ["plain"])


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], memory: str) -> dict[str, float]:
    """Case → largest relative error of any parameter's gradient, or of the loss."""
    errors = {}
    for case in CASES:
        names = [name for name in expected if name.startswith(f"plain/{case}/")]
        scale = max(expected[name].norm().item() for name in names if not name.endswith("/loss"))
        assert scale > 1e-3, case  # there is something to compare
        for name in names:
            actual = found[name.replace("plain", memory, 1)]
            # a key's bias moves all scores of a query alike, which softmax cancels: its gradient is rounding alone
            size = scale if name.endswith("key.bias") else expected[name].norm().item()
            error = (actual - expected[name]).norm().item() / size
            errors[case] = max(errors.get(case, 0.0), error)
    return errors


def by_processes(count: int, checkpoint: Path, rows: Path, out: Path, parallel: str, *memories: str) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    command += [str(Path(__file__).with_name("_gradients.py")), *map(str, (checkpoint, rows, out, parallel, *memories))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


@pytest.mark.parametrize("memory", ["split", "gradcache"])
def test_split_batch_and_gradcache_give_the_gradients_of_the_whole_batch(tiny_checkpoint, rows, alone, memory):
    found = collect(tiny_checkpoint, rows, "ddp", [memory])
    assert all(error <= TOLERANCE for error in worst(found, alone, memory).values()), worst(found, alone, memory)


def test_the_comparison_can_fail(tiny_checkpoint, rows, alone):
    wrong = {name: tensor * (0.5 if "dense" in name else 1.0) for name, tensor in alone.items()}
    assert worst(wrong, alone, "plain")["dense"] > 0.4


@pytest.mark.parametrize("count", [2, *soak([4])])
def test_processes_together_give_the_gradients_of_one(tiny_checkpoint, rows, alone, tmp_path, count):
    found = by_processes(count, tiny_checkpoint, rows, tmp_path / "g.safetensors", "ddp", *MEMORIES)
    for memory in MEMORIES:
        errors = worst(found, alone, memory)
        assert all(error <= TOLERANCE for error in errors.values()), (memory, errors)


@pytest.mark.soak
def test_a_sharded_model_gives_the_same_gradients(tiny_checkpoint, rows, alone, tmp_path):
    """Four processes, whose numbers of forward passes differ: each exchanges parameters, and the loss passages."""
    found = by_processes(4, tiny_checkpoint, rows, tmp_path / "g.safetensors", "fsdp", *MEMORIES)
    for memory in MEMORIES:
        errors = worst(found, alone, memory)
        assert all(error <= TOLERANCE for error in errors.values()), (memory, errors)
