"""``benchmarks.peers``: our encoders on one small checkpoint, and what is said about encoders that are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from benchmarks._peer import GPU, GPU_PEERS, PEERS, Vectors, sentencepiece_model
from benchmarks.peers import compare, cut_tokenizer, main
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.types import M3Embedding, SparseVector
from onnx_export.tokenizer import read_sentencepiece

ROOT = Path(__file__).parents[1]
SIZES = {"--layers": 1, "--width": 64, "--colbert-dim": 16, "--vocabulary": 2000, "--documents": 4}
MEMORY = {"anonymous_mib", "mapped_mib"}
FLAG = "FlagEmbedding"


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], str]]:
    """Runs it on one small checkpoint: (JSON line, everything before it)."""
    app = Typer()
    app.command()(main)
    folder = tmp_path_factory.mktemp("peers")
    sizes = [str(item) for pair in SIZES.items() for item in pair]

    def run(*options: str) -> tuple[dict[str, Any], str]:
        done = CliRunner().invoke(app, [str(folder), *sizes, "--rounds", "1", "--repeats", "1", *options])
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        text, _, line = done.stdout.rstrip().rpartition("\n")
        return json.loads(line), text

    return run


def test_encoders_are_measured_and_compared_and_those_that_are_missing_named(measure) -> None:
    ours = ["m3-vdb onnxruntime fp32", "m3-vdb openvino int8"]
    asked = ",".join([*ours, FLAG, "bge-m3-lite int8"])
    found, text = measure("--peers", sys.executable, "--only", asked, "--case", "1 x 16,mixed")
    assert list(found["peers"]) == ours
    assert found["processor"]
    assert found["tokens"]["1 x 16"] == 16
    for name, peer in found["peers"].items():
        assert set(peer["cases"]) == {"1 x 16", "mixed"}
        for case in peer["cases"].values():
            assert set(case) == {"tokens_per_s", "ms"} | MEMORY
            assert min(case.values()) > 0
        assert peer["cosine"]["dense_min"] > (0.99999 if "fp32" in name else 0.999)
        assert peer["cosine"]["rows_min"] > (0.99999 if "fp32" in name else 0.999)
        assert peer["cosine"]["sparse_ids_shared"] > 0.99
    assert f"{FLAG} is left out: No module named {FLAG!r}" in text
    assert set(found["left_out"]) == {FLAG, "bge-m3-lite int8"}


def test_without_an_environment_for_them_the_others_are_left_out(measure) -> None:
    found, text = measure("--only", "m3-vdb onnxruntime int8", "--case", "1 x 16")
    assert found["left_out"].keys() == PEERS.keys()
    assert text.startswith("left out: bge-m3-lite fp32, bge-m3-lite int8, FlagEmbedding")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
def test_without_a_gpu_it_is_said_what_is_missing(measure) -> None:
    found, text = measure("--gpu", "--only", ",".join(["m3-vdb onnxruntime int8", *GPU]), "--case", "1 x 16")
    assert list(found["peers"]) == ["m3-vdb onnxruntime int8"]
    assert set(GPU | GPU_PEERS) < set(found["left_out"])
    assert "m3-vdb onnxruntime cuda fp16 is left out: it ended with 1: m3_vdb.errors.ConfigError: device='cuda'" in text


def test_vectors_are_compared_text_by_text(tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)
    one = M3Embedding(rows[0], SparseVector(np.array([5, 9]), np.array([0.5, 0.2])), rows[:2])
    turned = np.array([[0.6, 0.8, 0]], np.float32)
    Vectors(turned, [{5: 0.5, 8: 0.1}], [rows[:2]]).save(str(tmp_path / "a.npz"))
    assert compare(tmp_path / "a.npz", [one]) == {
        "sparse_ids_shared": pytest.approx(1 / 3, abs=1e-5),
        "dense_min": 0.6,
        "dense_mean": 0.6,
        "rows_min": 1.0,
        "rows_mean": 1.0,
    }


def test_a_tokenizer_is_cut_and_written_for_sentencepiece(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(cut_tokenizer(2000), encoding="utf-8")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(tmp_path / "tokenizer.json"))
    texts = ["The index of a search engine.", "数据库 的 向量检索", "ein Wort und  die Suche", "🙂"]
    first = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert first.vocab_size == 2000
    second = Tokenizer(read_sentencepiece(tmp_path / "sentencepiece.bpe.model"))
    ids = [tokenizer.encode(texts, max_length=64).ids.tolist() for tokenizer in (first, second)]
    assert ids[0] == ids[1]


def test_memory_at_the_peak_is_of_the_block() -> None:
    """In a process of its own: what other tests leave behind is given back at any time."""
    code = """
        from benchmarks.memory import PeakMemory
        with PeakMemory() as before:
            pass
        with PeakMemory() as peak:
            held = b"x" * (100 * 2**20)
        print(peak.anonymous - before.anonymous, peak.mapped)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True, cwd=ROOT)
    more, mapped = map(int, done.stdout.split())
    assert 90 * 2**20 < more < 150 * 2**20
    assert mapped > 0
