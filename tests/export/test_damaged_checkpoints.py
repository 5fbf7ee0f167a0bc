"""Checkpoints as they arrive: pointers, halves, web pages. One line: which file, what it is, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m3_vdb import M3EmbeddingFunction
from m3_vdb.errors import BundleError
from onnx_export.export import convert
from train.model import M3Model

ROOT = Path(__file__).parents[2]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3516\n"
WEIGHTS = "model.safetensors"


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


def config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return damage


def pickled(folder: Path) -> None:
    torch.save(torch.nn.Linear(64, 1), folder / "sparse_linear.pt")


def with_nan(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if name.endswith("layer.0.output.dense.weight"))
    state[name][0, 0] = float("nan")
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "pointer weights": (
        written(WEIGHTS, POINTER),
        WEIGHTS,
        "is a Git LFS pointer, not the file itself: run git lfs pull",
    ),
    "pointer head": (written("sparse_linear.pt", POINTER), "sparse_linear.pt", "is a Git LFS pointer"),
    "pointer tokenizer": (written("tokenizer.json", POINTER), "tokenizer.json", "is a Git LFS pointer"),
    "pointer config": (written("config.json", POINTER), "config.json", "is a Git LFS pointer"),
    "page": (written("config.json", b"<!DOCTYPE html><html>"), "config.json", "is a web page"),
    "cut weights": (cut(WEIGHTS, 5000), WEIGHTS, "is damaged"),
    "cut head": (cut("colbert_linear.pt", 900), "colbert_linear.pt", "is damaged"),
    "empty head": (written("colbert_linear.pt", b""), "colbert_linear.pt", "is damaged or incomplete (empty)"),
    "cut config": (written("config.json", b"{"), "config.json", "is damaged (not JSON"),
    "objects": (pickled, "sparse_linear.pt", "Python objects"),
    "nan": (with_nan, WEIGHTS, "has NaN or infinity"),
    "other model": (config(model_type="bert"), "config.json", "bert"),
    "other activation": (config(hidden_act="relu"), "config.json", "relu"),
    "fewer layers": (config(num_hidden_layers=1), "config.json", "says 1 layers"),
    "no head": (without("sparse_linear.pt"), "sparse_linear.pt", "has no sparse_linear.pt: expected"),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json", "has no tokenizer.json: expected"),
    "no weights": (without(WEIGHTS), WEIGHTS, ""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_one_line_that_names_the_file(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    damage, file, said = DAMAGE[name]
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    damage(folder)
    with pytest.raises(BundleError) as raised:
        convert(folder, tmp_path / "out")
    message = str(raised.value)
    assert file in message
    assert said in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_is_too_small_is_refused_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    model = M3Model.load(folder)
    model.encoder.resize_token_embeddings(model.encoder.config.vocab_size - 20, mean_resizing=False)
    model.save(folder, tokenizer_json=(folder / "tokenizer.json").read_text(encoding="utf-8"))
    with pytest.raises(BundleError, match=r"tokenizer\.json has \d+ ids, but the embedding table .* has \d+ rows"):
        convert(folder, tmp_path / "out")


def test_the_command_writes_this_line_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    damage, file, said = DAMAGE["objects"]
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    damage(folder)
    command = [sys.executable, "-m", "onnx_export", str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert file in line
    assert said in line


BUNDLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "pointer": (written("model.onnx", POINTER), "model.onnx is a Git LFS pointer"),
    "cut graph": (cut("model.onnx", 1000), "model.onnx"),
    "cut tokenizer": (cut("tokenizer.json", 100), "tokenizer.json"),
    "cut config": (written("m3_config.json", b"{"), "m3_config.json is damaged (not JSON"),
    "no graph": (without("model.onnx"), "model.onnx"),
}


@pytest.mark.parametrize("name", BUNDLE)
def test_a_damaged_bundle_is_one_line_that_names_the_file(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    damage, said = BUNDLE[name]
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    damage(folder)
    with pytest.raises(BundleError) as raised:
        M3EmbeddingFunction(folder, threads=1)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
