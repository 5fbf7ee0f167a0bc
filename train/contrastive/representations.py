"""The three representations of many texts, packed end to end, so that texts of unlike lengths can be joined.

A text's padding and special tokens are dropped as soon as the model has run, therefore nothing after it depends on who
shared a forward pass with whom. Legend: n texts, T lexical tokens of all texts, R multi-vector rows of all texts,
d dense width, m multi-vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from m3_vdb.encoding.tokenizer import SPECIAL_IDS
from train.config import Head
from train.model import M3Output


@dataclass(frozen=True, slots=True)
class Representations:
    """n texts; of a head that is not in use nothing is kept: dense has width 0, the others no items.

    Attributes:
        dense: float32 [n, d], unit rows.
        ids: int64 [T], token ids without specials, repeats included.
        weights: float32 [T], ReLU'd lexical weights.
        id_counts: int64 [n], tokens of each text.
        rows: float32 [R, m], unit rows.
        row_counts: int64 [n], rows of each text, ≥ 1 if the head is in use.
    """

    dense: Tensor
    ids: Tensor
    weights: Tensor
    id_counts: Tensor
    rows: Tensor
    row_counts: Tensor

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def differentiable(self) -> tuple[Tensor, Tensor, Tensor]:
        """(dense, weights, rows): what gradients flow through."""
        return self.dense, self.weights, self.rows

    def leaves(self) -> Representations:
        """The same values cut off from the model, ready to collect gradients."""
        dense, weights, rows = (tensor.detach().requires_grad_() for tensor in self.differentiable)
        return replace(self, dense=dense, weights=weights, rows=rows)

    def take(self, texts: Tensor) -> Representations:
        """The texts of the given numbers, in that order; int64 [k]."""
        ids_at, rows_at = spans(self.id_counts, texts), spans(self.row_counts, texts)
        return Representations(
            self.dense[texts],
            self.ids[ids_at],
            self.weights[ids_at],
            self.id_counts[texts],
            self.rows[rows_at],
            self.row_counts[texts],
        )


def pack_output(output: M3Output, ids: Tensor, mask: Tensor, heads: Sequence[Head]) -> Representations:
    """Drop padding and specials of a padded forward pass.

    Args:
        output: what the model made of the batch.
        ids: int64 [n, L].
        mask: int64 [n, L], 1 for real tokens.
        heads: heads in use.
    """
    specials = torch.tensor(SPECIAL_IDS, device=ids.device)
    lexical = mask.bool() & ~torch.isin(ids, specials) & ("sparse" in heads)
    rows = mask[:, 1:].bool() & ("multi_vector" in heads)
    return Representations(
        output.dense if "dense" in heads else output.dense[:, :0],
        ids[lexical],
        output.token_weights[lexical],
        lexical.sum(1),
        output.multi_vector[rows],
        rows.sum(1),
    )


def concatenate(parts: Sequence[Representations]) -> Representations:
    """All texts of the parts, in order."""
    return Representations(
        torch.cat([part.dense for part in parts]),
        torch.cat([part.ids for part in parts]),
        torch.cat([part.weights for part in parts]),
        torch.cat([part.id_counts for part in parts]),
        torch.cat([part.rows for part in parts]),
        torch.cat([part.row_counts for part in parts]),
    )


def owners(counts: Tensor) -> Tensor:
    """The text number of every packed item: int64 [counts.sum()]."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def spans(counts: Tensor, texts: Tensor) -> Tensor:
    """Places of the packed items of the given texts, in the order of ``texts``: int64 [counts[texts].sum()]."""
    starts = counts.cumsum(0) - counts
    chosen = counts[texts]
    first = chosen.cumsum(0) - chosen
    within = torch.arange(int(chosen.sum()), device=counts.device) - torch.repeat_interleave(first, chosen)
    return torch.repeat_interleave(starts[texts], chosen) + within
