"""The differentiable twins of ``m3_vdb.scoring``: every query of a batch against every passage.

Legend: B queries, P passages, Lq and Lp their padded lengths, d dense width, m multi-vector width, U distinct token
ids of the queries. Memory never grows with the vocabulary, and padding never takes part in a score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3_vdb.tokenizer import SPECIAL_IDS


def dense_scores(q_BD: Tensor, p_PD: Tensor) -> Tensor:  # noqa: N803 - shape suffixes, see the legend
    """s_dense [B, P]: inner products of unit rows."""
    return q_BD @ p_PD.T


def lexical_scores(q_ids: Tensor, q_weights: Tensor, p_ids: Tensor, p_weights: Tensor) -> Tensor:
    """s_lex [B, P]: Σ over token ids in both of (max query weight) · (max passage weight).

    Only ids that occur in a query can score, so both sides are reduced to the U distinct ids of the queries:
    [B, U] and [P, U] instead of a vocabulary's width (FlagEmbedding: 7.6 GiB for one passage of 8192 tokens).

    Args:
        q_ids: int64 [B, Lq], special and padding ids included; they are ignored here.
        q_weights: float32 [B, Lq], ReLU'd.
        p_ids: int64 [P, Lp].
        p_weights: float32 [P, Lp], ReLU'd.
    """
    vocabulary = torch.unique(q_ids)
    vocabulary = vocabulary[~torch.isin(vocabulary, torch.tensor(SPECIAL_IDS, device=q_ids.device))]
    if not len(vocabulary):
        return q_weights.sum() * 0 + q_weights.new_zeros(len(q_ids), len(p_ids))
    return max_weights(q_ids, q_weights, vocabulary) @ max_weights(p_ids, p_weights, vocabulary).T


def max_weights(ids: Tensor, weights: Tensor, vocabulary: Tensor) -> Tensor:
    """The largest weight of each id of ``vocabulary`` in each row, 0 where it does not occur.

    Args:
        ids: int64 [n, L].
        weights: float32 [n, L], ≥ 0; the gradient goes to the position with the maximum (shared between equals).
        vocabulary: int64 [U], ascending.

    Returns:
        float32 [n, U].
    """
    column = torch.searchsorted(vocabulary, ids).clamp_(max=len(vocabulary) - 1)
    row, position = torch.nonzero(vocabulary[column] == ids, as_tuple=True)
    flat = row * len(vocabulary) + column[row, position]
    table = weights.new_zeros(len(ids) * len(vocabulary))
    return table.scatter_reduce(0, flat, weights[row, position], "amax").view(len(ids), -1)


def multi_vector_scores(
    q_vectors: Tensor, q_mask: Tensor, p_vectors: Tensor, p_mask: Tensor, *, block: int = 1 << 24
) -> Tensor:
    """s_mul [B, P]: mean over a query's rows of the best inner product with any row of the passage.

    Padded passage rows are masked with −∞, not with zeros: zeros would put a floor of 0 under negative similarities
    and make the score depend on padding. Autograd keeps one index a (query row, passage), never the similarities.

    Args:
        q_vectors: [B, Lq, m], unit rows.
        q_mask: bool [B, Lq], True for real rows, at least one in each text.
        p_vectors: [P, Lp, m], unit rows.
        p_mask: bool [P, Lp], as ``q_mask``.
        block: similarities held at once, in numbers.
    """
    step = max(1, block // max(1, q_vectors.shape[0] * q_vectors.shape[1] * p_vectors.shape[1]))
    rows = q_vectors[q_mask]  # all query rows end to end; no padding is multiplied
    starts = range(0, len(p_vectors), step)
    best = torch.cat([_best(rows, p_vectors[i : i + step], p_mask[i : i + step]) for i in starts], dim=1)
    counts = q_mask.sum(1)
    query_of_row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    sums = best.new_zeros(len(counts), best.shape[1]).index_add(0, query_of_row, best)
    return sums / counts[:, None]


def _best(rows: Tensor, p_vectors: Tensor, p_mask: Tensor) -> Tensor:
    """Best similarity of each query row with each passage: [rows, P]."""
    similarity = torch.einsum("rm,plm->rpl", rows, p_vectors)
    return similarity.masked_fill(~p_mask, -torch.inf).amax(dim=-1)
