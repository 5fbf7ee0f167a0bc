"""A batch of rows ready to train on, and its loss over the passages of all processes.

Legend: B queries and P passages of this process, C passages of all processes (the candidates of every query).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3_vdb.encoding.tokenizer import TokenBatch
from train.config import Head, Objective
from train.contrastive.losses import Losses, Scores, Targets, unified_loss
from train.contrastive.representations import Representations, owners
from train.contrastive.scores import score_matrices
from train.engine.processes import gather_rows, most, rank


@dataclass(frozen=True, slots=True)
class Batch:
    """This process's rows of a step; each query has a group of passages, its positive first.

    Attributes:
        queries: B texts.
        passages: P texts, group after group.
        group_sizes: int64 [B], passages of each query, at least 1.
        query_keys: int64 [B], equal for equal texts.
        passage_keys: int64 [P].
        answers: int64 [B, k], keys of all known answers of each query, repeated to fill.
        reranker: float32 [P], reranker scores, NaN where there are none.
        share: rows of this process over rows of all processes.
    """

    queries: TokenBatch
    passages: TokenBatch
    group_sizes: NDArray[np.int64]
    query_keys: NDArray[np.int64]
    passage_keys: NDArray[np.int64]
    answers: NDArray[np.int64]
    reranker: NDArray[np.float32]
    share: float


@dataclass(frozen=True, slots=True)
class Order:
    """In which order sub-batches gave the texts: int64 [B] and [P] text numbers."""

    queries: Tensor
    passages: Tensor


@dataclass(frozen=True, slots=True)
class Anchored:
    """What another encoder says of a batch.

    Attributes:
        queries: float32 [B, k], unit rows in the order of the queries' numbers.
        passages: float32 [P, k].
        weight: of their inner products in the teacher's scores.
    """

    queries: Tensor
    passages: Tensor
    weight: float


def batch_losses(
    q: Representations,
    p: Representations,
    batch: Batch,
    order: Order,
    *,
    heads: tuple[Head, ...],
    objective: Objective,
    self_distill: bool,
    anchored: Anchored | None = None,
) -> tuple[Losses, dict[str, Tensor]]:
    """Losses of this process's queries against the passages of all processes, and measures to watch.

    Multiplied by ``batch.share`` and summed over processes, they are the losses of the global batch.

    Args:
        q: queries in ``order``.
        p: passages in ``order``.
        batch: what they are.
        order: see above.
        heads: heads whose scores are trained.
        objective: constants.
        self_distill: add the distillation term.
        anchored: what another encoder says of the texts; None without anchor.
    """
    columns = _Columns.of(batch, order, q.dense.device)
    scores = score_matrices(q, gather(p), heads)
    targets = Targets(
        columns.positive,
        columns.excluded(objective.mask_duplicates),
        columns.reranker(objective.reranker_temperature) if objective.reranker_weight else None,
    )
    if anchored:
        theirs = anchored.queries[order.queries] @ gather_rows(anchored.passages[order.passages]).T
        targets = replace(targets, anchor=theirs, anchor_weight=anchored.weight)
    reverse = _reverse(q, p, columns, heads, objective.mask_duplicates) if objective.symmetric else None
    losses = unified_loss(scores, targets, objective, self_distill=self_distill, reverse=reverse)
    accuracy = {
        f"accuracy/{head}": (matrix.detach().masked_fill(targets.excluded, -torch.inf).argmax(1) == targets.positive)
        .float()
        .mean()
        for head, matrix in scores.items()
    }
    out = targets.excluded.sum(1).float().mean()
    candidates = len(columns.keys) - out
    return losses, accuracy | {"candidates": candidates, "excluded_share": out / len(columns.keys)}


def gather(mine: Representations) -> Representations:
    """The representations of all processes, one process after another."""
    return Representations(
        *(gather_rows(t) for t in (mine.dense, mine.ids, mine.weights, mine.id_counts, mine.rows, mine.row_counts))
    )


def _first(count: int, device: torch.device) -> int:
    """Column of this process's first item among those of all processes, of which it has ``count``."""
    return int(gather_rows(torch.tensor([count], device=device))[: rank()].sum())


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which candidate is what: ``own`` and ``positive`` int64 columns, the rest keys that tell equal texts apart."""

    positive: Tensor  # [B], column of the drawn positive
    local_positive: Tensor  # [B], the same among this process's passages
    own: Tensor  # [P], columns of this process's passages
    own_query: Tensor  # [P], row of the query that a passage was drawn for
    query_keys: Tensor  # [B]
    answers: Tensor  # [B, k]
    keys: Tensor  # [C]
    asked_by: Tensor  # [C], key of the query that a candidate was drawn for
    is_positive: Tensor  # [C]
    reranker_scores: Tensor  # [P]

    @classmethod
    def of(cls, batch: Batch, order: Order, device: torch.device) -> _Columns:
        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        sizes, q_keys, p_keys = tensor(batch.group_sizes), tensor(batch.query_keys), tensor(batch.passage_keys)
        owner = owners(sizes)
        starts = sizes.cumsum(0) - sizes
        place = torch.argsort(order.passages)  # passage number → its place among the representations
        first = _first(len(p_keys), device)
        is_positive = torch.zeros(len(p_keys), dtype=torch.int64, device=device)
        is_positive[starts] = 1
        local_positive = place[starts[order.queries]]
        return cls(
            positive=local_positive + first,
            local_positive=local_positive,
            own=torch.arange(len(p_keys), device=device) + first,
            own_query=torch.argsort(order.queries)[owner[order.passages]],
            query_keys=q_keys[order.queries],
            answers=tensor(batch.answers)[order.queries],
            keys=gather_rows(p_keys[order.passages]),
            asked_by=gather_rows(q_keys[owner[order.passages]]),
            is_positive=gather_rows(is_positive[order.passages]).bool(),
            reranker_scores=tensor(batch.reranker)[order.passages],
        )

    def excluded(self, mask_duplicates: bool) -> Tensor:
        """Candidates that are known to answer the query, other than its drawn positive: bool [B, C]."""
        found = torch.zeros(len(self.positive), len(self.keys), dtype=torch.bool, device=self.keys.device)
        if mask_duplicates:
            found |= (self.asked_by == self.query_keys[:, None]) & self.is_positive
            for answers in self.answers.T:
                found |= self.keys == answers[:, None]
            found[torch.arange(len(found), device=found.device), self.positive] = False
        return found

    def reranker(self, temperature: float) -> Tensor:
        """softmax(scores / temperature) within each group, in its columns: float32 [B, C]; 0 rows without scores."""
        logits = torch.full((len(self.positive), len(self.keys)), -torch.inf, device=self.keys.device)
        scored = ~self.reranker_scores.isnan()
        logits[self.own_query[scored], self.own[scored]] = self.reranker_scores[scored] / temperature
        shares = torch.softmax(logits, dim=-1).nan_to_num(0.0)
        # a share that underflows stays above 0, which would mean "not scored"
        return shares.clamp_min(torch.finfo(shares.dtype).tiny).where(logits > -torch.inf, 0.0)


def _reverse(
    q: Representations, p: Representations, columns: _Columns, heads: tuple[Head, ...], mask_duplicates: bool
) -> tuple[Scores, Targets]:
    """Each positive of this process against the queries of all processes, scores [B, all queries]."""
    scores = score_matrices(gather(q), p.take(columns.local_positive), heads)
    own_keys = columns.keys[columns.positive]
    counts = gather_rows(torch.tensor([len(q)], device=own_keys.device))
    positive = torch.arange(len(q), device=own_keys.device) + int(counts[: rank()].sum())
    answered = torch.zeros(len(q), int(counts.sum()), dtype=torch.bool, device=own_keys.device)
    if mask_duplicates:
        answered |= gather_rows(columns.query_keys) == columns.query_keys[:, None]
        mine = columns.answers
        missing = most(mine.shape[1], mine.device) - mine.shape[1]
        for answers in gather_rows(torch.cat([mine, mine[:, :1].expand(-1, missing)], dim=1)).T:
            answered |= answers == own_keys[:, None]
        answered[torch.arange(len(q), device=own_keys.device), positive] = False
    return {head: matrix.T for head, matrix in scores.items()}, Targets(positive, answered)
