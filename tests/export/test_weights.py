"""8-bit matrices and 4-bit embedding blocks."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_export.graph import IR_VERSION, OPSET, GraphBuilder
from onnx_export.weights import (
    BLOCK,
    EMBEDDING,
    LEAST_SCALE,
    Weights,
    dequantize_blocks,
    dequantize_bytes,
    quantize_blocks,
    quantize_bytes,
    quantize_int8,
    rounded_table,
)

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def random_table(seed: int, *, spread: float) -> np.ndarray:
    """float32 [20, 64]; block magnitudes differ by up to ``spread``, one row is zero as <pad>'s often is."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(20, 2, BLOCK)) * np.exp(rng.uniform(0, np.log(spread), size=(20, 2, 1)))
    table[1] = 0
    return table.reshape(20, 64).astype(np.float32)


def test_an_int8_matrix_by_hand():
    quantized, scale = quantize_int8(np.array([[127.0, 0.5, 0.0], [-63.6, -1.0, 0.0]], np.float32))
    assert quantized.dtype == np.int8
    assert quantized.tolist() == [[127, 64, 0], [-64, -127, 0]]  # 0.5 · 127 = 63.5 rounds to even
    assert scale[:2].tolist() == [1.0, np.float32(1 / 127)]


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_an_int8_matrix_is_off_by_half_a_step_at_most(seed, rows, columns):
    rng = np.random.default_rng(seed)
    value = (rng.normal(size=(rows, columns)) * 10.0 ** rng.uniform(-4, 4, columns)).astype(np.float32)
    quantized, scale = quantize_int8(value)
    assert np.abs(quantized).max() == 127  # the range is used, symmetrically
    assert (np.abs(quantized * scale.astype(np.float64) - value) <= scale * (0.5 + 1e-5)).all()


def test_an_8_bit_block_by_hand():
    rows = np.stack([np.linspace(-63.5, 63.5, 32), np.linspace(2.54, -2.54, 32)]).reshape(1, 64).astype(np.float32)
    levels, scales = quantize_bytes(rows)
    assert (levels.shape, levels.dtype) == ((1, 2, 32), np.uint8)
    assert (scales.shape, scales.dtype) == ((1, 2), np.float16)
    assert levels[0, 0, [0, 1, 15, 16, 31]].tolist() == [1, 9, 124, 132, 255]  # in steps −127, −118.8, −4.1, 4.1, 127
    assert levels[0, 1, [0, 1, 15, 16, 31]].tolist() == [255, 247, 132, 124, 1]
    assert scales.tolist() == [[0.5, np.float16(0.02)]]
    found = dequantize_bytes(levels, scales)
    np.testing.assert_allclose(found[0, [1, 32]], [-119 * 0.5, 127 * 0.0200042725], rtol=1e-6)
    assert not dequantize_bytes(*quantize_bytes(np.zeros((1, 32), np.float32))).any()
    least = np.linspace(-1e-7, 1e-7, 32, dtype=np.float32)[None]  # float16 has no such scale
    assert np.abs(dequantize_bytes(*quantize_bytes(least)) - least).max() <= LEAST_SCALE


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_an_8_bit_block_is_off_by_half_a_step_at_most_and_comes_back_to_its_levels(seed, outputs, blocks):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(outputs, blocks, BLOCK)) * 10.0 ** rng.uniform(-2, 4, (outputs, blocks, 1))
    value = value.reshape(outputs, -1).astype(np.float32)
    levels, scales = quantize_bytes(value)
    error = np.abs(dequantize_bytes(levels, scales) - value).reshape(outputs, blocks, BLOCK)
    assert (error <= scales[..., None].astype(np.float64) * (0.5 + 1e-4)).all()
    again, _ = quantize_bytes(dequantize_bytes(levels, scales))
    np.testing.assert_array_equal(again, levels)


def test_a_4_bit_block_by_hand():
    row = np.zeros(64, np.float32)
    row[0], row[1], row[2] = -4.0, 3.5, 0.5  # peak −4 is level 0, so the scale is 0.5
    row[32], row[33] = 8.0, -1.0  # peak 8 is level 0, so the scale is −1
    packed, codes, codebook = quantize_blocks(row[None])
    assert packed.shape == (1, 32)
    assert packed[0, :3].tolist() == [0 | (0 << 4), 15 | (9 << 4), 9 | (8 << 4)]
    assert set(packed[0, 3:].tolist()) == {8 | (8 << 4)}
    assert codebook[codes[0]].tolist() == [0.5, -1.0]
    np.testing.assert_array_equal(dequantize_blocks(packed, codes, codebook), row[None])


@FEW
@given(st.integers(0, 2**32 - 1))
def test_a_table_made_of_4_bit_blocks_is_found_again(seed):
    rng = np.random.default_rng(seed)
    scale = (np.exp(rng.uniform(0, np.log(30), (50, 4, 1))) * rng.choice([-0.001, 0.001], (50, 4, 1))).astype(
        np.float32
    )
    levels = rng.integers(0, 16, (50, 4, BLOCK))
    levels[..., 5] = 0  # as GGML's Q4_0 writes them, the largest magnitude of a block is its level 0
    table = ((levels - 8) * scale).astype(np.float32).reshape(50, 128)
    packed, codes, codebook = quantize_blocks(table)
    found = np.concatenate([packed & 15, packed >> 4], axis=1)
    np.testing.assert_array_equal(found, levels.reshape(50, 128))  # every level exactly …
    error = np.abs(codebook[codes] / scale[..., 0] - 1)
    assert error.max() <= 0.02  # … and every scale up to the codebook's rounding


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 30.0, 1000.0]))
def test_a_random_table_is_off_by_one_level_and_the_rounding_of_its_scale(seed, spread):
    table = random_table(seed, spread=spread)
    parts = quantize_blocks(table)
    peaks = np.abs(table.reshape(-1, BLOCK)).max(axis=1, keepdims=True)
    error = np.abs(dequantize_blocks(*parts) - table).reshape(-1, BLOCK)
    peaks = np.maximum(peaks, peaks.max() / 256)  # smaller blocks are stored with the scale of such a block
    half_step = (peaks.max() / peaks.min()) ** (0.5 / 127) - 1  # of 128 logarithmic steps a sign
    # a level is peak / 8; the side opposite to the peak ends one level early (15 stands for +7)
    assert (error <= peaks / 8 * (1 + 1e-3) + peaks * (half_step * 1.05 + 1e-6)).all()
    assert np.sqrt((error**2).mean()) < np.sqrt((table**2).mean()) * (0.1 + half_step)


@pytest.mark.parametrize("table", [np.zeros((3, 64), np.float32), random_table(5, spread=2)[:2]])
def test_zero_blocks_stay_zero(table):
    zero = ~table.any(axis=1)
    assert zero.any()
    found = dequantize_blocks(*quantize_blocks(table))
    assert np.isfinite(found).all()
    assert not found[zero].any()


def test_the_codebook_is_ascending_one_byte_and_of_both_signs():
    packed, codes, codebook = quantize_blocks(random_table(6, spread=30))
    assert (packed.dtype, codes.dtype, codebook.dtype) == (np.uint8, np.uint8, np.float32)
    assert (packed.shape, codes.shape, codebook.shape) == ((20, 32), (20, 2), (256,))
    assert (np.diff(codebook) > 0).all()
    np.testing.assert_allclose(codebook, -codebook[::-1])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_graph_unpacks_rows_as_numpy_does(precision):
    table = random_table(7, spread=30)
    weights = Weights({EMBEDDING: table}, layers=0, heads=1, layer_norm_eps=1e-5, precision=precision)
    builder = GraphBuilder(weights)
    name = builder.embedding("input_ids")
    graph = helper.make_graph(
        builder.nodes["model.onnx"],
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 64])],
        initializer=list(builder.initializers.values()),
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(model, full_check=True)
    ids = np.array([[0, 1, 19], [7, 4, 3]])  # at int4 row 4 is the first that is rare
    (rows,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input_ids": ids})
    assert rows.shape == (2, 3, 64)
    expected = dequantize_blocks(*quantize_blocks(table)) if precision == "int8" else rounded_table(table)
    # A coded row is a product of 64 numbers of up to 20, added in another order.
    np.testing.assert_allclose(rows, expected[ids], rtol=0, atol=0 if precision == "int8" else 2e-5)
