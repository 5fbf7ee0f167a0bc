"""The NumPy forward pass: its parts by hand, the whole against torch, with weights in every form of file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m3_vdb.encoding.bundle import Bundle
from m3_vdb.encoding.tokenizer import Tokenizer
from onnx_export import reference
from onnx_export.checkpoint import read_checkpoint
from onnx_export.export import convert, read_weights
from onnx_export.weights import Weights
from train.model import M3Model


def weights_of(**tensors: object) -> Weights:
    arrays = {name: np.array(value, dtype=np.float32) for name, value in tensors.items()}
    return Weights({name.replace("__", "."): value for name, value in arrays.items()}, 0, 1, 0.0)


def test_erfc_and_gelu_are_those_of_the_standard_library():
    x = np.linspace(-6, 6, 2001)
    expected = np.array([math.erfc(value) for value in x])
    np.testing.assert_allclose(reference.erfc(x), expected, rtol=1.3e-7)
    exact = [value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x]
    np.testing.assert_allclose(reference.gelu(x.astype(np.float32)[None])[0], exact, atol=1e-6, rtol=1e-6)


def test_layer_norm_by_hand():
    weights = weights_of(n__weight=[1, 2], n__bias=[0, 10])
    # mean 2, deviations −1 and 1, variance 1
    assert reference.layer_norm(weights, "n", np.array([[1, 3]], np.float32)).tolist() == [[-1.0, 12.0]]


def test_attention_by_hand():
    query = np.array([[0, 0], [math.log(3) * math.sqrt(2), 0]], np.float32)
    key, value = np.array([[1, 0], [0, 0]], np.float32), np.array([[4, 0], [0, 8]], np.float32)
    # The first token looks at both alike; the second has scores log 3 and 0, shares ¾ and ¼.
    np.testing.assert_allclose(reference.attention(query, key, value, heads=1), [[2, 4], [3, 2]], rtol=1e-6)
    # Two heads of width 1: scores log 3 · √2 and 0 in the first, 0 and 0 in the second.
    first = 3 ** math.sqrt(2) / (3 ** math.sqrt(2) + 1)
    found = reference.attention(query, key, value, heads=2)
    np.testing.assert_allclose(found, [[2, 4], [4 * first, 4]], rtol=1e-6)


def test_the_heads_by_hand():
    weights = weights_of(
        sparse_linear__weight=[[1, -1]], sparse_linear__bias=[0.5],
        colbert_linear__weight=[[0, 2]], colbert_linear__bias=[0],
    )  # fmt: skip
    states = np.array([[3, 4], [2, 1], [1, 1], [0, 9], [6, 8], [5, -1]], np.float32)
    found = reference.represent(weights, states, np.array([0, 7, 7, 9, 0, 2]))  # a second <s>, of MCLS
    np.testing.assert_allclose(found.dense, [0.6, 0.8], rtol=1e-6)  # the mean of (3, 4) and (6, 8)
    assert found.sparse.as_dict() == {7: 1.5}  # max(1.5, 0.5); 9 has ReLU(−8.5) = 0; </s> is no word
    assert found.multi_vector.tolist() == [[1.0], [1.0], [1.0], [-1.0]]


TEXTS = ["", "the vector search", "数据库的向量检索", "как поиск слово repeat repeat " * 9]


@pytest.mark.parametrize("mcls_every", [None, 8])
def test_the_whole_is_what_torch_computes(tiny_checkpoint: Path, mcls_every: int | None):
    tokens = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json").encode(TEXTS, max_length=64, mcls_every=mcls_every)
    found = reference.embed(read_weights(read_checkpoint(tiny_checkpoint)), tokens)
    for one, other in zip(found, M3Model.load(tiny_checkpoint).embed(tokens), strict=True):
        np.testing.assert_allclose(one.dense, other.dense, atol=2e-6)
        np.testing.assert_allclose(one.multi_vector, other.multi_vector, atol=5e-6)
        assert one.sparse.as_dict() == pytest.approx(other.sparse.as_dict(), abs=1e-5)
    assert len(found[3].sparse.ids) >= 1, "or nothing was compared"


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path, suffix: str) -> None:
    state = load_file(folder / "model.safetensors")
    names, index = sorted(state), {}
    for part, own in enumerate((names[::2], names[1::2])):
        name = f"model-0000{part + 1}-of-00002.{suffix}"
        save = save_file if suffix == "safetensors" else torch.save
        save({one: state[one] for one in own}, folder / name)
        index |= dict.fromkeys(own, name)
    (folder / "model.safetensors").unlink()
    name = "model.safetensors.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json"
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def wrapped(folder: Path) -> None:
    """As XLMRobertaForMaskedLM saves it."""
    state = {f"roberta.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    torch.save(state | {"lm_head.bias": torch.zeros(3)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def reduced(folder: Path, kind: torch.dtype) -> None:
    for name in ("model.safetensors", "sparse_linear.pt", "colbert_linear.pt"):
        path = folder / name
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
        state = {one: value.to(kind) for one, value in state.items()}
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


FORMS = {
    "bin": as_bin,
    "sharded safetensors": lambda folder: sharded(folder, "safetensors"),
    "sharded bin": lambda folder: sharded(folder, "bin"),
    "wrapped": wrapped,
    "fp16": lambda folder: reduced(folder, torch.float16),
    "bf16": lambda folder: reduced(folder, torch.bfloat16),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint_gives_its_bundle(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, form):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    FORMS[form](folder)
    model = M3Model.load(folder)
    bundle = convert(folder, tmp_path / "out", also=model.embed)
    if form in ("fp16", "bf16"):
        values = model.state_dict()["encoder.encoder.layer.1.output.dense.weight"]
        assert torch.equal(values, values.to(getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[form])).float())
    else:
        assert bundle.fingerprint == Bundle.open(tiny_bundle).fingerprint
