"""Files of torch.save and safetensors are read without torch, and nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m3_vdb.errors import BundleError
from onnx_export.tensors import read_tensors


def random_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 8, generator=generator)
    return {
        "whole": whole,
        "turned": whole.T,  # shares the storage, in another order
        "part": whole[2:5, 1:7:2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": whole.half(),
        "bfloat16": whole.bfloat16(),
        "double": whole.double(),
        "parameter": torch.nn.Parameter(whole[0].clone()),
        "embeddings.position_ids": torch.arange(5),
    }


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_every_tensor_is_what_torch_saved(tmp_path: Path, suffix: str):
    state, path = random_state(), tmp_path / f"model{suffix}"
    if suffix == ".bin":
        torch.save(torch.nn.Module().state_dict() | state, path)
    else:
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, path)
    found = read_tensors(path)
    assert found.keys() == state.keys() - {"embeddings.position_ids"}
    for name, tensor in found.items():
        value = tensor.read()
        assert value.dtype == np.float32
        assert tensor.shape == value.shape == tuple(state[name].shape)
        np.testing.assert_array_equal(value, state[name].detach().float().numpy())


def test_float32_is_mapped_and_cannot_be_written(tmp_path: Path):
    torch.save({"a": torch.ones(4)}, tmp_path / "a.bin")
    value = read_tensors(tmp_path / "a.bin")["a"].read()
    assert not value.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 2


def archive(path: Path, program: bytes, data: bytes = b"\0" * 16, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", data)
    return path


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def tensor_program(size: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of {"a": a tensor of a storage of float32}."""
    storage = b"ctorch\nFloatStorage\n"
    numbers = lambda values: b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"  # noqa: E731
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    pid = b"(" + text(b"storage") + storage + text(b"0") + text(b"cpu") + b"J" + struct.pack("<i", size) + b"tQ"
    rest = b"J" + struct.pack("<i", offset) + numbers(shape) + numbers(strides)
    built = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text(b"a") + built + b"s."


def test_the_program_of_these_tests_is_one_of_a_tensor(tmp_path: Path):
    data = np.arange(4, dtype=np.float32).tobytes()
    found = read_tensors(archive(tmp_path / "a.bin", tensor_program(4, (2, 2), (2, 1)), data))
    assert found["a"].read().tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    "harm",
    [
        lambda mark: pickle.dumps({"a": Runs(os.system, f"touch {mark}")}, 2),
        lambda mark: pickle.dumps(Runs(eval, f"open({str(mark)!r}, 'w')"), 4),
        lambda mark: b"(S'touch " + str(mark).encode() + b"'\nios\nsystem\n.",  # INST, without REDUCE
        lambda mark: b"\x80\x02ctorch\n_utils\n}b.",  # a module's attributes
        lambda mark: b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",  # our own function's
        lambda mark: b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02tR.",
        lambda mark: b"\x80\x02Nr\xff\xff\xff\x7f.",  # a table of 2³¹ entries
        lambda mark: b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".",
    ],
)
def test_a_program_is_not_run(tmp_path: Path, harm):
    mark = tmp_path / "was-here"
    with pytest.raises(BundleError) as raised:
        read_tensors(archive(tmp_path / "a.bin", harm(mark)))
    assert "a.bin" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        tensor_program(5, (5,), (1,)),  # more than the file has
        tensor_program(3, (3,), (1,)),  # fewer: another file
        tensor_program(4, (2, 3), (3, 1)),  # beyond the storage
        tensor_program(4, (4,), (1,), offset=1),
        tensor_program(4, (2,), (-1,)),
        tensor_program(4, (2,), (1,), offset=-1),
        tensor_program(4, (2, 2), (1,)),
        tensor_program(4, (2,), (1,))[:-20],
    ],
)
def test_sizes_that_do_not_fit_are_damage(tmp_path: Path, program: bytes):
    with pytest.raises(BundleError, match=r"a\.bin is damaged"):
        read_tensors(archive(tmp_path / "a.bin", program))


def test_a_compressed_archive_and_an_old_one_are_refused(tmp_path: Path):
    program = tensor_program(4, (4,), (1,))
    with pytest.raises(BundleError, match="compressed"):
        read_tensors(archive(tmp_path / "a.bin", program, method=zipfile.ZIP_DEFLATED))
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(BundleError, match=r"has the format of torch before 1\.6: write it again"):
        read_tensors(tmp_path / "old.bin")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_half_a_file_is_damage(tmp_path: Path, suffix: str):
    path = tmp_path / f"model{suffix}"
    state = {"a": torch.ones(300, 30), "b": torch.ones(3)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    for size in (1, 7, 9, 100, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BundleError, match="is damaged"):
            read_tensors(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}},
        {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4]}},
        {"a": 3},
        [1],
    ],
)
def test_a_wrong_header_is_damage(tmp_path: Path, header):
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(BundleError, match="is damaged"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_numbers_that_are_not_floats_are_refused_by_name(tmp_path: Path, kind: torch.dtype, suffix: str):
    path, state = tmp_path / f"model{suffix}", {"layer.weight": torch.ones(4).to(kind)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(BundleError, match=r"layer\.weight is .*, expected floats|holds Python objects"):
        read_tensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_when_it_is_read(tmp_path: Path, value: float):
    torch.save({"a": torch.ones(3), "b": torch.tensor([[1.0, value]]).half()}, tmp_path / "a.bin")
    found = read_tensors(tmp_path / "a.bin")
    found["a"].read()
    with pytest.raises(BundleError, match=r"a\.bin: b has NaN or infinity"):
        found["b"].read()


@pytest.mark.parametrize("harm", ["a bit", "a half"])
def test_a_damaged_tensor_of_an_archive_is_named_when_it_is_read(tmp_path: Path, harm: str):
    path, ones = tmp_path / "a.bin", np.ones(4000, np.float32).tobytes()
    torch.save({"a": torch.ones(4000), "b": torch.zeros(3), "turned": torch.full((2, 2), 3.0).T}, path)
    whole = path.read_bytes()
    harmed = bytes([ones[0] ^ 1]) + ones[1:] if harm == "a bit" else ones[:8000] + bytes(8000)
    assert whole.count(ones) == 1
    path.write_bytes(whole.replace(ones, harmed))
    found = read_tensors(path)
    assert found["b"].read().sum() == 0
    assert found["turned"].read().sum() == 12
    for _ in range(2):
        with pytest.raises(BundleError, match=r"a\.bin: a is damaged \(.*checksum\): copy or download it again"):
            found["a"].read()


def test_a_damaged_table_of_contents_of_an_archive(tmp_path: Path):
    torch.save({"weight": torch.ones(4)}, tmp_path / "a.bin")
    whole = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(whole.replace(b"weight", b"heavy!"))
    with pytest.raises(BundleError, match=r"a\.bin is damaged \(a/data\.pkl is not what its checksum says\)"):
        read_tensors(tmp_path / "a.bin")


def test_an_archive_that_torch_wrote_without_checksums_is_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(4)}, tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    assert read_tensors(tmp_path / "a.bin")["a"].read().sum() == 4
