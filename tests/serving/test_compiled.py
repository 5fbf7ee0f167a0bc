"""Compiled models are kept and read again; whatever is wrong with a kept file, the model computes the same."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from m3_vdb.encoding import compiled
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.runtimes import F32
from m3_vdb.encoding.sessions import OpenVinoSession

IDS = np.array([[0, 9, 17, 30, 2]])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where compiled models of any size are kept."""
    monkeypatch.setenv("M3VDB_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_LEAST", 0)
    return tmp_path / "compiled"


@pytest.fixture
def opened(folder, tiny_bundle):
    """Opens the model; says whether it was read, and what it computes."""

    def open_model(threads: int = 1) -> tuple[bool, list[np.ndarray]]:
        session = OpenVinoSession(tiny_bundle / "model.onnx", arithmetic=F32, threads=threads)
        outputs = DENSE, SPARSE, MULTI_VECTOR
        raw = session.run(outputs, IDS, np.ones_like(IDS))
        return session._mapped is not None, [raw[name] for name in outputs]

    return open_model


def test_a_model_is_compiled_once_and_computes_the_same_when_it_is_read(opened, folder):
    (first, expected), (second, got) = opened(), opened()
    assert (first, second) == (False, True)
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [file.suffix for file in folder.iterdir()] == [".blob"]


@pytest.mark.parametrize("at", [0, 0.5, 0.9, 1])
def test_a_damaged_file_is_made_again(opened, folder, at):
    _, expected = opened()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    place = int(at * (len(whole) - 1))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
    read, got = opened()
    assert not read
    np.testing.assert_array_equal(got[0], expected[0])
    assert opened()[0]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(100)])
def test_a_file_with_something_else_is_made_again(opened, folder, content):
    opened()
    (file,) = folder.iterdir()
    file.write_bytes(content)
    assert [opened()[0], opened()[0]] == [False, True]


def test_another_way_of_compiling_and_another_model_have_files_of_their_own(opened, folder, tiny_bundle, monkeypatch):
    opened()
    assert not opened(threads=2)[0]
    sums = tiny_bundle / "SHA256SUMS"
    before = sums.read_bytes()
    try:
        sums.write_bytes(before + b"0  other\n")
        assert not opened()[0]
    finally:
        sums.write_bytes(before)
    assert len(list(folder.iterdir())) == 3
    monkeypatch.setattr("openvino.__version__", "2030.1")
    assert not opened()[0]


def test_the_newest_files_are_kept(opened, folder):
    folder.mkdir()
    for age in range(5):
        (folder / f"{age}.blob").touch()
        os.utime(folder / f"{age}.blob", (10**9 - age, 10**9 - age))
    opened()
    assert {file.name for file in folder.iterdir()} > {"0.blob", "1.blob"}
    assert len(list(folder.iterdir())) == 3


def test_where_nothing_can_be_written_the_model_is_compiled_each_time(opened, folder):
    folder.write_text("not a folder")
    assert [opened()[0], opened()[0]] == [False, False]
    assert folder.read_text() == "not a folder"


def test_on_a_full_disk_no_half_file_is_left(opened, folder, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiled.zlib, "crc32", full)  # after the model was written, before its checksum
    assert not opened()[0]
    assert list(folder.iterdir()) == []


def test_a_user_without_a_home_folder_opens_a_model(opened, folder, monkeypatch):
    monkeypatch.delenv("M3VDB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    assert [opened()[0], opened()[0]] == [False, False]


def test_small_models_and_unverified_ones_are_not_kept(opened, folder, monkeypatch):
    monkeypatch.setattr(compiled, "_LEAST", 8 * 2**20)
    opened()
    monkeypatch.setattr(compiled, "_LEAST", 0)
    monkeypatch.setattr(compiled, "HASH_LIMIT", 1000)
    opened()
    assert not folder.exists()
