"""The stage-2 objective of M3-Embedding: InfoNCE for every score, and self-distillation (arXiv 2402.03216v4, §3.3).

Candidates of a query are its own positive, its hard negatives and all passages of the other queries of the batch.
Legend: B queries, P candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Objective:
    """Constants of the objective; the defaults are the paper's, and the public code's where the paper is silent.

    Attributes:
        temperature: τ, divides every score (not in the paper; 0.02 in the public code).
        inter_weights: w1, w2, w3 of s_inter = w1·s_dense + w2·s_lex + w3·s_mul.
        loss_weights: λ1, λ2, λ3 of the dense, lexical and multi-vector terms.
        self_distill: add the distillation term L'.
    """

    temperature: float = 0.02
    inter_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    self_distill: bool = True


@dataclass(frozen=True, slots=True)
class Losses:
    """Every term of the objective, scalars; ``total`` is what is minimised.

    Attributes:
        total: (L + L')/2, or L without self-distillation.
        dense: InfoNCE of s_dense.
        sparse: InfoNCE of s_lex.
        multi_vector: InfoNCE of s_mul.
        inter: InfoNCE of s_inter.
        distill: L', cross entropy of the three scores against the teacher softmax(s_inter/τ).
    """

    total: Tensor
    dense: Tensor
    sparse: Tensor
    multi_vector: Tensor
    inter: Tensor
    distill: Tensor

    def detached(self) -> dict[str, float]:
        """Name → number, for logs."""
        return {field.name: float(getattr(self, field.name).detach()) for field in fields(self)}


def info_nce(scores: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """−log softmax(s/τ)[p*], mean over queries.

    Args:
        scores: float32 [B, P].
        positive: int64 [B], column of each query's positive.
        temperature: τ.
    """
    return functional.cross_entropy(scores / temperature, positive)


def distillation(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """−Σ teacher · log softmax(s/τ), mean over queries; the teacher is a constant here.

    Args:
        scores: float32 [B, P], the student's.
        teacher: float32 [B, P], rows of probabilities.
        temperature: τ.
    """
    return functional.cross_entropy(scores / temperature, teacher.detach())


def unified_loss(dense: Tensor, sparse: Tensor, multi_vector: Tensor, positive: Tensor, objective: Objective) -> Losses:
    """The whole objective from the three score matrices, each float32 [B, P].

    L = (λ1·L_dense + λ2·L_lex + λ3·L_mul + L_inter)/4, L' = (λ1·L'_dense + λ2·L'_lex + λ3·L'_mul)/3,
    total = (L + L')/2.

    Args:
        dense: s_dense.
        sparse: s_lex.
        multi_vector: s_mul.
        positive: int64 [B], column of each query's positive.
        objective: constants.
    """
    tau = objective.temperature
    students = (dense, sparse, multi_vector)
    inter_scores = torch.stack([w * s for w, s in zip(objective.inter_weights, students, strict=True)]).sum(0)
    parts = [info_nce(scores, positive, tau) for scores in students]
    inter = info_nce(inter_scores, positive, tau)
    base = (_weighted(parts, objective.loss_weights) + inter) / 4
    if objective.self_distill:
        teacher = functional.softmax(inter_scores.detach() / tau, dim=-1)
        distill = _weighted([distillation(s, teacher, tau) for s in students], objective.loss_weights) / 3
        total = (base + distill) / 2
    else:
        distill, total = torch.zeros_like(base), base
    return Losses(total, parts[0], parts[1], parts[2], inter, distill)


def _weighted(terms: list[Tensor], weights: tuple[float, float, float]) -> Tensor:
    return torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum()
