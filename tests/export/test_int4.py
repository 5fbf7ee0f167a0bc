"""The smallest files: matrices of 4-bit blocks with a correction of low rank, codes for the rows of rare pieces."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.bundle import MODEL, Bundle
from onnx_export.export import convert
from onnx_export.graph import build_graph
from onnx_export.restore import restore
from onnx_export.weights import (
    RANK,
    dequantize_codes,
    dequantize_matrix,
    low_rank,
    quantize_codes,
    quantize_matrix,
)
from train.import_bundle import import_bundle
from train.model import M3Model

FEW = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with matrices of 4-bit blocks and a table of 64 quadruples, which codes can hold."""
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("int4") / "tiny"))
    model = M3Model.load(path)
    words = model.encoder.get_input_embeddings().weight
    rng = np.random.default_rng(11)
    quadruples = rng.permuted(np.insert(rng.integers(-8, 8, (64, 3)), 0, -8, axis=1), axis=1)
    levels = quadruples[rng.integers(64, size=(len(words), words.shape[1] // 4))].reshape(words.shape)
    table = levels * rng.uniform(0.05, 0.15, (len(words), 1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "encoder.layer" in name:
                packed, scales, _, _ = quantize_matrix(weight.numpy())
                weight.copy_(torch.from_numpy(dequantize_matrix(packed, scales)))
        words.copy_(torch.from_numpy(table.astype(np.float32)))
    model.save(path, tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"))
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return convert(checkpoint, checkpoint.parent / "bundle", precision="int4")


def test_a_code_by_hand():
    rows = np.array([[3.0, 0, 0, 4.0], [0, -2.0, 0, 0]], np.float32)  # each row is one part and a code of its own
    codes, lengths, codebook = quantize_codes(rows)
    assert codes.shape == (2, 1)
    assert lengths.tolist() == [5.0, 2.0]
    np.testing.assert_allclose(codebook[codes[:, 0]], [[0.6, 0, 0, 0.8], [0, -1, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(dequantize_codes(codes, lengths, codebook), rows, atol=1e-6)


def test_codes_of_random_rows_lose_a_tenth_of_their_power():
    # The least that 2 bits a number can lose of a normal distribution is 1/16 of its variance (rate-distortion).
    rows = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    error = dequantize_codes(*quantize_codes(rows)) - rows
    assert 1 / 16 < np.square(error).mean() / np.square(rows).mean() < 0.12


def test_rows_that_had_codes_get_them_again():
    rows = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    once = dequantize_codes(*quantize_codes(rows))
    twice = dequantize_codes(*quantize_codes(once))
    assert np.square(twice - once).mean() < 0.06 * np.square(once - rows).mean()  # k-means merges a few of 256


def test_a_row_of_zeros_stays_zero():
    rows = np.zeros((3, 64), np.float32)
    rows[1] = 1
    found = dequantize_codes(*quantize_codes(rows))
    assert not found[[0, 2]].any()
    np.testing.assert_allclose(found[1], 1, rtol=1e-3)


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([(40, 70), (70, 40)]))
def test_the_correction_is_the_best_of_its_rank(seed: int, shape: tuple[int, int]):
    error = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    left, right = low_rank(error, RANK)
    assert (left.shape, right.shape) == ((shape[0], RANK), (shape[1], RANK))
    rest = np.linalg.svd(error, compute_uv=False)[RANK:]
    np.testing.assert_allclose(np.square(error - left @ right.T).sum(), np.square(rest).sum(), rtol=1e-4)


def test_a_change_of_low_rank_that_blocks_round_away_is_kept():
    rng = np.random.default_rng(1)
    levels = rng.integers(-8, 8, (128, 192))
    levels[:, ::32] = -8
    base = (levels * 0.01).astype(np.float32)
    change = (rng.normal(size=(128, 4)) @ rng.normal(size=(4, 192)) * 2e-4).astype(np.float32)  # a 25th of a step
    packed, scales, left, right = quantize_matrix(base + change)
    blocks = dequantize_matrix(packed, scales)
    assert ((blocks - base) * change).sum() < 0.1 * np.square(change).sum(), "the nearest levels undo it"
    kept = blocks + left @ right.T - base
    assert (kept * change).sum() / np.linalg.norm(kept) / np.linalg.norm(change) > 0.98


def test_the_bundle_is_verified_and_both_runtimes_agree(bundle: Bundle, tiny_texts):
    assert bundle.config["precision"] == "int4"
    assert bundle.config["errors"]["dense_cosine"] > 0.95
    by_runtime = [
        M3EmbeddingFunction(bundle.path, runtime=runtime).encode_documents(tiny_texts)
        for runtime in ("onnxruntime", "openvino")
    ]
    cosines = (by_runtime[0].dense * by_runtime[1].dense).sum(axis=1)
    assert cosines.min() > 0.999  # OpenVINO may compute in bfloat16


def test_a_checkpoint_computes_what_its_bundle_computes(bundle: Bundle, tmp_path: Path, tiny_texts):
    model = import_bundle(bundle.path, tmp_path / "checkpoint")
    embed = M3EmbeddingFunction(bundle.path, runtime="onnxruntime", device="cpu")
    expected = embed.encode_documents(tiny_texts)
    for i, text in enumerate(tiny_texts):
        ids, mask = (torch.from_numpy(a) for a in embed.tokenizer.encode([text], max_length=64).padded(np.array([0])))
        with torch.no_grad():
            output = model(ids, mask)
        np.testing.assert_allclose(output.dense[0].numpy(), expected[i].dense, atol=1e-5)
        np.testing.assert_allclose(output.multi_vector[0].numpy(), expected[i].multi_vector, atol=1e-5)


def test_what_was_not_trained_is_found_again(bundle: Bundle):
    once = restore(onnx.load(str(bundle.path / MODEL)), max_length=64)
    twice = restore(build_graph(replace(once, precision="int4")), max_length=64)
    for name in once.tensors:
        difference = np.linalg.norm(twice[name] - once[name])
        assert difference <= 0.03 * np.linalg.norm(once[name]), name  # int8 rounding of the correction; codes again


def test_training_from_the_bundle_survives_the_next_export(bundle: Bundle, tmp_path: Path):
    start = tmp_path / "start"
    import_bundle(bundle.path, start)
    model = M3Model.load(start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "encoder.layer" in name:
                left, right = (torch.randn(size, 1, generator=generator) for size in weight.shape)
                weight.add_(0.01 * weight.abs().amax(1, keepdim=True) * (left @ right.T))  # a twelfth of a step
    model.eval().save(tmp_path / "trained", tokenizer_json=(start / "tokenizer.json").read_text(encoding="utf-8"))
    again = convert(tmp_path / "trained", tmp_path / "again", precision="int4")
    assert again.config["change"]["cosine"] > 0.9
    assert again.config["change"]["kept"] > 0.8
