"""The ONNX graph: well-formed, standard, dynamic, and the same function as the torch model on two runtimes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from m3_vdb.encoding.runtimes import INT8
from m3_vdb.encoding.sessions import OnnxRuntimeSession, OpenVinoSession
from m3_vdb.encoding.tokenizer import Tokenizer
from onnx_export.export import convert
from onnx_export.graph import ROWS
from tests.export.conftest import PRECISIONS
from train.import_bundle import import_bundle

FIXTURE = Path(__file__).parents[1] / "fixtures" / "multilingual.jsonl"
OUTPUTS = ["dense_vecs", "sparse_vecs", "colbert_vecs"]
LONG = "the search index и поиск 数据库 repeat und die Suche "


@pytest.fixture(scope="module")
def session(exported, request):
    """A file of the fp32 bundle on the runtime that is asked for, in float32 arithmetic."""
    runtime, file = request.param
    path = exported["fp32"][0] / file
    return OnnxRuntimeSession(path) if runtime == "onnxruntime" else OpenVinoSession(path, arithmetic="f32")


on_both_runtimes = pytest.mark.parametrize(
    "session",
    [("onnxruntime", "model.onnx"), ("onnxruntime", "onnxruntime.onnx"), ("openvino", "model.onnx")],
    indirect=True,
    ids=" ".join,
)


@pytest.fixture(scope="module")
def tokens(tiny_checkpoint, tiny_texts):
    """Short, long and multilingual texts; one fills the model's maximum of 64 tokens, one is empty."""
    texts = [*tiny_texts, LONG, LONG * 8]
    batch = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json").encode(texts, max_length=64)
    assert sorted(batch.lengths)[0] == 2
    assert batch.lengths.max() == 64
    return batch


def values_of_text(raw, row, length):
    """The part of a batch's outputs that belongs to one text."""
    return raw["dense_vecs"][row], raw["sparse_vecs"][row, :length], raw["colbert_vecs"][row, : length - 1]


def assert_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=tolerance, rtol=0)


@torch.inference_mode()
def torch_values(model, ids, mask):
    output = model(torch.from_numpy(ids), torch.from_numpy(mask))
    return output.dense[0].numpy(), output.token_weights[0].numpy(), output.multi_vector[0].numpy()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_graph_is_valid_and_uses_standard_operators_only(exported, precision):
    graph = onnx.load(exported[precision][0] / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 17)]
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    names = [node.name for node in graph.graph.node]
    assert len(names) == len(set(names)) > 50


def test_a_checkpoint_that_is_converted_again_gives_the_same_graph(exported):
    """A collection refuses a bundle of another fingerprint, which hashes ``model.onnx``: so names and order stay."""
    graph = onnx.load(exported["fp32"][0] / "model.onnx").graph
    lines = [f"{node.op_type} {node.name} {' '.join(node.input)}" for node in graph.node]
    lines += [f"{one.name} {list(one.dims)}" for one in graph.initializer]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "fc436a81d4666afb"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_gets_a_graph_without_square_matrices_and_the_same_weights(exported, precision, torch_model):
    folder = exported[precision][0]
    small = onnx.load(folder / "onnxruntime.onnx", load_external_data=False)
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("MultiHeadAttention") == torch_model.encoder.config.num_hidden_layers
    assert "Softmax" not in kinds  # it would need all scores of a text at once
    own, shared = (
        {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(folder / file).graph.initializer}
        for file in ("onnxruntime.onnx", "model.onnx")
    )
    large = [one.name for one in small.graph.initializer if one.external_data]
    assert sum(own[name].nbytes for name in large) > 0.8 * sum(value.nbytes for value in shared.values())
    for name in large:
        np.testing.assert_array_equal(own[name], shared[name])


def test_onnxruntime_makes_wide_states_of_few_tokens_at_a_time(exported, tokens):
    path = exported["fp32"][0] / "onnxruntime.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    loops = [node for node in graph.node if node.op_type == "Loop"]
    inside = {name for loop in loops for node in loop.attribute[0].g.node for name in node.input}
    outside = {name for node in graph.node for name in node.input}
    wide = {one.name for one in graph.initializer if one.name.endswith("intermediate.weight")}
    assert wide <= inside
    assert len(wide - outside) == len(loops) > 0

    ids, mask = tokens.padded(np.arange(len(tokens.lengths)))
    ids, mask = ids[:-1], mask[:-1]
    times = 2 * ROWS // ids.size + 1  # two full parts, and a smaller one
    assert times * ids.size % ROWS
    session = OnnxRuntimeSession(path)
    one, many = (
        session.run(["dense_vecs", "colbert_vecs"], np.tile(ids, (n, 1)), np.tile(mask, (n, 1))) for n in (1, times)
    )
    for name, values in one.items():
        np.testing.assert_allclose(many[name], np.tile(values, (times, *[1] * (values.ndim - 1))), atol=1e-6, rtol=0)


def test_onnxruntime_frees_what_is_no_longer_needed(exported):
    options = OnnxRuntimeSession(exported["fp32"][0] / "onnxruntime.onnx")._session.get_session_options()
    assert not options.enable_mem_reuse


@pytest.mark.parametrize("precision", PRECISIONS)
def test_names_types_and_dynamic_shapes(exported, precision):
    graph = onnx.load(exported[precision][0] / "model.onnx").graph

    def describe(values):
        shape = lambda v: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]  # noqa: E731
        return {v.name: (v.type.tensor_type.elem_type, shape(v)) for v in values}

    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    both = (int64, ["batch", "length"])
    assert describe(graph.input) == {"input_ids": both, "attention_mask": both}
    assert describe(graph.output) == {
        "dense_vecs": (float32, ["batch", 64]),
        "sparse_vecs": (float32, ["batch", "length"]),
        "colbert_vecs": (float32, ["batch", "length_minus_1", 16]),
    }


@on_both_runtimes
def test_every_text_alone_gets_the_values_of_the_torch_model(session, torch_model, tokens):
    largest = 0.0
    for i, length in enumerate(tokens.lengths):
        ids, mask = tokens.padded(np.array([i]))
        expected = torch_values(torch_model, ids, mask)
        assert_close(values_of_text(session.run(OUTPUTS, ids, mask), 0, length), expected)
        largest = max(largest, expected[1].max())
    assert largest > 0.1  # lexical weights of 0 would agree with anything


@on_both_runtimes
@pytest.mark.parametrize("extra", [0, 1, 17])
def test_padding_changes_no_value_however_much_there_is(session, torch_model, tokens, extra):
    rows = np.flatnonzero(tokens.lengths < 40)
    ids, mask = (
        np.pad(a, ((0, 0), (0, extra)), constant_values=v) for a, v in zip(tokens.padded(rows), (1, 0), strict=True)
    )
    raw = session.run(OUTPUTS, ids, mask)
    assert raw["colbert_vecs"].shape == (len(rows), ids.shape[1] - 1, 16)
    assert not raw["sparse_vecs"][mask == 0].any()
    for row, i in enumerate(rows):
        expected = torch_values(torch_model, *tokens.padded(np.array([i])))
        assert_close(values_of_text(raw, row, tokens.lengths[i]), expected)


def test_what_stands_in_the_padding_does_not_matter(exported, tokens):
    session = OnnxRuntimeSession(exported["fp32"][0] / "model.onnx")
    rows = np.flatnonzero(tokens.lengths < 40)
    ids, mask = tokens.padded(rows)
    garbage = np.where(mask == 1, ids, 9)
    one, two = session.run(OUTPUTS, ids, mask), session.run(OUTPUTS, garbage, mask)
    for row, i in enumerate(rows):
        length = tokens.lengths[i]
        assert_close(values_of_text(two, row, length), values_of_text(one, row, length), 1e-6)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_stays_near_the_torch_model(exported, torch_model, tokens, precision):
    path, errors = exported[precision]
    session = OnnxRuntimeSession(path / "model.onnx")
    limit = {"fp16": 0.9999, "int8": 0.98}[precision]
    for i, length in enumerate(tokens.lengths):
        ids, mask = tokens.padded(np.array([i]))
        dense, sparse, rows = values_of_text(session.run(OUTPUTS, ids, mask), 0, length)
        expected_dense, expected_sparse, expected_rows = torch_values(torch_model, ids, mask)
        assert dense @ expected_dense >= limit
        assert (rows * expected_rows).sum(axis=1).min() >= limit
        assert np.abs(sparse - expected_sparse).max() <= {"fp16": 0.02, "int8": 0.6}[precision]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)  # normalised in float32
    assert errors.dense_cosine >= limit


def test_onnxruntime_multiplies_8_bit_weights_as_they_are(exported, tokens, torch_model):
    """Nearly as the same weights in float32; in rows of 64 numbers errors even out less than in those of real models,
    which keep .999 (below)."""
    path = exported["int8"][0]
    small = onnx.load(path / "onnxruntime.onnx", load_external_data=False)
    layers = torch_model.encoder.config.num_hidden_layers
    nodes = [*small.graph.node, *(n for node in small.graph.node for a in node.attribute for n in a.g.node)]
    assert [node.op_type for node in nodes].count("MatMulNBits") == 4 * layers
    ids, mask = tokens.padded(np.arange(len(tokens.lengths)))
    exact, fast = (OnnxRuntimeSession(path / f).run(OUTPUTS, ids, mask) for f in ("model.onnx", "onnxruntime.onnx"))
    assert (exact["dense_vecs"] * fast["dense_vecs"]).sum(-1).min() >= 0.999
    assert (exact["colbert_vecs"] * fast["colbert_vecs"]).sum(-1)[mask[:, 1:] == 1].min() >= 0.998
    assert np.abs(exact["dense_vecs"] - fast["dense_vecs"]).max() > 1e-5, "it was computed in float32 after all"


@pytest.mark.integration
def test_8_bit_weights_keep_a_cosine_of_999_on_both_runtimes(tmp_path):
    """m3-small, its matrices rounded to 8 bits, beside the same matrices in float32."""
    import_bundle(None, tmp_path / "checkpoint")
    path = convert(tmp_path / "checkpoint", tmp_path / "int8", precision="int8").path
    rows = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows[::150]]
    ids, mask = (
        Tokenizer.from_file(path / "tokenizer.json").encode(texts, max_length=8192).padded(np.arange(len(texts)))
    )
    exact = OnnxRuntimeSession(path / "model.onnx").run(OUTPUTS, ids, mask)
    for session in (
        OnnxRuntimeSession(path / "onnxruntime.onnx"),
        OpenVinoSession(path / "model.onnx", arithmetic=INT8),
    ):
        fast = session.run(OUTPUTS, ids, mask)
        assert (exact["dense_vecs"] * fast["dense_vecs"]).sum(-1).min() >= 0.999
        assert (exact["colbert_vecs"] * fast["colbert_vecs"]).sum(-1)[mask[:, 1:] == 1].min() >= 0.999
        if sys.platform == "linux" and "avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            assert np.abs(exact["dense_vecs"] - fast["dense_vecs"]).max() > 1e-4, "it was computed in float32 after all"


def test_reduced_precision_is_smaller_on_disk(exported):
    sizes = {precision: (path / "model.onnx").stat().st_size for precision, (path, _) in exported.items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < sizes["fp16"]
    stored = {i.name: i for i in onnx.load(exported["int8"][0] / "model.onnx").graph.initializer}
    vocabulary = stored["words.codes"].dims[0]
    assert stored["words.packed"].data_type == onnx.TensorProto.UINT8
    assert list(stored["words.packed"].dims) == [vocabulary, 64 // 2]  # 4 bits a weight
    assert list(stored["encoder.layer.1.intermediate.weight.uint8"].dims) == [128, 64 // 32, 32]  # 8 bits a weight
