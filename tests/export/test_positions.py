"""Positions extended by repetition are stored once and looked up modulo their number."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.encoding.sessions import OnnxRuntimeSession, OpenVinoSession
from onnx_export.export import convert
from onnx_export.graph import period
from train.edit import extend_positions
from train.model import M3Model


def test_period_by_hand():
    a, b, c = [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]
    assert period(np.array([a, b, c, a, b, c, a], dtype=np.float32)) == 3
    assert period(np.array([a, b, a, c], dtype=np.float32)) == 4
    assert period(np.array([a, a, a], dtype=np.float32)) == 1
    assert period(np.array([a], dtype=np.float32)) == 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 40))
def test_the_stored_rows_give_every_row_and_no_fewer_would(pattern, length):
    rows = np.array([pattern[i % len(pattern)] for i in range(length)], dtype=np.float32)[:, None]
    p = period(rows)
    assert np.array_equal(rows[np.arange(length) % p], rows)
    assert not any(np.array_equal(rows[np.arange(length) % smaller], rows) for smaller in range(1, p))


@pytest.fixture(scope="module")
def repeated(checkpoint, tmp_path_factory):
    """The tiny checkpoint with positions for four times as many tokens and a rest, and how many it had."""
    model = M3Model.load(checkpoint)
    before = model.max_length
    extend_positions(model.encoder, 4 * before + 5, how="repeat")
    path = tmp_path_factory.mktemp("repeated") / "long"
    model.save(path, tokenizer_json=(checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    return path, before


def test_the_graph_equals_torch_beyond_the_first_positions(repeated):
    checkpoint, before = repeated
    bundle = convert(checkpoint, checkpoint.parent / "bundle", precision="fp32")
    graph = onnx.load(bundle.path / "model.onnx").graph
    assert next(t.dims[0] for t in graph.initializer if t.name == "positions") == before
    model = M3Model.load(checkpoint)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 20, (2, 4 * before + 5))
    ids[:, 0], mask = 0, np.ones_like(ids)
    ids[1, 3 * before :], mask[1, 3 * before :] = 1, 0
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids), torch.from_numpy(mask))
    path = bundle.path / "model.onnx"
    for session in (OnnxRuntimeSession(path), OpenVinoSession(path, arithmetic="f32")):
        raw = session.run(["dense_vecs", "sparse_vecs", "colbert_vecs"], ids, mask)
        for text, length in enumerate(mask.sum(axis=1)):
            assert_close(values_of_text(raw, text, length), values_of_output(expected, text, length))


def values_of_text(raw, row, length):
    return raw["dense_vecs"][row], raw["sparse_vecs"][row, :length], raw["colbert_vecs"][row, : length - 1]


def values_of_output(output, row, length):
    parts = output.dense[row], output.token_weights[row, :length], output.multi_vector[row, : length - 1]
    return [part.numpy() for part in parts]


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5, rtol=0)  # float32 in another order of summation
