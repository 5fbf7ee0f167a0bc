"""Checkpoint → bundle: verified before it exists, whole, checksummed, with or without a file of external weights."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from m3_vdb.encoding.bundle import Bundle
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import BundleError, ConfigError
from onnx_export import export as module
from onnx_export import graph
from onnx_export.__main__ import app
from onnx_export.export import convert
from onnx_export.verify import VerificationError
from onnx_export.weights import Weights
from tests.export.conftest import PRECISIONS

FILES = {"model.onnx", "onnxruntime.onnx", "tokenizer.json", "m3_config.json", "SHA256SUMS"}


def nothing_but(path: Path, *names: str) -> bool:
    """Neither a bundle nor a hidden partial one lies in ``path``."""
    return {entry.name for entry in path.iterdir()} == set(names)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_is_whole_and_describes_itself(exported, precision):
    path, errors = exported[precision]
    own = {"onnxruntime.onnx"} if precision == "fp16" else set()  # its operator computes in float32
    assert {file.name for file in path.iterdir()} == FILES - own
    bundle = Bundle.open(path)
    assert (bundle.name, bundle.precision) == (precision, precision)
    assert (bundle.dense_dim, bundle.multi_vector_dim, bundle.max_length) == (64, 16, 64)
    assert bundle.config["opset"] == 17
    assert set(bundle.config["exported_with"]) == {"onnx", "onnxruntime"}
    assert bundle.config["errors"] == errors.as_dict()
    assert bundle.mcls
    assert bundle.config["mcls_errors"].keys() == bundle.config["errors"].keys()


def test_measured_errors_are_recorded_and_ordered_by_precision(exported):
    errors = {precision: result[1] for precision, result in exported.items()}
    assert max(errors["fp32"].dense, errors["fp32"].multi_vector, errors["fp32"].sparse) <= 1e-5
    assert 1e-5 < errors["fp16"].dense < errors["int8"].dense < 0.05
    assert errors["fp16"].multi_vector_cosine > errors["int8"].multi_vector_cosine >= 0.98
    for measured in errors.values():
        assert (measured.texts, measured.tokens) == (15, 64)  # one text fills the model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sha256sum_accepts_the_checksums(exported, precision):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=exported[precision][0], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == (3 if precision == "fp16" else 4)


def test_the_bundle_takes_the_name_it_is_given(checkpoint, tmp_path):
    bundle = convert(checkpoint, tmp_path / "deep" / "out", name="mine")
    assert bundle.name == "mine"
    assert bundle.path == tmp_path / "deep" / "out"


def test_control_pieces_in_a_text_are_plain_text_in_the_bundle(exported):
    function = M3EmbeddingFunction(exported["fp32"][0], runtime="onnxruntime", device="cpu")
    tokens = function.tokenizer.encode(["<s> a </s><pad>"], max_length=64).ids
    assert not set(tokens[1:-1].tolist()) & {0, 1, 2}


def test_an_existing_directory_is_never_overwritten(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists: bundles are never overwritten"):
        convert(checkpoint, tmp_path / "out")
    assert nothing_but(tmp_path, "out")
    assert nothing_but(tmp_path / "out")


def test_an_unknown_precision_names_those_that_exist(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="precision='int2': expected one of fp32, fp16, int8, int4"):
        convert(checkpoint, tmp_path / "out", precision="int2")
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("missing", ["tokenizer.json", "colbert_linear.pt"])
def test_an_incomplete_checkpoint_gives_no_bundle(checkpoint, tmp_path, missing):
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / missing).unlink()
    with pytest.raises(BundleError, match=missing.split(".")[0]):
        convert(copy, tmp_path / "out")
    assert nothing_but(tmp_path, "copy")


class SlightlyWrong(Weights):
    """One weight of 4,096 is off by 0.001."""

    def __getitem__(self, name):
        value = self.tensors[name]
        if name == "encoder.layer.0.attention.output.dense.weight":
            value = value.copy()
            value[3, 5] += 1e-3
        return value


def test_a_graph_with_one_weight_off_is_refused_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def write(weights, *arguments, **options):
        wrong = SlightlyWrong(weights.tensors, weights.layers, weights.heads, weights.layer_norm_eps)
        graph.write_graph(wrong, *arguments, **options)

    monkeypatch.setattr(module, "write_graph", write)
    with pytest.raises(VerificationError, match=r"the fp32 graph differs from the checkpoint: .*nothing written"):
        convert(checkpoint, tmp_path / "out")
    assert nothing_but(tmp_path)


def test_a_graph_that_takes_the_first_start_alone_is_refused(checkpoint, tmp_path, monkeypatch):
    def first_state(g, hidden):
        return g.op("Gather", [hidden, g.constant(np.array(0, dtype=np.int64))], axis=1)

    monkeypatch.setattr(graph, "_sum_of_starts", first_state)  # as before MCLS: right but for inserted <s>
    with pytest.raises(VerificationError, match=r"the fp32 graph differs from the checkpoint: .*nothing written"):
        convert(checkpoint, tmp_path / "out")
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("part", ["bias", "last"], ids=["standard", "onnxruntime"])
def test_either_graph_is_refused_if_it_attends_to_padding(checkpoint, tmp_path, monkeypatch, part):
    def without(g):
        mask = right(g)
        return mask._replace(**{part: {"bias": g.constant(0.0), "last": mask.ones}[part]})

    right = graph._mask
    monkeypatch.setattr(graph, "_mask", without)
    with pytest.raises(VerificationError, match=r"the fp32 graph differs from the checkpoint: .*nothing written"):
        convert(checkpoint, tmp_path / "out")
    assert nothing_but(tmp_path)


def test_a_crash_of_the_verification_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def crash(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "measure", crash)
    with pytest.raises(RuntimeError, match="out of memory"):
        convert(checkpoint, tmp_path / "out")
    assert nothing_but(tmp_path)


def test_remains_of_an_interrupted_export_do_not_get_into_the_bundle(checkpoint, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.onnx.data").write_bytes(b"old")
    bundle = convert(checkpoint, tmp_path / "out")
    assert {file.name for file in bundle.path.iterdir()} == FILES
    assert nothing_but(tmp_path, "out")


@pytest.fixture(scope="module")
def external(checkpoint, tmp_path_factory) -> Path:
    """A bundle whose weights lie beside the graph, as those of a model beyond 2 GB do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "EXTERNAL_FROM", 1000)
        return convert(checkpoint, tmp_path_factory.mktemp("external") / "big").path


def test_large_weights_lie_in_a_checksummed_file_of_their_own(external, exported):
    assert {file.name for file in external.iterdir()} == FILES | {"model.onnx.data"}
    whole = (exported["fp32"][0] / "model.onnx").stat().st_size
    assert (external / "model.onnx.data").stat().st_size > 0.8 * whole  # nearly all of it moved
    assert (external / "model.onnx").stat().st_size < 0.4 * whole
    assert "model.onnx.data" in (external / "SHA256SUMS").read_text()
    onnx.checker.check_model(str(external / "model.onnx"), full_check=True)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_large_weights_are_found_by_both_runtimes(external, exported, tiny_texts, runtime):
    one, two = (
        M3EmbeddingFunction(path, runtime=runtime, device="cpu").encode_documents(tiny_texts)
        for path in (external, exported["fp32"][0])
    )
    assert np.abs(one.dense).max() > 0.1
    np.testing.assert_allclose(one.dense, two.dense, atol=1e-6)
    np.testing.assert_allclose(one.multi_vector, two.multi_vector, atol=1e-6)
    np.testing.assert_array_equal(one.sparse_ids, two.sparse_ids)


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_file_of_large_weights_is_noticed(external, tmp_path, damage):
    copy = Path(shutil.copytree(external, tmp_path / "copy"))
    data = copy / "model.onnx.data"
    if damage == "remove":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx\.data"):
        Bundle.open(copy)


def test_the_command_line_exports_and_refuses_in_one_line(checkpoint, tmp_path):
    out = tmp_path / "a-rather-long-directory-name-that-would-be-wrapped-at-eighty-columns" / "out"
    arguments = [str(checkpoint), str(out), "--precision", "int8", "--name", "tiny-int8"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    fingerprint = Bundle.open(out).fingerprint
    assert f"{out}: tiny-int8, int8," in done.stderr
    assert any(line.startswith(str(out)) and line.endswith(fingerprint) for line in done.stderr.splitlines())
    recorded = json.loads((out / "m3_config.json").read_text())["errors"]
    assert f"dense_cosine         {recorded['dense_cosine']}" in done.stderr

    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == f"error: {out} exists: bundles are never overwritten, give a new directory"
    assert "Traceback" not in failed.stderr
