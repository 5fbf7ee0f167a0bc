"""Stage 2 end to end on a tiny model."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3_vdb.errors import BundleError, ConfigError, ModelOutputError
from m3_vdb.tokenizer import Tokenizer
from tests.train._runs import FAST, run, tensors, write_rows
from train.finetune import FinetuneConfig, _rate, finetune, prepare
from train.losses import Objective
from train.model import M3Model

LOSSES = {"total", "dense", "sparse", "multi_vector", "inter", "distill"}


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """A float32 run with a frozen lower layer: its folder and its reports."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(tiny_checkpoint, folder, replace(FAST, freeze_layers=1, save_steps=5))


def test_the_loss_falls(trained):
    totals = [report.losses["total"] for report in trained[1]]
    assert len(totals) == 8
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])
    assert all(math.isfinite(report.gradient_norm) and report.gradient_norm > 0 for report in trained[1])


def test_the_log_has_one_line_a_step_with_every_loss(trained):
    folder, reports = trained
    lines = [json.loads(line) for line in (folder / "out" / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line, report in zip(lines, reports, strict=True):
        assert line["losses"].keys() == LOSSES
        assert line["losses"] == report.losses
        assert line["accuracy"].keys() == {"dense", "sparse", "multi_vector"}
        assert line["tokens"] > 6 * 3 * 2


def test_checkpoints_are_written_on_the_way_and_at_the_end_and_nothing_else_is_left(trained):
    folder, _ = trained
    assert {path.name for path in (folder / "out").iterdir()} == {"step-000005", "step-000008", "training.jsonl"}
    settings = json.loads((folder / "out" / "step-000008" / "training.json").read_text())
    assert (settings["step"], settings["batch_size"], settings["freeze_layers"]) == (8, 6, 1)
    assert settings["objective"]["temperature"] == 0.02


def test_trained_weights_move_and_frozen_ones_do_not(trained, tiny_checkpoint):
    before, after = tensors(tiny_checkpoint), tensors(trained[0] / "out" / "step-000008")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        frozen = "embeddings." in name or "encoder.layer.0." in name
        # a key bias shifts all scores of a query alike: softmax cancels it and it has no gradient
        if not name.endswith("key.bias"):
            assert torch.equal(tensor, before[name]) == frozen, name
    assert torch.isfinite(torch.cat([tensor.flatten() for tensor in after.values()])).all()


def test_the_checkpoint_carries_the_tokenizer_unchanged(trained, tiny_checkpoint):
    name = "tokenizer.json"
    assert (trained[0] / "out" / "step-000008" / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    assert Tokenizer.from_file(trained[0] / "out" / "step-000008" / name).vocab_size > 100


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_checkpoint, tmp_path):
    config = replace(FAST, max_steps=3, dropout=None)  # the checkpoint's own dropout: its masks are seeded too
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tiny_checkpoint, tmp_path / name, replace(config, seed=seed))
        results.append(tensors(tmp_path / name / "out" / "step-000003"))
    first, again, other = results
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not torch.equal(other["sparse_linear.weight"], first["sparse_linear.weight"])


def test_bfloat16_saves_the_master_copy_and_leaves_frozen_parts_unrounded(tiny_checkpoint, tmp_path):
    reports = run(tiny_checkpoint, tmp_path, replace(FAST, dtype="bfloat16"))
    before, after = tensors(tiny_checkpoint), tensors(tmp_path / "out" / "step-000008")
    assert sum(r.losses["total"] for r in reports[-3:]) < 0.8 * sum(r.losses["total"] for r in reports[:3])
    for name in ("encoder.encoder.layer.1.output.dense.weight", "colbert_linear.weight"):
        assert not torch.equal(after[name], after[name].bfloat16().float()), name
        assert not torch.equal(after[name], before[name])
    word = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(after[word], before[word])
    tiny_step = run(
        tiny_checkpoint, tmp_path / "still", replace(FAST, dtype="bfloat16", max_steps=1, learning_rate=0.0)
    )
    assert len(tiny_step) == 1
    still = tensors(tmp_path / "still" / "out" / "step-000001")
    layer = "encoder.encoder.layer.1.output.dense.weight"
    assert torch.equal(still[layer], before[layer])  # the master starts from the checkpoint, not from its rounding


def test_training_the_embeddings_moves_them(tiny_checkpoint, tmp_path):
    run(tiny_checkpoint, tmp_path, replace(FAST, max_steps=1, freeze_embeddings=False))
    word = "encoder.embeddings.word_embeddings.weight"
    assert not torch.equal(tensors(tmp_path / "out" / "step-000001")[word], tensors(tiny_checkpoint)[word])


@pytest.mark.parametrize(("dropout", "expected"), [(0.3, 0.3), (0.0, 0.0), (None, 0.1)])
def test_dropout_is_set_or_kept(tiny_checkpoint, dropout, expected):
    model = M3Model.load(tiny_checkpoint)
    prepare(model, replace(FAST, dropout=dropout))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {expected}
    assert model.training


def test_the_rate_rises_linearly_and_falls_to_nothing():
    rates = [_rate(step, FinetuneConfig(max_steps=20, warmup=0.2)) for step in range(21)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size=1"),
        ({"group_size": 1}, "group_size=1"),
        ({"dtype": "float16"}, "dtype='float16': expected one of bfloat16, float32"),
        ({"freeze_layers": 1, "freeze_embeddings": False}, "freeze_layers needs freeze_embeddings"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(**settings)


def test_an_output_directory_with_content_is_refused_and_left_alone(tiny_checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty"):
        run(tiny_checkpoint, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("missing", ["tokenizer.json", "sparse_linear.pt"])
def test_an_incomplete_checkpoint_is_refused(tiny_checkpoint, tmp_path, missing):
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (copy / missing).unlink()
    with pytest.raises(BundleError, match=missing.split(".")[0]):
        run(copy, tmp_path / "run")
    assert not (tmp_path / "run" / "out").exists()


def test_too_few_rows_for_a_batch_are_refused(tiny_checkpoint, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    rows.write_text(rows.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    with pytest.raises(ConfigError, match="1 training rows give no batch"):
        finetune(tiny_checkpoint, rows, tmp_path / "out", FAST, report=lambda step: None)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_checkpoint, tmp_path):
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    torch.save({"weight": torch.zeros(1, 64), "bias": torch.full((1,), torch.nan)}, copy / "sparse_linear.pt")
    config = replace(FAST, objective=Objective(self_distill=False))
    with pytest.raises(ModelOutputError, match=r"step 1: loss .*nan.* on rows \[") as caught:
        run(copy, tmp_path / "run", config)
    assert 0 <= caught.value.index < 24
    assert [path.name for path in (tmp_path / "run" / "out").iterdir()] == ["training.jsonl"]
