"""The smallest files: matrices of 4-bit blocks with a correction of low rank, an embedding table in codes."""

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
    dequantize_matrix,
    frequent_rows,
    low_rank,
    quantize_codes,
    quantize_matrix,
    rounded_table,
    table_basis,
)
from train.import_bundle import import_bundle
from train.model import M3Model

FEW = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with matrices of 4-bit blocks and a table of codes, as distillation leaves it."""
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("int4") / "tiny"))
    model = M3Model.load(path)
    words = model.encoder.get_input_embeddings().weight
    table = words.detach().numpy()
    model.embedding_basis = table_basis(table[frequent_rows(table) :])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "encoder.layer" in name:
                packed, scales, _, _ = quantize_matrix(weight.numpy())
                weight.copy_(torch.from_numpy(dequantize_matrix(packed, scales)))
        words.copy_(torch.from_numpy(rounded_table(table, model.embedding_basis)))
    model.save(path, tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"))
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return convert(checkpoint, checkpoint.parent / "bundle", precision="int4")


def cost(error, metric):
    """What errors of rows cost."""
    return np.einsum("ni,ij,nj->", error, metric, error)


def test_a_basis_by_hand():
    # Mean (5, 1), variances 4 and 1; an error of the second number costs 9 times as much.
    rows = np.array([[7, 2], [7, 0], [3, 2], [3, 0]], np.float32)
    *axes, mean = table_basis(rows).astype(np.float64)
    assert mean.tolist() == [5, 1]
    np.testing.assert_allclose(np.abs(axes), [[2, 0], [0, 1]], atol=1e-3)  # a coordinate of 1 is a standard deviation
    *axes, _ = table_basis(rows, np.diag([1.0, 9.0])).astype(np.float64)
    np.testing.assert_allclose(np.abs(axes), [[0, 1], [2, 0]], atol=1e-3)  # 9 · 1 before 1 · 4


def test_few_different_rows_are_kept():
    rows = np.repeat(np.random.default_rng(0).normal(size=(24, 32)), 8, axis=0).astype(np.float32)
    coded = quantize_codes(rows)
    assert [codes.shape for codes in coded.codes] == [(192, 2), (192, 3), (192, 2)]  # 7 bytes for 32 numbers
    np.testing.assert_allclose(coded.rows(), rows, atol=2e-2)  # the basis is rounded to float16


def test_codes_of_random_rows_lose_a_seventh_of_their_power():
    # The least that 1.75 bits a number can lose of a normal distribution is 2^-3.5, 9 % (rate-distortion); here all
    # coordinates are alike, so that nothing is gained by giving some more bits.
    rows = np.random.default_rng(0).normal(size=(8000, 64)).astype(np.float32)
    assert 2**-3.5 < np.square(quantize_codes(rows).rows() - rows).mean() < 0.22


def test_the_metric_decides_where_errors_go():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8000, 64)).astype(np.float32)
    axes = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    metric = axes * np.geomspace(1, 0.001, 64) @ axes.T  # few directions matter, and none is a column
    plain, weighted = (quantize_codes(rows, table_basis(rows, one)).rows() - rows for one in (None, metric))
    assert cost(weighted, metric) < 0.35 * cost(plain, metric)
    assert np.square(weighted).sum() > np.square(plain).sum()


def test_rows_that_had_codes_get_them_again():
    rows = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    once = quantize_codes(rows)
    np.testing.assert_allclose(quantize_codes(once.rows(), once.basis).rows(), once.rows(), atol=1e-4)


def test_rows_of_zeros_stay_zero():
    assert not quantize_codes(np.zeros((9, 64), np.float32)).rows().any()


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
