"""Random models and token batches without a tokenizer, smaller than the session's tiny checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from train.model import M3Model

VOCABULARY = 40


def random_model(*, seed: int = 0, colbert_dim: int | None = 8) -> M3Model:
    """One layer, 16 wide, dropout off."""
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        type_vocab_size=1,
        pad_token_id=1,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=colbert_dim)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 0.4)
    return model.eval()


def random_token_batch(texts: int, longest: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask): ``<s> … </s>`` of 2 to ``longest`` tokens, padded with ``<pad>``; one is longest."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (texts,), generator=generator)
    lengths[0] = longest
    ids = torch.randint(4, VOCABULARY, (texts, longest), generator=generator)
    place = torch.arange(longest)
    ids[:, 0] = 0
    ids[place == lengths[:, None] - 1] = 2
    mask = place < lengths[:, None]
    return ids.masked_fill(~mask, 1), mask.long()
