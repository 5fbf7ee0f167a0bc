"""A model that was trained on from an int8 bundle keeps its training when it is exported again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb import M3EmbeddingFunction
from onnx_export.__main__ import main
from onnx_export.export import export
from onnx_export.verify import Change, measure_change
from onnx_export.weights import quantize_int8
from train.import_bundle import import_bundle
from train.model import M3Model

STEP = 0.03
"""Of a level, on average: what some optimiser steps at a rate of 2e-5 move a weight of m3-small."""


@pytest.fixture(scope="module")
def started(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that ``import-bundle`` made of an int8 bundle."""
    folder = tmp_path_factory.mktemp("change")
    export(tiny_checkpoint, folder / "first", precision="int8")
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
                weight += STEP * level * (left @ right.T)
    model.eval().save(out, tokenizer_json=(started / "tokenizer.json").read_text(encoding="utf-8"))
    return out


def change_of(folder: Path) -> Change:
    return Change(**json.loads((folder / "m3_config.json").read_text(encoding="utf-8"))["change"])


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.9), ("fp16", 0.99)])
def test_an_export_keeps_the_training_and_says_how_much(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str, least: float
) -> None:
    assert change_of_export(trained, tmp_path / "b", precision).cosine >= least
    assert f"{precision} keeps " in capsys.readouterr().err


def change_of_export(checkpoint: Path, out: Path, precision: str) -> Change:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["onnx_export", str(checkpoint), str(out), "--precision", precision])
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
    return change_of(out)


def test_the_nearest_level_would_undo_it(trained: Path, started: Path) -> None:
    before, after = (M3Model.load(path).state_dict() for path in (started, trained))
    name = next(name for name in before if name.endswith("layer.0.attention.self.query.weight"))
    old, new = (state[name].numpy().T for state in (before, after))
    step = np.abs(new).max(axis=0) / 127
    nearest = np.rint(new / step) * step
    levels, scale = quantize_int8(new)
    moved = new - old

    def kept(value: np.ndarray) -> float:
        return float((moved * (value - old)).sum() / (moved * moved).sum())

    assert kept(nearest) < 0.5 < kept(levels * scale)


def test_what_was_not_trained_is_exported_as_it_was(started: Path, tmp_path: Path) -> None:
    bundle, _ = export(started, tmp_path / "again", precision="int8")
    first = M3EmbeddingFunction(started.parent / "first", threads=1).encode_documents(["the vector search"])
    again = M3EmbeddingFunction(bundle.path, threads=1).encode_documents(["the vector search"])
    np.testing.assert_allclose(again.dense, first.dense, atol=1e-5)  # the same levels, scales in float32
    assert bundle.config["change"]["cosine"] is None


def test_the_same_checkpoint_gives_the_same_bundle(trained: Path, tmp_path: Path) -> None:
    first, second = (export(trained, tmp_path / name, precision="int8", name="x")[0] for name in "ab")
    assert first.fingerprint == second.fingerprint


def test_a_bundle_that_is_gone_is_said_and_not_measured(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["imported_from"]["bundle"] = str(tmp_path / "nowhere")
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bundle, _ = export(copy, tmp_path / "b", precision="int8")
    change = Change(**bundle.config["change"])
    assert change.distance is None
    assert "is not here any more: how much of the training int8 keeps was not measured" in change.summary("int8")


def test_a_checkpoint_that_began_with_no_bundle_has_no_change(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    assert measure_change(M3EmbeddingFunction(tiny_bundle, threads=1), M3Model.load(tiny_checkpoint)) is None


def test_what_loses_the_training_names_the_finer_precision() -> None:
    lost = Change("m3-small", "f" * 16, distance=0.1, cosine=0.62, kept=0.4)
    assert lost.lost
    assert lost.summary("int8").endswith("(expected at least 0.9): export with --precision fp16 to keep the training")
    assert not replace(lost, cosine=0.95, kept=0.9).lost
