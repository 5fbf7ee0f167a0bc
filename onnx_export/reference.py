"""The forward pass of M3, once more and on its own: XLM-R's encoder and the three heads in NumPy, in float32.

What ``verify`` compares a bundle with. Nothing here is shared with the graph or with serving, each text is computed by
itself without padding, and every line can be held against the papers (arXiv 1706.03762, 1911.02116, 2402.03216).
Layers are computed one after the other for all texts, so the weights of one layer are in memory at a time.

Legend: T tokens of all texts, L of one text, d width, h heads, k = d/h, f feed-forward width, m multi-vector width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.tokenizer import CLS, PAD, SPECIAL_IDS, TokenBatch
from m3_vdb.types import FloatArray, IntArray, M3Embedding, SparseVector
from onnx_export.weights import Weights


def embed(weights: Weights, tokens: TokenBatch) -> list[M3Embedding]:
    """The three representations of every text, each text alone.

    Args:
        weights: of a checkpoint.
        tokens: n texts; further ``<s>`` in a text are those of MCLS.
    """
    bounds = list(zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True))
    states = hidden_states(weights, tokens)
    return [represent(weights, states[start:end], tokens.ids[start:end]) for start, end in bounds]


def hidden_states(weights: Weights, tokens: TokenBatch) -> FloatArray:
    """float32 [T, d], the encoder's last states."""
    texts = [slice(start, end) for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    # Positions count from 2, the id of <pad> + 1; every token is of type 0.
    position = np.concatenate([np.arange(text.stop - text.start) for text in texts]) + PAD + 1
    x = weights["embeddings.word_embeddings.weight"][tokens.ids]
    x = x + weights["embeddings.position_embeddings.weight"][position]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(weights, "embeddings.LayerNorm", x)
    for layer in (f"encoder.layer.{number}." for number in range(weights.layers)):
        q, k, v = (linear(weights, f"{layer}attention.self.{part}", x) for part in ("query", "key", "value"))
        context = np.concatenate([attention(q[text], k[text], v[text], heads=weights.heads) for text in texts])
        x = layer_norm(
            weights,
            f"{layer}attention.output.LayerNorm",
            x + linear(weights, f"{layer}attention.output.dense", context),
        )
        inner = gelu(linear(weights, f"{layer}intermediate.dense", x))
        x = layer_norm(weights, f"{layer}output.LayerNorm", x + linear(weights, f"{layer}output.dense", inner))
    return x


def represent(weights: Weights, states: FloatArray, ids: IntArray) -> M3Embedding:
    """The three heads over one text.

    Args:
        weights: with ``sparse_linear`` and ``colbert_linear``.
        states: float32 [L, d].
        ids: int32 [L].
    """
    dense = unit(states[ids == CLS].mean(axis=0))  # one <s>; with MCLS several
    token_weights = np.maximum(linear(weights, "sparse_linear", states)[:, 0], 0)
    lexical: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), token_weights.tolist(), strict=True):
        if token not in SPECIAL_IDS and weight > lexical.get(token, 0.0):
            lexical[token] = weight
    sparse = SparseVector(
        np.array(sorted(lexical), dtype=np.int32), np.array([lexical[t] for t in sorted(lexical)], dtype=np.float32)
    )
    return M3Embedding(dense, sparse, unit(linear(weights, "colbert_linear", states[ids != CLS])))


def linear(weights: Weights, name: str, x: FloatArray) -> FloatArray:
    """X · Wᵀ + b; a weight is [out, in], as torch has it."""
    product: FloatArray = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return product


def layer_norm(weights: Weights, name: str, x: FloatArray) -> FloatArray:
    """(x − mean) / √(variance + ε) · weight + bias, over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal: FloatArray = centred / np.sqrt(variance + np.float32(weights.layer_norm_eps))
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(query: FloatArray, key: FloatArray, value: FloatArray, *, heads: int) -> FloatArray:
    """softmax(Q·Kᵀ / √k) · V for every head, joined: [L, d] each, [L, d]."""
    joined = np.empty_like(query)
    width = query.shape[1] // heads
    for head in (slice(start, start + width) for start in range(0, query.shape[1], width)):
        scores = query[:, head] @ key[:, head].T / np.float32(np.sqrt(width))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        joined[:, head] = shares / shares.sum(axis=-1, keepdims=True) @ value[:, head]
    return joined


def gelu(x: FloatArray) -> FloatArray:
    """X · Φ(x) of an array [T, f]; Φ is the normal distribution's cumulative function, ½ · erfc(−x/√2)."""
    exact = np.empty_like(x)
    for own, row in zip(exact, x, strict=True):  # a row stays in the processor's cache
        own[:] = row * 0.5 * erfc(-row.astype(np.float64) / np.sqrt(2.0))
    return exact


def erfc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 − erf(x) with a relative error below 1.2e-7, which is float32's rounding (NumPy has none).

    A Chebyshev fit (Press et al., Numerical Recipes, §6.2).
    """
    z = np.abs(x)
    t = 1 / (1 + z / 2)
    series = np.full_like(t, 0.17087277)
    for factor in (
        -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
    ):  # fmt: skip
        series *= t
        series += factor
    upper = t * np.exp(series - z * z)
    both: NDArray[np.float64] = np.where(x >= 0, upper, 2 - upper)
    return both


def unit(rows: FloatArray) -> FloatArray:
    """Rows divided by their length."""
    divided: FloatArray = (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)).astype(np.float32)
    return divided
