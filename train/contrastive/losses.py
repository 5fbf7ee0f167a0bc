"""The stage-2 objective of M3-Embedding: InfoNCE for every score, and self-distillation (arXiv 2402.03216v4, §3.3).

Candidates of a query are its own positive, its hard negatives and all passages of the other queries of the batch.
Legend: B queries, P candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from train.config import HEADS, Head, Objective

EXCLUDED: Final = -1e6
"""Score of a candidate that does not take part: its share is exactly 0, and finite, so that 0 · log 0 stays 0."""

Scores = Mapping[Head, Tensor]


@dataclass(frozen=True, slots=True)
class Losses:
    """The terms of the objective, scalars.

    Attributes:
        total: what is minimised.
        terms: InfoNCE by head; with several heads also "inter", of their weighted sum, and the sums "distill" (L') and
            "reranker" where they are switched on.
        entropy: of the teacher's shares in nats, mean over queries; a teacher near 0 teaches nothing new.
    """

    total: Tensor
    terms: dict[str, Tensor]
    entropy: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """What the scores ought to say.

    Attributes:
        positive: int64 [B], column of each query's positive.
        excluded: bool [B, P], candidates that take no part: other answers to the query.
        reranker: float32 [B, P], probabilities from a reranker, 0 outside a query's own passages; rows without scores
            are 0 altogether; None without reranker.
        anchor: float32 [B, P], another encoder's scores, which join the teacher; None without anchor.
        anchor_weight: their weight beside those of the scores.
    """

    positive: Tensor
    excluded: Tensor
    reranker: Tensor | None = None
    anchor: Tensor | None = None
    anchor_weight: float = 0.0


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


def inter_scores(scores: Scores, weights: tuple[float, float, float]) -> Tensor:
    """s_inter = w1·s_dense + w2·s_lex + w3·s_mul over the heads in use: [B, P]."""
    by_head = dict(zip(HEADS, weights, strict=True))
    return torch.stack([by_head[head] * matrix for head, matrix in scores.items()]).sum(0)


def unified_loss(
    scores: Scores,
    targets: Targets,
    objective: Objective,
    *,
    self_distill: bool,
    reverse: tuple[Scores, Targets] | None = None,
) -> Losses:
    """The whole objective from the score matrices of the heads in use, each float32 [B, P].

    With all three heads L = (λ1·L_dense + λ2·L_lex + λ3·L_mul + L_inter)/4, L' = (λ1·L'_dense + λ2·L'_lex +
    λ3·L'_mul)/3, total = (L + L')/2, or L without self-distillation. With fewer heads the sums run over those in use
    and are divided by their number of terms; a single head has no L_inter. A reranker adds its weight times the
    λ-weighted mean of the heads' cross entropies over each query's own passages. The teacher of L' is s_inter, with an
    anchor (s_inter + w·a) / (w1 + w2 + w3 + w).

    Args:
        scores: of queries (rows) and candidates (columns).
        targets: what they ought to say.
        objective: constants.
        self_distill: add L'.
        reverse: scores and targets of the opposite question, positives (rows) and queries (columns); every InfoNCE
            term is then the mean of both.
    """
    tau = objective.temperature
    matrices = _matrices(scores, targets, objective)
    terms = {name: info_nce(s, targets.positive, tau) for name, s in matrices.items()}
    if reverse:
        for name, s in _matrices(*reverse, objective).items():
            terms[name] = (terms[name] + info_nce(s, reverse[1].positive, tau)) / 2
    total = _weighted(terms, objective) / len(terms)
    students = {head: matrices[head] for head in scores}
    fused = matrices.get("inter", matrices[next(iter(scores))]).detach()
    if targets.anchor is not None:
        weights = dict(zip(HEADS, objective.inter_weights, strict=True))
        fused = (fused + targets.anchor_weight * targets.anchor) / (
            sum(weights[head] for head in scores) + targets.anchor_weight
        )
    teacher = functional.softmax(fused / tau, dim=-1)
    if self_distill:
        terms["distill"] = _over_heads(students, objective, lambda s: distillation(s, teacher, tau))
        total = (total + terms["distill"]) / 2
    if targets.reranker is not None and objective.reranker_weight:
        own = targets.reranker.masked_fill(targets.excluded, 0.0)
        own = own / own.sum(-1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)  # rows without scores stay 0
        terms["reranker"] = _over_heads(students, objective, lambda s: _within_group(s, own, tau))
        total = total + objective.reranker_weight * terms["reranker"]
    return Losses(total, terms, torch.special.entr(teacher).sum(-1).mean())


def _matrices(scores: Scores, targets: Targets, objective: Objective) -> dict[str, Tensor]:
    """The scores of each head, and "inter" if there are several, without the excluded candidates."""
    found: dict[str, Tensor] = {str(head): matrix for head, matrix in scores.items()}
    if len(scores) > 1:
        found["inter"] = inter_scores(scores, objective.inter_weights)
    return {name: matrix.masked_fill(targets.excluded, EXCLUDED) for name, matrix in found.items()}


def _weighted(terms: Mapping[str, Tensor], objective: Objective) -> Tensor:
    """Σ λ·term; L_inter has weight 1."""
    weights: dict[str, float] = dict(zip(HEADS, objective.loss_weights, strict=True)) | {"inter": 1.0}
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _over_heads(students: Mapping[Head, Tensor], objective: Objective, term: Callable[[Tensor], Tensor]) -> Tensor:
    return _weighted({name: term(scores) for name, scores in students.items()}, objective) / len(students)


def _within_group(scores: Tensor, reranker: Tensor, temperature: float) -> Tensor:
    """Cross entropy against a reranker over the candidates that it has scored, mean over all queries."""
    scored = reranker > 0
    return distillation(scores.masked_fill(~scored, EXCLUDED), reranker, temperature)
