"""Checkpoint → bundle: build the graph, write it, verify it, and only then give it its name."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from m3_vdb.encoding.bundle import CONFIG, FORMAT, MODEL, ONNXRUNTIME, Bundle, write_checksums
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.tokenizer import TOKENIZER, TokenBatch, Tokenizer
from m3_vdb.errors import ConfigError
from m3_vdb.types import M3Embedding
from onnx_export.checkpoint import Checkpoint, Fetch, read_checkpoint
from onnx_export.graph import OPSET, write_graph
from onnx_export.reference import embed
from onnx_export.verify import (
    Errors,
    Forward,
    measure,
    measure_change,
    measure_mcls,
    require_close,
    require_same_ids,
    serving,
    verification_texts,
)
from onnx_export.weights import PRECISIONS, Weights


def convert(
    source: Path,
    out: Path,
    *,
    precision: str = "fp32",
    name: str | None = None,
    also: Forward | None = None,
    fetch: Fetch | None = None,
    progress: Callable[[float, str], None] = lambda done, what: None,
) -> Bundle:
    """Convert a checkpoint in BGE-M3 layout, or a LoRA adapter of one, to a bundle.

    Weights go from file to file, one at a time: beside the page cache this takes as much memory as serving the bundle.

    Args:
        source: directory with encoder, both heads and tokenizer, or with PEFT's ``adapter_config.json``.
        out: directory to create; it appears only when the bundle is verified.
        precision: "fp32", "fp16", "int8" (int8 matrices, 4-bit embedding table) or "int4" (all of it in 4 bits
            or less; see ``weights``).
        name: the model's name in the bundle; None takes the directory's.
        also: a forward pass to verify against besides NumPy's, ``M3Model.embed`` of training.
        fetch: finds the base model of an adapter that names it by its hub id; None finds folders only.
        progress: is told the share that is done, 0 … 1, and what is being done.

    Returns:
        The bundle. Its config has the measured errors ("errors", with MCLS "mcls_errors"), and how much it keeps of a
        training that began with a bundle ("change").

    Raises:
        BundleError: the checkpoint is incomplete, damaged or of another kind of model.
        ConfigError: an unknown precision, or ``out`` exists.
        VerificationError: the graph does not compute what the checkpoint computes; nothing is written.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")
    if out.exists():
        raise ConfigError(f"{out} exists: bundles are never overwritten, give a new directory")
    progress(0.0, "reading")
    checkpoint = read_checkpoint(source, fetch=fetch)
    weights, tokenizer = read_weights(checkpoint, precision), checkpoint.read_tokenizer()
    partial_out = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial_out, ignore_errors=True)
    partial_out.mkdir(parents=True)
    try:
        write_graph(weights, partial_out / MODEL, progress=lambda done: progress(done / 2, "writing"))
        (partial_out / TOKENIZER).write_text(Tokenizer(tokenizer).to_json(), encoding="utf-8")
        config = _config(checkpoint, weights, name=name or out.name)
        _write_config(partial_out, config)
        progress(0.5, "verifying")
        written = Bundle.open(partial_out)
        served = written.read_tokenizer()
        require_same_ids(served, tokenizer)
        forward = _computed_once(partial(embed, read_weights(checkpoint)))
        passes = [forward, *([_computed_once(also)] if also else [])]
        files = [file for file in (MODEL, ONNXRUNTIME) if (partial_out / file).is_file()]
        # One after the other, because each takes as much memory as serving the bundle.
        found = [errors for file in files for errors in _measured(serving(written, served, file), passes)]
        for errors in (one for pair in found for one in pair):
            require_close(errors, precision=precision)
        config |= {"errors": found[0][0].as_dict(), "mcls_errors": found[0][1].as_dict()}
        if noted := checkpoint.config.get("imported_from"):
            config["change"] = measure_change(serving(written, served, MODEL), forward, noted).as_dict()
        progress(0.9, "checksums")
        _write_config(partial_out, config)
        partial_out.rename(out)
    finally:
        shutil.rmtree(partial_out, ignore_errors=True)
    progress(1.0, "done")
    return Bundle.open(out)


def _measured(function: M3EmbeddingFunction, passes: Sequence[Forward]) -> list[tuple[Errors, Errors]]:
    """For each forward pass the differences without and with MCLS."""
    return [(measure(function, one, verification_texts(function)), measure_mcls(function, one)) for one in passes]


def _computed_once(forward: Forward) -> Forward:
    """A forward pass that remembers what it gave for a batch: NumPy takes longer than a runtime."""
    known: dict[bytes, Sequence[M3Embedding]] = {}

    def run(tokens: TokenBatch) -> Sequence[M3Embedding]:
        key = tokens.ids.tobytes() + tokens.offsets.tobytes()
        if key not in known:
            known[key] = forward(tokens)
        return known[key]

    return run


def read_weights(checkpoint: Checkpoint, precision: str = "fp32") -> Weights:
    """The checkpoint's tensors, to be stored at ``precision``."""
    shape = checkpoint.shape
    return Weights(
        checkpoint.tensors,
        shape.num_hidden_layers,
        shape.num_attention_heads,
        shape.layer_norm_eps,
        precision,
        checkpoint.basis,
    )


def _config(checkpoint: Checkpoint, weights: Weights, *, name: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "precision": weights.precision,
        "dense_dim": weights.dim,
        "multi_vector_dim": weights.colbert_dim,
        "vocab_size": checkpoint.shape.vocab_size,
        "max_length": checkpoint.shape.max_length,
        "mcls": True,  # the graph averages all <s>, so ids alone make MCLS
        "opset": OPSET,
        "exported_with": {package: importlib.metadata.version(package) for package in ("onnx", "onnxruntime")},
    }


def _write_config(path: Path, config: dict[str, Any]) -> None:
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_checksums(path)
