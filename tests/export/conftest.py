"""A tiny checkpoint with an embedding table of 4-bit blocks, as a torch model and as a bundle of every precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_export.export import convert
from onnx_export.verify import Errors
from train.model import M3Model

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with the kind of table that the shipped base has: 4 bits lose what random weights hold."""
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("export") / "tiny"))
    model = M3Model.load(path)
    words = model.encoder.get_input_embeddings().weight
    rng = np.random.default_rng(11)
    levels = rng.integers(0, 16, (*words.shape[:1], words.shape[1] // 32, 32))
    levels[..., 0] = 0  # the largest magnitude of a block
    table = (levels - 8) * rng.uniform(0.05, 0.15, (*levels.shape[:2], 1))
    with torch.no_grad():
        words.copy_(torch.from_numpy(table.reshape(words.shape).astype(np.float32)))
    model.save(path, tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path) -> dict[str, tuple[Path, Errors]]:
    """Precision → (bundle, measured errors). Shared: copy a bundle before you change it."""
    results = {}
    for precision in PRECISIONS:
        bundle = convert(checkpoint, checkpoint.parent / precision, precision=precision)
        results[precision] = (bundle.path, Errors(**bundle.config["errors"]))
    return results


@pytest.fixture(scope="session")
def torch_model(checkpoint: Path) -> M3Model:
    return M3Model.load(checkpoint, attention="sdpa")
