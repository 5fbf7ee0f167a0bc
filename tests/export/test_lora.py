"""Adapters made by PEFT itself: the folder becomes the bundle of the merged model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import BundleError
from onnx_export.checkpoint import read_checkpoint
from onnx_export.export import convert
from train.model import M3Model

LINEAR = ["query", "key", "value", "output.dense", "intermediate.dense"]
SETTINGS = {
    "queries": {"r": 4, "lora_alpha": 8, "target_modules": ["query"]},
    "all, rslora": {"r": 3, "lora_alpha": 5, "target_modules": LINEAR, "use_rslora": True, "bias": "lora_only"},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": ["query", "value"],
        "rank_pattern": {"layer.1.attention.self.value": 2}, "alpha_pattern": {"layer.0.attention.self.query": 32},
    },
    "words and heads": {
        "r": 2, "lora_alpha": 4, "target_modules": ["word_embeddings", "value"],
        "modules_to_save": ["sparse_linear", "colbert_linear"],
    },
    "whole words": {"r": 2, "target_modules": ["key"], "modules_to_save": ["word_embeddings"], "fan_in_fan_out": True},
}  # fmt: skip


def adapter_of(checkpoint: Path, folder: Path, **settings: object) -> M3Model:
    """Write a random adapter of a checkpoint; the merged model."""
    torch.manual_seed(5)
    model = M3Model.load(checkpoint)
    model.config = model.encoder.config  # PEFT asks for it
    wrapped = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.2 if "lora_" in name else 0.05))
    wrapped.peft_config["default"].base_model_name_or_path = str(checkpoint)
    wrapped.save_pretrained(folder)
    merged: M3Model = wrapped.merge_and_unload()
    return merged.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTINGS)
def test_an_adapter_becomes_what_peft_merges(tiny_checkpoint: Path, tmp_path: Path, name: str):
    merged = adapter_of(tiny_checkpoint, tmp_path / "adapter", **SETTINGS[name])
    found = read_checkpoint(tmp_path / "adapter")
    expected = {key.removeprefix("encoder."): value.numpy() for key, value in merged.state_dict().items()}
    assert found.tensors.keys() == expected.keys()
    before = read_checkpoint(tiny_checkpoint)
    changed = 0
    for key, value in expected.items():
        np.testing.assert_allclose(found.tensors[key], value, atol=2e-6, err_msg=key)
        changed += not np.array_equal(before.tensors[key], value)
    assert changed >= 2
    if name == "words and heads":
        bundle = convert(tmp_path / "adapter", tmp_path / "out", also=merged.embed)
        assert len(M3EmbeddingFunction(bundle.path, threads=1).encode_documents(["the vector search"]).multi_vector) > 2


def test_the_base_model_is_a_folder_or_is_fetched(tiny_checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "adapter"
    adapter_of(tiny_checkpoint, folder, **SETTINGS["queries"])
    config = json.loads((folder / "adapter_config.json").read_text())

    def named(base: object) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))

    named("org/tiny")
    asked = []
    found = read_checkpoint(folder, fetch=lambda name: asked.append(name) or tiny_checkpoint)
    assert asked == ["org/tiny"]
    assert found.shape.hidden_size == 64
    with pytest.raises(BundleError, match="is a LoRA adapter of org/tiny, which is not a folder here: download it"):
        read_checkpoint(folder)
    shutil.copytree(tiny_checkpoint, folder / "base")
    named("base")  # beside the adapter
    read_checkpoint(folder)
    named(None)
    with pytest.raises(BundleError, match="names no base model: set base_model_name_or_path"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "has peft_type 'LOHA': only LORA can be merged"),
        ({"use_dora": True}, "has use_dora, which cannot be merged here"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"lora_alpha": "8"}, "is damaged"),
    ],
)
def test_what_cannot_be_merged_is_one_line(tiny_checkpoint: Path, tmp_path: Path, change, said: str):
    adapter_of(tiny_checkpoint, tmp_path, **SETTINGS["queries"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError) as raised:
        read_checkpoint(tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_adapter_of_another_model_and_one_without_weights_are_refused(
    tiny_checkpoint: Path, long_words: Path, tmp_path: Path
):
    adapter_of(long_words, tmp_path, **SETTINGS["whole words"])
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": str(tiny_checkpoint)}
    path.write_text(json.dumps(config))
    with pytest.raises(BundleError, match="which its base model has not: is base_model_name_or_path right"):
        read_checkpoint(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors cannot be read"):
        read_checkpoint(tmp_path)


@pytest.fixture
def long_words(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with more rows in its table."""
    path = tmp_path_factory.mktemp("more") / "checkpoint"
    model = M3Model.load(tiny_checkpoint)
    model.encoder.resize_token_embeddings(model.encoder.config.vocab_size + 8, mean_resizing=False)
    model.save(path, tokenizer_json=(tiny_checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    return path
