"""The reference definition of every score, in NumPy. Stores and the trainer are tested against these functions.

Shapes: d dense width, m multi-vector width, N query rows, M passage rows. Source: M3-Embedding (arXiv 2402.03216v4),
section 3.2. The scores are exact and raw: they are not normalised.
"""

from __future__ import annotations

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


def score(query: M3Embedding, passage: M3Embedding) -> Scores:
    """All three raw scores of a query and a passage.

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
    """s_hybrid: weighted sum of the raw scores, w1·s_dense + w2·s_lex + w3·s_mul."""
    return weights.dense * parts.dense + weights.sparse * parts.sparse + weights.multi_vector * parts.multi_vector
