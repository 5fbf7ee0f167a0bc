"""Whole runs of several real processes (gloo): the weights of one process, checkpoints, resume."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train._runs import UNIFIED, config, run, tensors, write_rows
from train.config import Phase, Schedule

ROOT = Path(__file__).parents[2]


def by_processes(count: int, arguments: list[object]) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={count}",
        "-m",
        "train",
    ]
    done = subprocess.run(
        [*command, "finetune", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_and_resume(tiny_checkpoint, tmp_path, parallel):
    """Adam divides by the gradient's size, so rounding in tiny gradients shows in the weights: 2 % of the movement."""
    heads = Phase(steps=2, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2)
    phases = Schedule(heads=heads, unified=replace(UNIFIED, steps=2))
    alone, _, _ = run(config(tiny_checkpoint, tmp_path / "alone", phases=phases))
    arguments = ["--model", tiny_checkpoint, "--data", write_rows(tmp_path / "rows.jsonl"), "--out", tmp_path / "out"]
    arguments += ["--device", "cpu", "--precision", "fp32", "--batching.rows", 6, "--batching.tokens", 0]
    arguments += ["--group_size", 3, "--query_max_length", 16, "--passage_max_length", 24, "--save_every", 2]
    arguments += ["--phases.heads.steps", 2, "--phases.heads.head_learning_rate", 1e-2]
    arguments += ["--phases.unified.steps", 2, "--phases.unified.train", '["encoder","sparse","multi_vector"]']
    arguments += ["--phases.unified.learning_rate", 1e-3, "--phases.unified.head_learning_rate", 1e-2]
    arguments += ["--parallel", parallel, "--memory", "gradcache"]
    by_processes(2, arguments)
    together = tensors(tmp_path / "out" / "step-000004")
    before, expected = tensors(tiny_checkpoint), tensors(alone.checkpoint)
    for name, tensor in expected.items():
        if not name.endswith("key.bias"):  # no true gradient: Adam makes steps of its rounding
            moved = (tensor - before[name]).norm()
            assert (together[name] - tensor).norm() <= 0.02 * moved, name
    (tmp_path / "out" / "step-000004").rename(tmp_path / "whole")
    by_processes(2, [*arguments, "--resume", "true"])  # from step 2
    again = tensors(tmp_path / "out" / "step-000004")
    assert all(tensor.equal(together[name]) for name, tensor in again.items())
