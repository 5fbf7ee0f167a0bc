"""A model that was trained on from an int8 bundle keeps its training when it is exported again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.bundle import Bundle
from onnx_export.__main__ import app
from onnx_export.export import convert
from onnx_export.verify import Change, Errors
from onnx_export.weights import dequantize_bytes, quantize_bytes
from train.import_bundle import import_bundle
from train.model import M3Model

STEP = 0.1
"""Of a level, about: what a hundred optimiser steps at a rate of 2e-5 move a weight of m3-small."""


@pytest.fixture(scope="module")
def started(exported: dict[str, tuple[Path, Errors]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that ``import-bundle`` made of an int8 bundle."""
    folder = tmp_path_factory.mktemp("change")
    shutil.copytree(exported["int8"][0], folder / "first")
    import_bundle(folder / "first", folder / "start")
    return folder / "start"


@pytest.fixture(scope="module")
def trained(started: Path) -> Path:
    """The same, with every matrix of the encoder moved by a fraction of a level, in a direction of low rank."""
    out = started.parent / "trained"
    model = M3Model.load(started)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "encoder.layer" in name:
                left, right = (torch.randn(size, 1, generator=generator) for size in weight.shape)
                level = weight.abs().amax(1, keepdim=True) / 127
                weight.add_(STEP * level * (left @ right.T))
    model.eval().save(out, tokenizer_json=(started / "tokenizer.json").read_text(encoding="utf-8"))
    return out


def change_of(folder: Path) -> Change:
    return Change(**json.loads((folder / "m3_config.json").read_text(encoding="utf-8"))["change"])


def run_export(checkpoint: Path, out: Path, precision: str) -> tuple[Change, str]:
    """The measured change, and the last line that the command writes."""
    done = CliRunner().invoke(app, [str(checkpoint), str(out), "--precision", precision])
    assert done.exit_code == 0, done.output
    return change_of(out), done.stderr.splitlines()[-1]


def test_fp16_keeps_the_training(trained: Path, tmp_path: Path) -> None:
    change, said = run_export(trained, tmp_path / "b", "fp16")
    assert change.cosine >= 0.99
    # Computing in float16 changes vectors by half a percent of so small a change (.9946 is kept): it says 99.
    assert change.kept == pytest.approx(1, abs=0.006)
    assert re.match("fp16 keeps (99|100)% of what training changed in int8", said)


def test_what_is_lost_is_a_warning_that_names_fp16(trained: Path, tmp_path: Path) -> None:
    # The tiny model's sums are too short for dithering to even out; m3-small's are six times as long (docs/log.md).
    change, said = run_export(trained, tmp_path / "b", "int8")
    assert change.cosine < 0.9
    assert said.startswith("warning: int8 keeps ")
    assert said.endswith("(expected at least 0.9): export with --precision fp16 to keep the training")


@pytest.mark.parametrize("step", [0.02, 0.06, 0.2])
def test_what_a_wide_matrix_learnt_from_its_inputs_survives_in_its_outputs(step: float) -> None:
    """A gradient step moves weights along the inputs, so the outputs of such inputs move by the sum of all moves."""
    rng = np.random.default_rng(3)
    steps = rng.integers(-127, 128, (64, 384))
    steps[:, ::32] = 127  # the scales stay as they were
    old = steps.astype(np.float32) / 128
    common = np.sign(rng.normal(size=(1, 384)))
    moved = step / 128 * common * np.sign(rng.normal(size=(64, 1)))
    moved[:, ::32] = 0
    new = (old + moved).astype(np.float32)
    levels, scales = quantize_bytes(new)
    inputs = common + 0.3 * rng.normal(size=(200, 384))
    wanted, found = inputs @ moved.T, inputs @ (dequantize_bytes(levels, scales) - old).T
    cosine = float((wanted * found).sum() / np.sqrt((wanted**2).sum() * (found**2).sum()))
    # Noise per output √(384 · step · (1 − step)) of a level against a signal of 384 · step: .94, .98 and .995.
    assert cosine > {0.02: 0.9, 0.06: 0.96, 0.2: 0.985}[step]
    assert (np.rint(new * 128) == steps).all(), "the nearest level would undo it all"


def test_what_was_not_trained_is_exported_as_it_was(started: Path, tmp_path: Path) -> None:
    bundle = convert(started, tmp_path / "again", precision="int8")
    first = M3EmbeddingFunction(started.parent / "first", threads=1).encode_documents(["the vector search"])
    again = M3EmbeddingFunction(bundle.path, threads=1).encode_documents(["the vector search"])
    np.testing.assert_allclose(again.dense, first.dense, atol=1e-5)  # the same levels, scales in float32
    assert bundle.config["change"]["cosine"] is None


def test_the_same_checkpoint_gives_the_same_bundle(trained: Path, tmp_path: Path) -> None:
    first, second = (convert(trained, tmp_path / name, precision="int8", name="x") for name in "ab")
    assert first.fingerprint == second.fingerprint


def test_a_bundle_that_is_gone_is_said_and_not_measured(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["imported_from"]["bundle"] = str(tmp_path / "nowhere")
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bundle = convert(copy, tmp_path / "b", precision="int8")
    change = Change(**bundle.config["change"])
    assert change.distance is None
    assert "is not on this machine, so how much of the training int8 keeps was not measured" in change.summary("int8")


def test_a_checkpoint_that_began_with_no_bundle_has_no_change(tiny_bundle: Path) -> None:
    assert "change" not in Bundle.open(tiny_bundle).config


def test_what_loses_the_training_names_the_finer_precision() -> None:
    lost = Change("m3-small", "f" * 16, distance=0.1, cosine=0.62, kept=0.4)
    assert lost.lost
    assert lost.summary("int8").endswith("(expected at least 0.9): export with --precision fp16 to keep the training")
    assert not replace(lost, cosine=0.95, kept=0.9).lost
