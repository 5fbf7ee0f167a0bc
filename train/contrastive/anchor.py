"""A plain encoder in the teacher of self-distillation: a model that learns one kind of text keeps the others.

Fine-tuning on rows of one domain makes a model forget what its base knew of all others. The base's own vectors still
say how near a query and a passage are; their inner products join the scores that the heads learn from.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3_vdb.encoding.packing import pack
from m3_vdb.encoding.tokenizer import SEP, TokenBatch, Tokenizer
from m3_vdb.types import IntArray
from train.config import Anchor
from train.contrastive.batch import Anchored
from train.data.store import token_batch
from train.engine.run import SHORT, Run

QUERY: Final = "query: "
PASSAGE: Final = "passage: "
"""The prefixes that e5 was trained with (arXiv 2402.05672)."""


class AnchorEncoder:
    """A frozen encoder whose vectors are the means over a text's tokens, as multilingual-e5's are.

    Args:
        run: processes and tokenizer of the run.
        settings: names the checkpoint.

    Raises:
        BundleError: the checkpoint is incomplete.
    """

    def __init__(self, run: Run[Any], settings: Anchor) -> None:
        self._model = run.load_model(settings.model, longest=SHORT).to(run.processes.device)
        self._model.requires_grad_(requires_grad=False)
        self._run, self._weight = run, settings.weight
        tokenizer = Tokenizer(run.tokenizer_json)
        self._prefixes = {prefix: tokenizer.encode([prefix], max_length=16).ids[1:-1] for prefix in (QUERY, PASSAGE)}

    def says(self, queries: TokenBatch, passages: TokenBatch, *, batch_tokens: int) -> Anchored:
        """Its vectors of the texts of a batch, in forward passes of at most so many padded tokens."""
        of_queries = self._vectors(queries, QUERY, batch_tokens)
        return Anchored(of_queries, self._vectors(passages, PASSAGE, batch_tokens), self._weight)

    @torch.no_grad()
    def _vectors(self, texts: TokenBatch, prefix: str, batch_tokens: int) -> Tensor:
        tokens = with_prefix(texts, self._prefixes[prefix], longest=self._model.max_length)
        found = torch.empty(len(tokens), self._model.dim, device=self._run.processes.device)
        for group in pack(tokens.lengths, batch_tokens=batch_tokens, call_cost=0):
            ids, mask = (torch.from_numpy(array).to(found.device) for array in tokens.padded(group))
            with self._run.processes.autocast():
                hidden = self._model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            found[torch.from_numpy(group).to(found.device)] = mean_pool(hidden, mask)
        return found


def with_prefix(texts: TokenBatch, prefix: IntArray, *, longest: int) -> TokenBatch:
    """The texts with these tokens after their ``<s>``, none longer than ``longest`` tokens."""
    rows = []
    for first, last in zip(texts.offsets[:-1], texts.offsets[1:], strict=True):
        inner = texts.ids[first + 1 : last - 1][: longest - 2 - len(prefix)]
        rows.append(np.concatenate([texts.ids[first : first + 1], prefix, inner, [SEP]]).tolist())
    return token_batch(rows)


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean state of every text's tokens as a unit row, in float32.

    Args:
        hidden: [B, L, d].
        mask: int64 [B, L], 1 for tokens and 0 for padding, which does not count.

    Returns:
        float32 [B, d].
    """
    weights = mask.unsqueeze(-1).float()
    return functional.normalize((hidden.float() * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)
