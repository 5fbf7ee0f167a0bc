"""What the conversion of a checkpoint of BGE-M3's size costs: time, memory, errors against the NumPy forward pass.

``python -m benchmarks.convert FOLDER [--precision fp32 --precision int8]`` writes a random checkpoint as BAAI/bge-m3
lies on the hub (``pytorch_model.bin``, 24 layers of 1024, 250,002 pieces, 2.3 GB) and converts it in a process of its
own for each precision, verification included. Needs 6 GB of disk, and torch to write the checkpoint. Memory is read
from /proc (Linux): "anonymous" is the process's own, "mapped" is the page cache of files, which the system can take
back at any time. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.common import MACHINE
from benchmarks.memory import PeakMemory
from onnx_export.checkpoint import COLBERT_FILE, SPARSE_FILE, Shape
from onnx_export.export import convert

BGE_M3: Final = Shape(
    vocab_size=250_002,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=8194,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
)
CHARACTERS: Final = [chr(code) for code in (*range(33, 127), *range(0x400, 0x460), *range(0x4E00, 0x9FA0))]
"""Pieces of the toy tokenizer."""
GIB: Final = 2**30

app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where checkpoint and bundles go; the bundles are deleted.")],
    precision: Annotated[list[str] | None, typer.Option(help="May be repeated. Default: fp32 and int8.")] = None,
    layers: Annotated[int, typer.Option(help="Of the checkpoint.")] = BGE_M3.num_hidden_layers,
    into: Annotated[Path | None, typer.Option(hidden=True, help="Convert FOLDER to it, in this process.")] = None,
) -> None:
    """Convert a random checkpoint of BGE-M3's size."""
    if into is not None:
        (one,) = precision or ["fp32"]
        print(json.dumps(measure(folder, into, one)))
        return
    checkpoint = folder / f"checkpoint-{layers}"
    if not checkpoint.exists():
        shape = replace(BGE_M3, num_hidden_layers=layers)
        tokenizer = toy_tokenizer(shape.vocab_size)
        write_checkpoint(checkpoint, shape, colbert_dim=shape.hidden_size, tokenizer_json=tokenizer)
        print(f"{checkpoint}: {size_of(checkpoint) / GIB:.2f} GiB")
    results: dict[str, Any] = {"benchmark": "convert", "machine": MACHINE, "cpus": os.cpu_count(), "layers": layers}
    results["checkpoint_gib"] = round(size_of(checkpoint) / GIB, 2)
    for one in precision or ["fp32", "int8"]:
        shutil.rmtree(folder / one, ignore_errors=True)
        options = ["--into", str(folder / one), "--precision", one]
        command = [sys.executable, "-m", "benchmarks.convert", str(checkpoint), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[one] = json.loads(done.stdout.splitlines()[-1])
        print(one, json.dumps(results[one]))
        shutil.rmtree(folder / one)
    print(json.dumps(results))


def measure(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Convert once, in this process."""
    stages: dict[str, float] = {}
    begun = time.perf_counter()
    with PeakMemory() as memory:
        bundle = convert(
            checkpoint,
            out,
            precision=precision,
            progress=lambda done, what: stages.update({what: round(time.perf_counter() - begun, 1)}),
        )
    seconds = time.perf_counter() - begun
    times = os.times()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(times.user + times.system, 1),
        "reached_after": stages,
        "peak_anonymous_gib": round(memory.anonymous / GIB, 2),
        "peak_mapped_gib": round(memory.mapped / GIB, 2),
        "bundle_gib": round(size_of(out) / GIB, 2),
        "errors": bundle.config["errors"],
    }


def write_checkpoint(path: Path, shape: Shape, *, colbert_dim: int, tokenizer_json: str) -> None:
    """Random weights, spread like those of a trained model; the table is one of 4-bit blocks, or int8 would lose it."""
    import torch

    rng = np.random.default_rng(0)
    state = {}
    for name, size in shape.tensors().items():
        if "LayerNorm" in name:
            value = np.full(size, float(name.endswith("weight")), np.float32)
        elif "word_embeddings" in name:
            levels = rng.integers(0, 16, size, dtype=np.int8)
            levels[:, ::32] = 0
            scales = rng.uniform(0.005, 0.01, (size[0], size[1] // 32)).astype(np.float32)
            value = (levels - 8).astype(np.float32) * np.repeat(scales, 32, axis=1)
        else:
            value = rng.standard_normal(size, dtype=np.float32) * np.float32(0.03)
        state[name] = torch.from_numpy(value)
    path.mkdir(parents=True)
    torch.save(state, path / "pytorch_model.bin")
    for file, rows in ((SPARSE_FILE, 1), (COLBERT_FILE, colbert_dim)):
        weight = rng.standard_normal((rows, shape.hidden_size), dtype=np.float32) * np.float32(0.03)
        torch.save({"weight": torch.from_numpy(weight), "bias": torch.full((rows,), 0.1)}, path / file)
    config = {"model_type": "xlm-roberta", **{name: getattr(shape, name) for name in Shape.__slots__}}
    (path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


def toy_tokenizer(size: int) -> str:
    """A ``tokenizer.json`` whose pieces are single characters, spread over the whole table of ids."""
    from train.import_base import tokenizer_json

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁"] + [f"\x01{i}" for i in range(5, size)]
    for i, character in enumerate(CHARACTERS):
        pieces[size - 1 - i * (size // len(CHARACTERS))] = character
    return tokenizer_json(pieces, np.full(size, -9.0, np.float32))


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    app()
