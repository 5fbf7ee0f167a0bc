"""Graph → weights: the inverse of ``graph.build_graph``, for a bundle whose checkpoint is lost.

The weights are those that the graph computes with: rounding by the export is not undone. The export adds the token type
embeddings to the position embeddings, so here the token types are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from m3_vdb.errors import BundleError
from onnx_export.graph import PADDING_ID
from onnx_export.weights import (
    CODED,
    EMBEDDING,
    CodedRows,
    Weights,
    dequantize_blocks,
    dequantize_bytes,
    dequantize_matrix,
)

LINEAR: Final = ("attention.output", "intermediate", "output")
"""Matrices of a layer; a checkpoint puts ".dense" after these names. Query, key and value are one."""
NORMS: Final = ("attention.output.LayerNorm", "output.LayerNorm")


def restore(graph: onnx.ModelProto, *, max_length: int) -> Weights:
    """The weights in a graph made by ``build_graph``.

    Args:
        graph: with its weights, in any precision.
        max_length: the model's maximum length in tokens; a shorter position table is repeated up to it.

    Raises:
        BundleError: the graph was not made by ``build_graph``.
    """
    stored = {one.name: one for one in graph.graph.initializer}
    try:
        return _restore(graph.graph, {name: numpy_helper.to_array(one) for name, one in stored.items()}, max_length)
    except (KeyError, StopIteration) as error:
        missing = str(error) or "attention layer"
        raise BundleError(
            f"the graph has no {missing}: only bundles that python -m onnx_export made can be turned back"
        ) from error


def _restore(graph: onnx.GraphProto, stored: Mapping[str, NDArray[Any]], max_length: int) -> Weights:
    heads, k = _heads(graph, stored)
    positions = _float32(stored["positions"])
    repeated = np.resize(positions, (max_length, positions.shape[1]))
    tensors = {
        EMBEDDING: _words(stored),
        "embeddings.position_embeddings.weight": np.pad(repeated, ((PADDING_ID + 1, 0), (0, 0))),
        "embeddings.token_type_embeddings.weight": np.zeros_like(positions[:1]),
        **_named(stored, "embeddings.LayerNorm"),
    }
    layers = sum(name.endswith(".qkv.bias") for name in stored)
    for prefix in (f"encoder.layer.{layer}." for layer in range(layers)):
        weight, bias = _matrix(stored, f"{prefix}qkv.weight"), _float32(stored[f"{prefix}qkv.bias"])
        weights, biases = np.split(weight, 3), np.split(bias, 3)
        for name, scale, w, b in zip(("query", "key", "value"), (k**0.5, 1, 1), weights, biases, strict=True):
            tensors[f"{prefix}attention.self.{name}.weight"] = (w * scale).astype(np.float32)
            tensors[f"{prefix}attention.self.{name}.bias"] = (b * scale).astype(np.float32)
        for name in LINEAR:
            tensors[f"{prefix}{name}.dense.weight"] = _matrix(stored, f"{prefix}{name}.weight")
            tensors[f"{prefix}{name}.dense.bias"] = _float32(stored[f"{prefix}{name}.bias"])
        for name in NORMS:
            tensors |= _named(stored, f"{prefix}{name}")
    for head in ("sparse", "colbert"):
        tensors[f"{head}_linear.weight"] = _float32(stored[f"{head}.weight"]).T.copy()
        tensors[f"{head}_linear.bias"] = _float32(stored[f"{head}.bias"])
    norm = next(node for node in graph.node if node.op_type == "LayerNormalization")
    epsilon = next(helper.get_attribute_value(one) for one in norm.attribute if one.name == "epsilon")
    basis = _basis(stored) if "rare.basis" in stored else None
    return Weights(tensors, layers, heads, float(epsilon), basis=basis)


def _heads(graph: onnx.GraphProto, stored: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    """(attention heads, width of one), from the shape [0, 0, 3, h, k] that query, key and value are brought to."""
    shapes = (stored[node.input[1]] for node in graph.node if node.op_type == "Reshape" and node.input[1] in stored)
    *_, heads, width = next(shape for shape in shapes if len(shape) == 5).tolist()
    return heads, width


def _words(stored: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    if "words" in stored:
        return _float32(stored["words"])
    frequent = dequantize_blocks(stored["words.packed"], stored["words.codes"], stored["words.scales"])
    if "rare.basis" not in stored:
        return frequent
    codes, books = ([stored[f"rare.{kind}.{i}"] for i in range(len(CODED))] for kind in ("codes", "books"))
    return np.concatenate([frequent, CodedRows(_basis(stored), codes, books).rows()])


def _basis(stored: Mapping[str, NDArray[Any]]) -> NDArray[np.float16]:
    return np.vstack([stored["rare.basis"], stored["rare.mean"]])


def _matrix(stored: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    """A matrix in torch's layout [out, in]."""
    if name in stored:
        return np.ascontiguousarray(_float32(stored[name]).T)
    if f"{name}.0.packed" in stored:
        parts = sum(f"{name}.{i}.packed" in stored for i in range(3))
        return np.concatenate([_corrected(stored, f"{name}.{i}") for i in range(parts)])
    if f"{name}.uint8" in stored:
        return dequantize_bytes(stored[f"{name}.uint8"], stored[f"{name}.scales"])
    # What int8 was before 0.2: one scale per output.
    return np.ascontiguousarray((_float32(stored[f"{name}.int8"]) * stored[f"{name}.scale"]).T)


def _corrected(stored: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    blocks = dequantize_matrix(stored[f"{name}.packed"], stored[f"{name}.scales"])
    if f"{name}.left" not in stored:
        return blocks
    left, right, scale = (_float32(stored[f"{name}.{part}"]) for part in ("left", "right", "scale"))
    corrected: NDArray[np.float32] = blocks + left @ (scale * right.T)
    return corrected


def _named(stored: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.{part}": _float32(stored[f"{name}.{part}"]) for part in ("weight", "bias")}


def _float32(value: NDArray[Any]) -> NDArray[np.float32]:
    wide: NDArray[np.float32] = value.astype(np.float32)
    return wide
