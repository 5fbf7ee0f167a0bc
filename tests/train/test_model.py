"""``M3Model``: what it computes, and its directory on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m3_vdb.encoding import pooling
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import BundleError
from tests.train._toy import VOCABULARY, random_model, random_token_batch
from train.model import M3Model


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("colbert_dim", [8, None])
def test_a_saved_model_loads_exactly_as_it_was(tmp_path, tiny_tokenizer_json, colbert_dim):
    model = random_model(colbert_dim=colbert_dim)
    model.save(tmp_path / "saved", tokenizer_json=tiny_tokenizer_json)
    loaded = M3Model.load(tmp_path / "saved")
    assert loaded.colbert_dim == (colbert_dim or 16)
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    batch = random_token_batch(3, 9)
    for name in ("dense", "token_weights", "multi_vector"):
        assert torch.equal(getattr(loaded(*batch), name), getattr(model(*batch), name))
    assert (tmp_path / "saved" / "tokenizer.json").read_text(encoding="utf-8") == tiny_tokenizer_json


def test_other_libraries_find_cls_pooling(tiny_checkpoint):
    heads = {
        name: torch.load(tiny_checkpoint / f"{name}_linear.pt", weights_only=True) for name in ("sparse", "colbert")
    }
    assert heads["sparse"]["weight"].shape == (1, 64)
    assert heads["colbert"]["weight"].shape == (16, 64)
    pooling_config = json.loads((tiny_checkpoint / "1_Pooling" / "config.json").read_text())
    assert pooling_config["pooling_mode_cls_token"]
    modules = json.loads((tiny_checkpoint / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]


@pytest.mark.parametrize("name", ["config.json", "sparse_linear.pt", "colbert_linear.pt", "model.safetensors"])
def test_a_missing_file_is_an_error_and_never_random_weights(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(BundleError, match=name.split(".")[0]):
        M3Model.load(checkpoint)


def test_a_missing_encoder_tensor_is_an_error_and_never_random_weights(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        M3Model.load(checkpoint)


@pytest.mark.parametrize(
    ("name", "weight", "bias"),
    [
        ("sparse_linear.pt", (1, 63), (1,)),
        ("sparse_linear.pt", (2, 64), (2,)),
        ("sparse_linear.pt", (1, 64), None),
        ("colbert_linear.pt", (16, 65), (16,)),
        ("colbert_linear.pt", (16, 64), (15,)),
    ],
)
def test_a_head_of_the_wrong_shape_is_an_error(checkpoint, name, weight, bias):
    torch.save({"weight": torch.zeros(weight)} | ({"bias": torch.zeros(bias)} if bias else {}), checkpoint / name)
    with pytest.raises(BundleError, match=name):
        M3Model.load(checkpoint)


def test_half_precision_heads_are_read_as_float32(checkpoint):
    torch.save({"weight": torch.ones(1, 64).half(), "bias": torch.ones(1).half()}, checkpoint / "sparse_linear.pt")
    assert M3Model.load(checkpoint).sparse_linear.weight.dtype == torch.float32


def test_the_maximum_length_leaves_out_the_two_unused_position_rows(tiny_checkpoint):
    model = M3Model.load(tiny_checkpoint)
    assert model.max_length == model.encoder.config.max_position_embeddings - 2 == 64
    full = torch.full((1, model.max_length), 9)
    assert model(full, torch.ones_like(full)).token_weights.shape == (1, 64)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 65), 9), torch.ones(1, 65, dtype=torch.long))


def test_shapes_and_unit_rows_of_the_output():
    ids, mask = random_token_batch(5, 11)
    output = random_model()(ids, mask)
    assert (output.dense.shape, output.token_weights.shape, output.multi_vector.shape) == ((5, 16), (5, 11), (5, 10, 8))
    torch.testing.assert_close(output.dense.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(output.multi_vector.norm(dim=-1)[mask[:, 1:].bool()], torch.ones(int(mask.sum()) - 5))
    assert (output.token_weights >= 0).all()
    assert output.token_weights.dtype == output.dense.dtype == torch.float32


@torch.inference_mode()
def test_padding_of_the_batch_changes_no_output(tiny_checkpoint, tiny_texts):
    model = M3Model.load(tiny_checkpoint)
    tokens = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json").encode(tiny_texts, max_length=64)
    together = model(*map(torch.from_numpy, tokens.padded(np.arange(len(tokens)))))
    assert len(set(tokens.lengths.tolist())) > 4
    for i, length in enumerate(tokens.lengths.tolist()):
        alone = model(*map(torch.from_numpy, tokens.padded(np.array([i]))))
        torch.testing.assert_close(together.dense[i], alone.dense[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.token_weights[i, :length], alone.token_weights[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.multi_vector[i, : length - 1], alone.multi_vector[0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_pooled_output_is_the_definition_of_numerics_2():
    model, (ids, mask) = random_model(), random_token_batch(6, 12, seed=3)
    ids[1, 3] = ids[1, 5] = ids[1, 4]  # a repeated id
    output = model(ids, mask)
    lengths = mask.sum(1).numpy().astype(np.int32)
    sparse = pooling.pool_sparse(ids.numpy(), output.token_weights.numpy())
    rows = pooling.pool_multi_vector(output.multi_vector.numpy(), lengths)
    heads = {name: parameter.numpy() for name, parameter in model.named_parameters() if "_linear" in name}
    kept = 0
    for i, length in enumerate(lengths):
        hidden = model.encoder(input_ids=ids[i : i + 1, :length]).last_hidden_state[0].numpy()  # H, alone, no padding
        np.testing.assert_allclose(output.dense[i], hidden[0] / np.linalg.norm(hidden[0]), atol=1e-6)
        weight = np.maximum(hidden @ heads["sparse_linear.weight"][0] + heads["sparse_linear.bias"], 0)
        expected = {
            t: weight[ids[i, :length].numpy() == t].max()
            for t in range(VOCABULARY)
            if t not in (0, 1, 2, 3) and t in ids[i]
        }
        expected = {t: w for t, w in expected.items() if w > 0}
        part = slice(sparse.offsets[i], sparse.offsets[i + 1])
        assert sparse.ids[part].tolist() == sorted(expected)
        np.testing.assert_allclose(sparse.values[part], [expected[t] for t in sorted(expected)], atol=1e-5)
        kept += len(expected)
        projected = hidden[1:] @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"]
        unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
        np.testing.assert_allclose(rows.values[rows.offsets[i] : rows.offsets[i + 1]], unit, atol=1e-5)
    assert 5 < kept < (ids > 3).sum()  # some weights were positive and some were not
