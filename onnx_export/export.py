"""Checkpoint → bundle: build the graph, write it, verify it, and only then give it its name."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any, Final

import onnx

from m3_vdb.encoding.bundle import CONFIG, FORMAT, MODEL, Bundle, write_checksums
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.tokenizer import TOKENIZER, Tokenizer
from m3_vdb.errors import ConfigError
from onnx_export.checkpoint import POSITION_OFFSET, TorchModel, read_checkpoint, read_tokenizer
from onnx_export.graph import OPSET, build_graph
from onnx_export.verify import (
    Errors,
    measure,
    measure_change,
    measure_mcls,
    require_close,
    require_same_ids,
    verification_texts,
)
from onnx_export.weights import PRECISIONS, Weights

EXTERNAL_FROM: Final = 1_900_000_000
"""Weights of this many bytes or more go into a separate file: a protobuf message holds at most 2 GiB."""


def export(checkpoint: Path, out: Path, *, precision: str = "fp32", name: str | None = None) -> tuple[Bundle, Errors]:
    """Export a checkpoint in BGE-M3 layout to a bundle.

    Args:
        checkpoint: directory with encoder, both heads and ``tokenizer.json``.
        out: directory to create; it appears only when the graph is verified.
        precision: "fp32", "fp16" or "int8" (int8 matrices, 4-bit embedding table).
        name: the model's name in the bundle; None takes the directory's.

    Returns:
        The bundle and its measured errors without MCLS. ``m3_config.json`` holds the errors with and without MCLS and,
        if the training started from a bundle, how much of the training is kept (``Change``).

    Raises:
        BundleError: the checkpoint is incomplete, damaged or of another kind of model.
        ConfigError: an unknown precision, or ``out`` exists.
        VerificationError: the graph does not compute what the checkpoint computes; nothing is written.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")
    if out.exists():
        raise ConfigError(f"{out} exists: bundles are never overwritten, give a new directory")
    model = read_checkpoint(checkpoint, attention="sdpa")
    weights = read_weights(model, precision)
    tokenizer = Tokenizer(read_tokenizer(checkpoint))
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_graph(build_graph(weights), partial / MODEL)
        (partial / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        config = _config(model, weights, name=name or out.name)
        _write_config(partial, config)
        # onnxruntime, so that the error is the graph's and not that of a runtime's bfloat16
        function = M3EmbeddingFunction(partial, runtime="onnxruntime", device="cpu", on_truncate="ignore")
        require_same_ids(function.tokenizer, checkpoint / TOKENIZER)
        errors = measure(function, model, verification_texts(function))
        mcls_errors = measure_mcls(function, model)
        for measured in (errors, mcls_errors):
            require_close(measured, precision=precision)
        config |= {"errors": errors.as_dict(), "mcls_errors": mcls_errors.as_dict()}
        if (change := measure_change(function, model)) is not None:
            config["change"] = change.as_dict()
        _write_config(partial, config)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.open(out), errors


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write the graph; weights beyond protobuf's limit go beside it, to ``model.onnx.data``."""
    size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    if size < EXTERNAL_FROM:
        onnx.save_model(graph, str(path))
        onnx.checker.check_model(graph)
        return
    onnx.save_model(
        graph, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data"
    )
    onnx.checker.check_model(str(path))


def read_weights(model: TorchModel, precision: str = "fp32") -> Weights:
    """The model's tensors as float32 arrays under the names of a checkpoint, to be stored at ``precision``."""
    tensors = {k.removeprefix("encoder."): v.detach().float().numpy() for k, v in model.state_dict().items()}
    config = model.encoder.config
    return Weights(tensors, config.num_hidden_layers, config.num_attention_heads, config.layer_norm_eps, precision)


def _config(model: TorchModel, weights: Weights, *, name: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": name,
        "precision": weights.precision,
        "dense_dim": weights.dim,
        "multi_vector_dim": weights.colbert_dim,
        "vocab_size": model.encoder.config.vocab_size,
        "max_length": model.encoder.config.max_position_embeddings - POSITION_OFFSET,
        "mcls": True,  # the graph averages all <s>, so ids alone make MCLS
        "opset": OPSET,
        "exported_with": {package: importlib.metadata.version(package) for package in ("torch", "onnx", "onnxruntime")},
    }


def _write_config(path: Path, config: dict[str, Any]) -> None:
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_checksums(path)
