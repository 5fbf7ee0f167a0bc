"""Graph → weights: what comes back computes what the graph computes, and is what went in where nothing was rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from m3_vdb.encoding.bundle import MODEL, Bundle
from m3_vdb.encoding.tokenizer import SPECIAL_IDS
from m3_vdb.errors import BundleError
from onnx_export.checkpoint import read_checkpoint
from onnx_export.export import read_weights
from onnx_export.graph import PADDING_ID, build_graph
from onnx_export.restore import restore
from onnx_export.verify import serving
from onnx_export.weights import EMBEDDING
from tests.export.conftest import PRECISIONS
from train.import_bundle import import_bundle
from train.model import M3Model

POSITIONS, TYPES = (f"embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type"))


def test_nothing_is_lost_at_fp32(checkpoint: Path, torch_model: M3Model):
    weights = read_weights(read_checkpoint(checkpoint))
    found = restore(build_graph(weights), max_length=torch_model.max_length)
    assert (found.layers, found.heads) == (weights.layers, weights.heads)
    assert found.layer_norm_eps == pytest.approx(weights.layer_norm_eps)  # the graph has it in float32
    assert found.tensors.keys() == weights.tensors.keys()
    used = slice(PADDING_ID + 1, None)
    for name in weights.tensors.keys() - {POSITIONS, TYPES}:
        # Queries were scaled by 1/√k and back: one rounding each.
        np.testing.assert_allclose(found[name], weights[name], rtol=3e-7, err_msg=name)
    np.testing.assert_array_equal(found[POSITIONS][used], (weights[POSITIONS] + weights[TYPES])[used])
    assert not found[TYPES].any()


def test_positions_that_repeat_are_written_out(checkpoint: Path):
    weights = read_weights(read_checkpoint(checkpoint))
    table, period = weights[POSITIONS].copy(), 8
    rows = table[PADDING_ID + 1 :]
    rows[:] = np.resize(rows[:period], rows.shape)
    weights = type(weights)({**weights.tensors, POSITIONS: table}, weights.layers, weights.heads, 1e-5)
    graph = build_graph(weights)
    assert next(len(one.dims) and one.dims[0] for one in graph.graph.initializer if one.name == "positions") == period
    found = restore(graph, max_length=len(rows))
    np.testing.assert_array_equal(found[POSITIONS][PADDING_ID + 1 :], rows + weights[TYPES])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_checkpoint_computes_what_its_bundle_computes(exported, tmp_path, tiny_texts, precision: str):
    path, _ = exported[precision]
    model = import_bundle(path, tmp_path / "checkpoint")
    again = M3Model.load(tmp_path / "checkpoint")
    bundle = Bundle.open(path)
    embed = serving(bundle, bundle.read_tokenizer(), MODEL)
    expected = embed.encode_documents(tiny_texts)
    # The graph of fp16 also computes in it, with 11 bits; the others in float32.
    close = 5e-3 if precision == "fp16" else 1e-5
    for one in (model, again):
        for i, text in enumerate(tiny_texts):
            ids, mask = (
                torch.from_numpy(a) for a in embed.tokenizer.encode([text], max_length=64).padded(np.array([0]))
            )
            with torch.no_grad():
                output = one(ids, mask)
            np.testing.assert_allclose(output.dense[0].numpy(), expected[i].dense, atol=close)
            np.testing.assert_allclose(output.multi_vector[0].numpy(), expected[i].multi_vector, atol=close)
            weights: dict[int, float] = {}
            for token, weight in zip(ids[0].tolist(), output.token_weights[0].tolist(), strict=True):
                if token not in SPECIAL_IDS:
                    weights[token] = max(weights.get(token, 0.0), weight)
            found = expected[i].sparse.as_dict()
            assert found.keys() <= weights.keys()
            assert weights == pytest.approx({token: found.get(token, 0.0) for token in weights}, rel=close, abs=close)


def test_int8_comes_back_to_the_same_levels(exported):
    """What was rounded once is on the grid: rounding it again moves nothing but the last bits of scales."""
    path, _ = exported["int8"]
    once = restore(onnx.load(str(path / MODEL)), max_length=64)
    again = build_graph(replace(once, precision="int8"))
    twice = restore(again, max_length=64)
    for name in once.tensors:
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert once[EMBEDDING].std() > 0.1, "or nothing was compared"


def test_what_int8_was_before_0_2_comes_back(exported):
    """One scale per output, weights as they are multiplied, [in, out]."""
    path, _ = exported["int8"]
    graph = onnx.load(str(path / MODEL))
    name = "encoder.layer.1.attention.output.weight"
    levels = np.random.default_rng(0).integers(-127, 128, (64, 64)).astype(np.int8)
    scale = np.linspace(0.01, 0.02, 64, dtype=np.float32)
    (one,) = [one for one in graph.graph.initializer if one.name == f"{name}.uint8"]
    graph.graph.initializer.remove(one)
    for kind, value in (("int8", levels), ("scale", scale)):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{name}.{kind}"))
    found = restore(graph, max_length=64)["encoder.layer.1.attention.output.dense.weight"]
    np.testing.assert_array_equal(found, (levels * scale).T)


@pytest.mark.parametrize("missing", ["positions", "encoder.layer.0.qkv.bias", "colbert.weight"])
def test_a_graph_of_others_is_refused(checkpoint: Path, missing: str):
    graph = build_graph(read_weights(read_checkpoint(checkpoint)))
    (one,) = [one for one in graph.graph.initializer if one.name == missing]
    graph.graph.initializer.remove(one)
    with pytest.raises(BundleError, match="only bundles that python -m onnx_export made can be turned back"):
        restore(graph, max_length=64)
