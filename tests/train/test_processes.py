"""Several real processes (gloo) have the gradients and weights of one; a killed process resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests._soak import soak
from tests.train._gradients import CASES, ROWS, collect, write_gradients
from tests.train._processes import ROOT, command, start, together
from tests.train._runs import UNIFIED, assert_same, config, run, tensors, write_rows
from train.config import Phase, Schedule
from train.engine.checkpoint import last_checkpoint

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


@pytest.mark.parametrize("memory", ["split", "gradcache"])
def test_split_and_gradcache_give_the_gradients_of_the_batch(tiny_checkpoint, rows, alone, memory):
    found = collect(tiny_checkpoint, rows, "ddp", [memory])
    assert all(error <= TOLERANCE for error in worst(found, alone, memory).values()), worst(found, alone, memory)


def test_the_comparison_can_fail(tiny_checkpoint, rows, alone):
    wrong = {name: tensor * (0.5 if "dense" in name else 1.0) for name, tensor in alone.items()}
    assert worst(wrong, alone, "plain")["dense"] > 0.4


@pytest.mark.parametrize(("count", "parallel"), [(2, "ddp"), *soak([(4, "ddp"), (4, "fsdp")])])
def test_processes_together_give_the_gradients_of_one(tiny_checkpoint, rows, alone, tmp_path, count, parallel):
    """Sharded processes, whose numbers of forward passes differ, exchange parameters, and the loss passages."""
    out = tmp_path / "gradients.safetensors"
    together(count, write_gradients, out, tiny_checkpoint, rows, parallel, MEMORIES, folder=tmp_path)
    found = load_file(out)
    for memory in MEMORIES:
        errors = worst(found, alone, memory)
        assert all(error <= TOLERANCE for error in errors.values()), (memory, errors)


def options(checkpoint: Path, folder: Path) -> list[object]:
    rows = write_rows(folder / "rows.jsonl")
    arguments = ["--model", checkpoint, "--data", rows, "--out", folder / "out", "--device", "cpu"]
    arguments += ["--precision", "fp32", "--batching.rows", 6, "--batching.tokens", 0]
    return [*arguments, "--group_size", 3, "--query_max_length", 16, "--passage_max_length", 24]


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_and_resume(tiny_checkpoint, tmp_path, parallel):
    """Adam divides by the gradient's size, so rounding in tiny gradients shows in the weights: 2 % of the movement."""
    heads = Phase(steps=2, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2)
    phases = Schedule(heads=heads, unified=replace(UNIFIED, steps=2))
    alone, _, _ = run(config(tiny_checkpoint, tmp_path / "alone", phases=phases))
    arguments = [*options(tiny_checkpoint, tmp_path), "--save_every", 2]
    arguments += ["--phases.heads.steps", 2, "--phases.heads.head_learning_rate", 1e-2]
    arguments += ["--phases.unified.steps", 2, "--phases.unified.train", '["encoder","sparse","multi_vector"]']
    arguments += ["--phases.unified.learning_rate", 1e-3, "--phases.unified.head_learning_rate", 1e-2]
    arguments += ["--parallel", parallel, "--memory", "gradcache"]
    together(2, command, "finetune", *arguments, folder=tmp_path)
    weights = tensors(tmp_path / "out" / "step-000004")
    before, expected = tensors(tiny_checkpoint), tensors(alone.checkpoint)
    for name, tensor in expected.items():
        if not name.endswith("key.bias"):  # no true gradient: Adam makes steps of its rounding
            moved = (tensor - before[name]).norm()
            assert (weights[name] - tensor).norm() <= 0.02 * moved, name
    (tmp_path / "out" / "step-000004").rename(tmp_path / "whole")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "train"]
    resume = [*torchrun, "finetune", *map(str, arguments), "--resume", "true"]  # from step 2
    done = subprocess.run(resume, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    again = tensors(tmp_path / "out" / "step-000004")
    assert all(tensor.equal(weights[name]) for name, tensor in again.items())


STEPS = ("--phases.unified.steps", 30, "--save_every", 3, "--dropout", 0.1)


def wait_for_step(out: Path, step: int, process: ForkServerProcess) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        log = out / "training.jsonl"
        if log.is_file() and len(log.read_text().splitlines()) >= step:
            return
        assert process.is_alive()
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in two minutes")


@pytest.mark.parametrize("number", [signal.SIGKILL, *soak([signal.SIGTERM, signal.SIGINT])])
def test_a_real_process_survives_a_real_signal(tiny_checkpoint, tmp_path, train, number):
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    code, _, said = train("finetune", *options(tiny_checkpoint, tmp_path / "alone"), *STEPS)
    assert code == 0, said
    killed, out = options(tiny_checkpoint, tmp_path / "killed"), tmp_path / "killed" / "out"
    process = start(command, "finetune", *killed, *STEPS, log=tmp_path / "log")
    wait_for_step(out, 7, process)
    os.kill(process.pid, number)
    process.join(60)
    message = " ".join((tmp_path / "log").read_text().split())
    if number == signal.SIGKILL:
        assert process.exitcode == -signal.SIGKILL
    else:
        assert process.exitcode == 130, message
        assert "stopped: interrupted; the same command with --resume true resumes" in message
        line = json.loads((out / "training.jsonl").read_text().splitlines()[-1])
        last = last_checkpoint(out)
        assert last is not None
        assert int(last.name.removeprefix("step-")) == line["step"] < 30  # nothing that was done is lost
    code, _, said = train("finetune", *killed, *STEPS, "--resume", "true")
    assert code == 0, said
    assert_same(tmp_path / "alone" / "out" / "step-000030", out / "step-000030")
