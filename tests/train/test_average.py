"""The mean of several checkpoints' weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from m3_vdb.errors import ConfigError
from onnx_export.checkpoint import read_tokenizer
from tests.train.test_cli import train
from train.config import AverageConfig
from train.edit import average
from train.model import M3Model


@pytest.fixture
def shifted(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with 1 added to every number."""
    model = M3Model.load(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.save(tmp_path / "shifted", tokenizer_json=read_tokenizer(tiny_checkpoint))
    return tmp_path / "shifted"


def test_a_quarter_of_a_model_that_is_one_higher_is_a_quarter_higher(tiny_checkpoint, shifted):
    model, tokenizer = average([tiny_checkpoint, shifted], [3.0, 1.0])
    before = M3Model.load(tiny_checkpoint).state_dict()
    after = model.state_dict()
    assert tokenizer == read_tokenizer(tiny_checkpoint)
    for name, _ in model.named_parameters():
        torch.testing.assert_close(after[name], before[name] + 0.25, atol=1e-6, rtol=0)


def test_order_and_scale_of_the_weights_change_nothing(tiny_checkpoint, shifted):
    paths = [tiny_checkpoint, shifted, tiny_checkpoint]
    one = average(paths, [1.0, 2.0, 5.0])[0].state_dict()
    other = average([*reversed(paths)], [0.5, 0.2, 0.1])[0].state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)


def test_the_command_writes_a_checkpoint(tiny_checkpoint, shifted, tmp_path):
    done = train("average", "--models", f'["{tiny_checkpoint}", "{shifted}"]', "--out", tmp_path / "mean")
    assert done.returncode == 0, done.stderr
    expected = average([tiny_checkpoint, shifted], [1.0, 1.0])[0].state_dict()
    for name, tensor in M3Model.load(tmp_path / "mean").state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_what_cannot_be_averaged_is_refused(tiny_checkpoint, shifted, tmp_path):
    with pytest.raises(ConfigError, match="expected two checkpoints or more"):
        AverageConfig(models=[tiny_checkpoint], out=tmp_path / "x")
    for weights in ([1.0], [1.0, 0.0], [1.0, float("inf")], [float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="expected 2 positive numbers"):
            AverageConfig(models=[tiny_checkpoint, shifted], weights=weights, out=tmp_path / "x")
    model = M3Model.load(tiny_checkpoint)
    narrow = M3Model(model.encoder, colbert_dim=4)
    narrow.save(tmp_path / "narrow", tokenizer_json=read_tokenizer(tiny_checkpoint))
    with pytest.raises(ConfigError, match="narrow has another tokenizer or other tensors"):
        average([tiny_checkpoint, tmp_path / "narrow"], [1.0, 1.0])
    shutil.copytree(tiny_checkpoint, tmp_path / "words")
    path = tmp_path / "words" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="words has another tokenizer or other tensors"):
        average([tiny_checkpoint, tmp_path / "words"], [1.0, 1.0])
