from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.sessions import OnnxRuntimeSession, OpenVinoSession
from m3_vdb.errors import BundleError, M3Error

OUTPUTS = (DENSE, SPARSE, MULTI_VECTOR)
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(OUTPUTS, size)]
IDS = np.array([[0, 9, 17, 30, 2], [0, 40, 2, 1, 1]], dtype=np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int64)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Path:
    return tiny_bundle / "model.onnx"


def open_named(name: str, model: Path):
    if name == "onnxruntime":
        return OnnxRuntimeSession(model, threads=1)
    return OpenVinoSession(model, threads=1, arithmetic="f32")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def session(request, model):
    return open_named(request.param, model)


def test_the_three_outputs_have_the_documented_shapes(session):
    raw = session.run(OUTPUTS, IDS, MASK)
    assert {name: array.shape for name, array in raw.items()} == {
        DENSE: (2, 64),
        SPARSE: (2, 5),
        MULTI_VECTOR: (2, 4, 16),
    }
    assert {array.dtype for array in raw.values()} == {np.dtype(np.float32)}


def test_vectors_have_length_one_and_weights_are_not_negative(session):
    raw = session.run(OUTPUTS, IDS, MASK)
    np.testing.assert_allclose(np.linalg.norm(raw[DENSE], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(raw[MULTI_VECTOR], axis=-1), 1, rtol=1e-5)
    assert (raw[SPARSE] >= 0).all()
    assert raw[SPARSE][1, 3:].tolist() == [0, 0], "padding has no weight"


@pytest.mark.parametrize("outputs", SUBSETS)
def test_some_outputs_are_computed_alone_and_equal_the_full_run(session, outputs):
    full = session.run(OUTPUTS, IDS, MASK)
    part = session.run(outputs, IDS, MASK)
    assert tuple(part) == outputs
    for name in outputs:
        np.testing.assert_allclose(part[name], full[name], atol=1e-6)


def test_the_order_of_the_names_does_not_mix_up_the_outputs(session):
    forward, backward = session.run(OUTPUTS, IDS, MASK), session.run(OUTPUTS[::-1], IDS, MASK)
    for name in OUTPUTS:
        np.testing.assert_allclose(forward[name], backward[name], atol=1e-6)


def test_padding_does_not_change_a_text(session):
    alone = session.run(OUTPUTS, IDS[1:, :3], MASK[1:, :3])
    padded = session.run(OUTPUTS, IDS, MASK)
    np.testing.assert_allclose(padded[DENSE][1], alone[DENSE][0], atol=1e-5)
    np.testing.assert_allclose(padded[SPARSE][1, :3], alone[SPARSE][0], atol=1e-5)
    np.testing.assert_allclose(padded[MULTI_VECTOR][1, :2], alone[MULTI_VECTOR][0], atol=1e-5)


def test_both_runtimes_compute_the_same(model):
    left, right = (open_named(name, model).run(OUTPUTS, IDS, MASK) for name in ("onnxruntime", "openvino"))
    assert (left[SPARSE] > 0).any()
    for name in ("dense_vecs", "sparse_vecs"):
        np.testing.assert_allclose(left[name], right[name], atol=1e-5)
    np.testing.assert_allclose(left[MULTI_VECTOR][0], right[MULTI_VECTOR][0], atol=1e-5)
    np.testing.assert_allclose(left[MULTI_VECTOR][1, :2], right[MULTI_VECTOR][1, :2], atol=1e-5)


@pytest.mark.parametrize("length", [3, 9, 21, 61])
def test_lengths_that_openvino_pads_further_give_the_same(model, length):
    ids = np.random.default_rng(length).integers(5, 200, size=(3, length))
    ids[:, 0], ids[:, -1] = 0, 2
    left, right = (open_named(name, model).run(OUTPUTS, ids, np.ones_like(ids)) for name in ("onnxruntime", "openvino"))
    for name in OUTPUTS:
        np.testing.assert_allclose(left[name], right[name], atol=1e-5)


def test_results_outlive_the_next_call(session):
    first = session.run([DENSE], IDS, MASK)[DENSE]
    before = first.copy()
    session.run([DENSE], IDS[:, ::-1].copy(), MASK)
    np.testing.assert_array_equal(first, before)


def test_eight_threads_share_one_session(session):
    batches = [np.array([[0, token, token + 1, 2]], dtype=np.int64) for token in range(4, 20)]
    masks = np.ones((1, 4), dtype=np.int64)
    expected = [session.run(OUTPUTS, batch, masks) for batch in batches]

    def check(i: int) -> bool:
        outputs = SUBSETS[i % len(SUBSETS)]
        raw = session.run(outputs, batches[i % 16], masks)
        return all(np.allclose(raw[name], expected[i % 16][name], atol=1e-6) for name in outputs)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(112)))


def test_ctrl_c_is_caught_after_sessions_came_and_went(model):
    """A second OpenVINO core that outlives the first leaves no valid stack for the handlers of signals."""
    code = f"""
        import os, signal, time
        from pathlib import Path
        from m3_vdb.encoding.sessions import OpenVinoSession
        # A shell lets its background jobs ignore SIGINT, which Python takes over from it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first, second = (OpenVinoSession(Path({str(model)!r}), threads=1) for _ in range(2))
        del first
        del second
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)  # another thread may have been given the signal
        except KeyboardInterrupt:
            print("caught")
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


def test_a_failing_forward_pass_is_our_error_with_the_shape(session):
    # Neither runtime has this output; OpenVINO computes something even for inputs of the wrong shape.
    with pytest.raises(M3Error, match=r"failed on a batch of \(2, 5\)"):
        session.run(["no_such_output"], IDS, MASK)


def test_the_description_names_the_runtime(session):
    kind = "onnxruntime" if isinstance(session, OnnxRuntimeSession) else "openvino"
    assert session.description.startswith(f"{kind} 2" if kind == "openvino" else f"{kind} 1")
    assert "cpu" in session.description


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_model_file_is_a_bundle_error(model, tmp_path, runtime, damage):
    broken = tmp_path / "model.onnx"
    shutil.copy(model, broken)
    content = broken.read_bytes()
    noise = np.random.default_rng(0).bytes(1000)
    broken.write_bytes({"cut": content[: len(content) // 2], "noise": noise, "empty": b""}[damage])
    with pytest.raises(BundleError, match=r"cannot load .*model\.onnx"):
        open_named(runtime, broken)
