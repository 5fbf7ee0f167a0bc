"""Outputs of the graph → ``M3Embeddings``, in NumPy.

The graph projects, applies ReLU, normalises, and pools the dense vector. This module drops padding and inserted
``<s>``, and reduces token weights to one weight per token id. ``pool_dense`` is the reference definition of the graph's
dense output. Shapes: B rows of a batch, L padded length, d width, n texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.tokenizer import CLS, SPECIAL_IDS, TokenBatch
from m3_vdb.types import EncodeStats, FloatArray, IntArray, M3Embeddings, OffsetArray

DENSE, SPARSE, MULTI_VECTOR = "dense_vecs", "sparse_vecs", "colbert_vecs"
"""Output names of the ONNX graph."""
SHORTEST: Final = 1e-12
"""Smallest length to divide by when normalising, as in the graph and in torch."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Parts of n texts in one array: float32 [rows, …], int64 [n + 1] offsets, and for sparse int32 [rows] ids."""

    values: FloatArray
    offsets: OffsetArray
    ids: IntArray | None = None


def pool(raw: Mapping[str, FloatArray], input_ids: NDArray[np.int64], lengths: IntArray) -> dict[str, Packed]:
    """The outputs of one forward pass without padding.

    Args:
        raw: the requested graph outputs, by name.
        input_ids: int64 [B, L].
        lengths: int32 [B], tokens of each text.
    """
    pooled: dict[str, Packed] = {}
    if DENSE in raw:
        pooled[DENSE] = Packed(raw[DENSE], np.arange(len(lengths) + 1, dtype=np.int64))
    if SPARSE in raw:
        pooled[SPARSE] = pool_sparse(input_ids, raw[SPARSE])
    if MULTI_VECTOR in raw:
        pooled[MULTI_VECTOR] = pool_multi_vector(raw[MULTI_VECTOR], lengths, input_ids)
    return pooled


def pool_dense(hidden: FloatArray, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> FloatArray:
    """The dense vector: the average state of all ``<s>`` of a text, normalised.

    A text has one ``<s>``, or with MCLS (paper, appendix B.2) one for every N tokens. Serving computes this in the
    graph.

    Args:
        hidden: float32 [B, L, d], last hidden states.
        input_ids: int64 [B, L]; every text has at least one ``<s>``.
        attention_mask: int64 [B, L], 1 for real tokens.

    Returns:
        float32 [B, d], rows of length 1.
    """
    starts = (input_ids == CLS) & (attention_mask == 1)
    average = np.stack([states[own].mean(axis=0) for states, own in zip(hidden, starts, strict=True)])
    unit: FloatArray = average / np.maximum(np.linalg.norm(average, axis=1, keepdims=True), SHORTEST)
    return unit.astype(np.float32)


def pool_sparse(input_ids: NDArray[np.int64], weights: FloatArray) -> Packed:
    """One weight per distinct token id: the maximum over its positions (paper §3.2, "lexical retrieval").

    Special ids (``<s>``, ``<pad>``, ``</s>``, ``<unk>``) and weights ≤ 0 are dropped.

    Args:
        input_ids: int64 [B, L].
        weights: float32 [B, L], after ReLU.

    Returns:
        Unique, ascending ids per row; offsets int64 [B + 1].
    """
    row, position = np.nonzero((weights > 0) & ~np.isin(input_ids, SPECIAL_IDS))
    ids, values = input_ids[row, position], weights[row, position]
    order = np.lexsort((ids, row))
    row, ids, values = row[order], ids[order], values[order]
    first = np.flatnonzero(np.diff(row, prepend=-1).astype(bool) | np.diff(ids, prepend=-1).astype(bool))
    values = np.maximum.reduceat(values, first) if len(first) else values
    counts = np.bincount(row[first], minlength=len(input_ids))
    return Packed(values.astype(np.float32), _offsets(counts), ids[first].astype(np.int32))


def pool_multi_vector(vectors: FloatArray, lengths: IntArray, input_ids: NDArray[np.int64] | None = None) -> Packed:
    """Drop the rows of padding and of inserted ``<s>``.

    Args:
        vectors: float32 [B, L - 1, m], positions 1 … L-1 (without the first ``<s>``).
        lengths: int32 [B], tokens of each text; a text keeps ``length − 1`` rows, minus one per inserted ``<s>``.
        input_ids: int64 [B, L], shows where ``<s>`` were inserted; None if none were.
    """
    kept = np.arange(vectors.shape[1]) < (lengths - 1)[:, None]
    if input_ids is not None:
        kept &= input_ids[:, 1:] != CLS
    return Packed(np.ascontiguousarray(vectors[kept], dtype=np.float32), _offsets(kept.sum(axis=1)))


def join(parts: Sequence[Packed], order: NDArray[np.intp]) -> Packed:
    """Concatenate batches, in the order of the input.

    Args:
        parts: one per batch, in the order of encoding.
        order: [n], ``order[k]`` is the input position of the k-th encoded text.
    """
    values = np.concatenate([part.values for part in parts])
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    starts = _offsets(counts)[:-1]
    inverse = np.argsort(order)
    offsets = _offsets(counts[inverse])
    # Row r of text t comes from starts[t] + (r − its new start): one gather, no loop over texts.
    gather = np.arange(offsets[-1]) + np.repeat(starts[inverse] - offsets[:-1], counts[inverse])
    ids = None if parts[0].ids is None else np.concatenate([p.ids for p in parts if p.ids is not None])[gather]
    return Packed(values[gather], offsets, ids)


def assemble(
    tokens: TokenBatch,
    batches: Sequence[NDArray[np.intp]],
    parts: Mapping[str, Sequence[Packed]],
    *,
    padded_tokens: int,
) -> M3Embeddings:
    """Embeddings in the order of the texts, from the outputs of all batches.

    Args:
        tokens: the texts.
        batches: text numbers of each batch.
        parts: output name → results of ``pool``, one per batch; missing outputs become None.
        padded_tokens: tokens that were computed.
    """
    order = np.concatenate([*batches, np.zeros(0, dtype=np.intp)])
    joined = {name: join(ragged, order) for name, ragged in parts.items()}
    dense, sparse, rows_of = (joined.get(name) for name in (DENSE, SPARSE, MULTI_VECTOR))
    return M3Embeddings(
        token_counts=tokens.text_lengths,
        truncated=tokens.truncated,
        dense=dense.values if dense else None,
        sparse_ids=sparse.ids if sparse else None,
        sparse_weights=sparse.values if sparse else None,
        sparse_offsets=sparse.offsets if sparse else None,
        multi_vector=rows_of.values if rows_of else None,
        multi_vector_offsets=rows_of.offsets if rows_of else None,
        stats=EncodeStats(len(batches), int(tokens.lengths.sum()), padded_tokens),
    )


def not_finite(raw: Mapping[str, FloatArray], lengths: IntArray) -> NDArray[np.bool_]:
    """Find texts with NaN or infinity in their values; padding is ignored.

    Args:
        raw: graph outputs by name.
        lengths: int32 [B], tokens of each text.

    Returns:
        bool [B], True for those texts.
    """
    bad = np.zeros(len(lengths), dtype=np.bool_)
    with np.errstate(invalid="ignore"):  # inf - inf gives NaN, which isfinite finds
        if all(np.isfinite(array.sum(dtype=np.float64)) for array in raw.values()):
            return bad
    for name, array in raw.items():
        finite = np.isfinite(array)
        if name == DENSE:
            bad |= ~finite.all(axis=1)
            continue
        real = np.arange(array.shape[1]) < (lengths - (name == MULTI_VECTOR))[:, None]
        bad |= (~(finite.all(axis=2) if array.ndim == 3 else finite) & real).any(axis=1)
    return bad


def _offsets(counts: NDArray[np.integer]) -> OffsetArray:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
