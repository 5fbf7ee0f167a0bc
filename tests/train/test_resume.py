"""Killed and resumed runs end with the weights of a run that was left alone, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from m3_vdb.errors import ConfigError
from tests.train._collections import write_collection
from tests.train._runs import UNIFIED, assert_same, config, run
from train.commands import train
from train.config import Batching, LoRA, Phase, Refresh, Schedule, Watch
from train.engine.card import write_card
from train.model import M3Model
from train.retrieval.config import MineOptions

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


def test_a_finished_run_says_so_and_loads_no_model(tiny_checkpoint, tmp_path, monkeypatch, capsys):
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
