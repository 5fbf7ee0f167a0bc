"""Killed, interrupted and resumed runs end with the weights of a run that was left alone, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from m3_vdb.errors import ConfigError
from tests._soak import soak
from tests.train._collections import write_collection
from tests.train._runs import UNIFIED, config, run, tensors
from train.commands import train
from train.config import Batching, LoRA, Phase, Refresh, Schedule, Watch
from train.engine.card import write_card
from train.engine.checkpoint import last_checkpoint
from train.model import M3Model
from train.retrieval.config import MineOptions

ROOT = Path(__file__).parents[2]
SCHEDULE = Schedule(
    dense=Phase(steps=3, losses=["dense"], train=["encoder"], learning_rate=1e-3),
    heads=Phase(steps=3, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2),
    unified=replace(UNIFIED, steps=6),
)


class Killed(BaseException):
    """Like a kill: nothing in the trainer may catch it."""


def killed_at(settings, step: int) -> None:
    """Run until ``step`` was logged, then stop dead."""
    from train.contrastive.stages import contrastive

    def report(done):
        if done.step == step:
            raise Killed

    with pytest.raises(Killed):
        contrastive(settings, report=report, warn=lambda text: None)


def assert_same(first: Path, second: Path) -> None:
    expected, found = tensors(first), tensors(second)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


VARIANTS = {
    "plain": {"accumulate": 2},
    "gradcache": {"memory": "gradcache", "batching": Batching(tokens=150)},
    "lora": {"lora": LoRA(rank=4, dropout=0.1)},
}


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request, tiny_checkpoint, tmp_path_factory):
    """(settings, checkpoint, losses) of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    changes = {"phases": SCHEDULE, "save_every": 2, "dropout": 0.1, **VARIANTS[request.param]}
    settings = config(tiny_checkpoint, folder, **changes)
    outcome, reports, _ = run(settings)
    return settings, outcome.checkpoint, [report.measures["loss"] for report in reports]


@pytest.mark.parametrize("step", [2, 4, 8])  # in each of the phases, between checkpoints
def test_a_killed_run_goes_on_bit_by_bit(whole, tmp_path, step):
    settings, checkpoint, losses = whole
    settings = replace(settings, out=tmp_path / "killed")
    killed_at(settings, step)
    resumed, later, _ = run(replace(settings, resume=True))
    assert_same(checkpoint, resumed.checkpoint)
    lines = [json.loads(line) for line in (settings.out / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["measures"]["loss"] for line in lines] == losses
    assert later[0].step < 12


def test_evaluations_and_fresh_negatives_are_resumed_too(tiny_checkpoint, tmp_path):
    folder = write_collection(tmp_path / "collection")
    changes = {
        "phases": Schedule(unified=replace(UNIFIED, steps=9)),
        "dropout": 0.1,
        "watch": Watch(data=[str(folder)], every=2),
        "refresh": Refresh(every=3, options=MineOptions(first=1, last=8, negatives=3, ratio=None)),
    }
    both = [config(tiny_checkpoint, tmp_path / name, **changes) for name in ("whole", "killed")]
    both[1] = replace(both[1], data=both[0].data)
    whole, _, said = run(both[0])
    assert sum("new negatives" in line for line in said) == 3
    mined = [(both[0].out / "negatives" / f"step-{n:06d}.jsonl").read_text() for n in (3, 6)]
    assert mined[0] != mined[1] != both[0].data[0].read_text()
    killed_at(both[1], 5)
    resumed, _, _ = run(replace(both[1], resume=True))
    assert_same(whole.checkpoint, resumed.checkpoint)
    for name in ("evaluations.jsonl", "best.txt", "negatives/step-000006.jsonl"):
        assert (both[0].out / name).read_text() == (both[1].out / name).read_text(), name


def test_a_finished_run_says_so_without_loading_a_model_and_refuses_other_settings(
    tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    settings = config(tiny_checkpoint, tmp_path)
    outcome, _, _ = run(settings)
    write_card(settings, outcome)
    before = sorted((path, path.stat().st_mtime_ns) for path in settings.out.rglob("*"))
    monkeypatch.setattr(M3Model, "load", lambda *arguments, **options: pytest.fail("loads a model"))
    again = train(replace(settings, resume=True), Console(stderr=True, width=200))
    assert again == outcome
    assert "finished before" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in settings.out.rglob("*")) == before
    with pytest.raises(ConfigError, match=r"group_size: 3 → 2"):
        run(replace(settings, resume=True, group_size=2))


def start(tiny_checkpoint: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """A real process with a long schedule and a checkpoint every third step."""
    settings = config(tiny_checkpoint, folder)
    arguments = ["--model", tiny_checkpoint, "--data", settings.data[0], "--out", folder / "out", "--device", "cpu"]
    arguments += ["--precision", "fp32", "--batching.rows", "6", "--batching.tokens", "0", "--group_size", "3"]
    arguments += ["--query_max_length", "16", "--passage_max_length", "24", "--save_every", "3", "--dropout", "0.1"]
    command = [sys.executable, "-m", "train", "finetune", *map(str, arguments), *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        log = out / "training.jsonl"
        if log.is_file() and len(log.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in two minutes")


STEPS = ("--phases.unified.steps", "30")


@pytest.fixture(scope="module")
def left_alone(tiny_checkpoint, tmp_path_factory) -> Path:
    """The last checkpoint of a process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("left_alone")
    process = start(tiny_checkpoint, folder, *STEPS)
    said = process.communicate(timeout=250)[1]
    assert process.returncode == 0, said
    return folder / "out" / "step-000030"


@pytest.mark.parametrize("number", [signal.SIGKILL, *soak([signal.SIGTERM, signal.SIGINT])])
def test_a_real_process_survives_a_real_signal(tiny_checkpoint, tmp_path, left_alone, number):
    out = tmp_path / "out"
    killed = start(tiny_checkpoint, tmp_path, *STEPS)
    wait_for_step(out, 7, killed)
    killed.send_signal(number)
    message = killed.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 130, message
        assert "stopped: interrupted; the same command with --resume true resumes" in " ".join(message.split())
        line = json.loads((out / "training.jsonl").read_text().splitlines()[-1])
        last = last_checkpoint(out)
        assert last is not None
        assert int(last.name.removeprefix("step-")) == line["step"] < 30  # nothing that was done is lost
    resumed = start(tiny_checkpoint, tmp_path, *STEPS, "--resume", "true")
    message = resumed.communicate(timeout=250)[1]
    assert resumed.returncode == 0, message
    assert_same(left_alone, out / "step-000030")
