"""The reference definition of every score, in NumPy. Stores and the trainer are tested against these functions.

Shapes: d dense width, m multi-vector width, N query rows, M passage rows. Source: M3-Embedding (arXiv 2402.03216v4),
section 3.2. The scores are exact and raw: they are not normalised. The score of exact words, ``bm25``, is our own
addition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeVar

import numpy as np

from m3_vdb.types import FloatArray, M3Embedding, Scores, SparseVector
from m3_vdb.weights import Weights


def dense_score(query: FloatArray, passage: FloatArray) -> float:
    """s_dense: inner product of two unit vectors, each float32 [d].

    Returns:
        ⟨query, passage⟩, in [-1, 1].
    """
    return float(query @ passage)


def lexical_score(query: SparseVector, passage: SparseVector) -> float:
    """s_lex: sum of weight_query · weight_passage over the token ids that both texts have.

    Returns:
        A number ≥ 0 without upper bound; 0 if the texts share no token.
    """
    _, in_query, in_passage = np.intersect1d(query.ids, passage.ids, assume_unique=True, return_indices=True)
    return float(query.weights[in_query] @ passage.weights[in_passage])


def multi_vector_score(query: FloatArray, passage: FloatArray) -> float:
    """s_mul: mean over the query's rows of the best inner product with any passage row.

    Args:
        query: float32 [N, m], unit rows, N ≥ 1.
        passage: float32 [M, m], unit rows, M ≥ 1, without padding (padded rows must be masked with −∞).

    Returns:
        (1/N) Σ_i max_j ⟨query_i, passage_j⟩, in [-1, 1].
    """
    return float((query @ passage.T).max(axis=1).mean())


BM25_HALF: Final = 10.0
"""The c of b / (b + c): the BM25 sum at which s_bm25 is 1/2. Fixed, so that a weight means the same everywhere."""


def inverse_document_frequency(documents: int, holders: int) -> float:
    """ln(1 + (N − n + 0.5) / (n + 0.5)), as Qdrant's modifier "idf" has it.

    Args:
        documents: N, stored texts that have any token.
        holders: n, those that have this token.
    """
    return math.log(1 + (documents - holders + 0.5) / (holders + 0.5))


Number = TypeVar("Number", float, FloatArray)


def saturated(b: Number) -> Number:
    """s_bm25 of a BM25 sum b ≥ 0: b / (b + c), in [0, 1), in the same order."""
    return b / (b + BM25_HALF)


def bm25_score(query: SparseVector, passage: SparseVector, *, documents: int, holders: Mapping[int, int]) -> float:
    """s_bm25: the share of exact words, from vectors of ``m3_vdb.bm25``.

    Args:
        query: of ``bm25_query``.
        passage: of ``bm25_document``.
        documents: N, stored texts that have any token.
        holders: token id → n, texts that have it.

    Returns:
        b / (b + c) with b = Σ over common ids of idf · weight_query · weight_passage; in [0, 1), 0 without a common
        token.
    """
    _, in_query, in_passage = np.intersect1d(query.ids, passage.ids, assume_unique=True, return_indices=True)
    rarity = np.array([inverse_document_frequency(documents, holders[i]) for i in query.ids[in_query].tolist()])
    return saturated(float((rarity * query.weights[in_query]) @ passage.weights[in_passage]))


def score(query: M3Embedding, passage: M3Embedding) -> Scores:
    """All three raw scores of a query and a passage; that of exact words also depends on the other documents.

    Raises:
        ValueError: the query or the passage lacks a part.
    """
    if query.dense is None or query.sparse is None or query.multi_vector is None:
        raise ValueError("the query lacks a part: encode it with dense, sparse and multi_vector")
    if passage.dense is None or passage.sparse is None or passage.multi_vector is None:
        raise ValueError("the passage lacks a part: encode it with dense, sparse and multi_vector")
    return Scores(
        dense=dense_score(query.dense, passage.dense),
        sparse=lexical_score(query.sparse, passage.sparse),
        multi_vector=multi_vector_score(query.multi_vector, passage.multi_vector),
    )


def hybrid_score(parts: Scores, weights: Weights) -> float:
    """s_hybrid: weighted sum of the raw scores, w1·s_dense + w2·s_lex + w3·s_mul, and w4·s_bm25 and s_boost if any."""
    three = weights.dense * parts.dense + weights.sparse * parts.sparse + weights.multi_vector * parts.multi_vector
    return three + weights.bm25 * (parts.bm25 or 0.0) + (parts.boost or 0.0)
