"""Random models, token batches and representations without a tokenizer, smaller than the session's tiny checkpoint."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding import pooling
from m3_vdb.types import M3Embedding, SparseVector
from train.contrastive.representations import Representations
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


def random_representations(
    seed: int, texts: int, *, vocabulary: int = 8, longest: int = 8, cone: bool = False
) -> Representations:
    """Texts of unlike lengths, some without ids; few ids, so that repeats, overlaps and zero weights are common.

    ``cone`` keeps all rows near one axis, so that the sign of their similarities is known.
    """
    rng = np.random.default_rng(seed)
    id_counts, row_counts = rng.integers(0, longest + 1, texts), rng.integers(1, longest + 1, texts)
    dense, rows = (
        rng.normal(size=(count, width)).astype(np.float32) for count, width in ((texts, 6), (row_counts.sum(), 4))
    )
    if cone:
        rows[:, 0] = np.abs(rows[:, 0]) + 5
    return Representations(
        torch.from_numpy(dense / np.linalg.norm(dense, axis=-1, keepdims=True)),
        torch.from_numpy(rng.integers(4, 4 + vocabulary, id_counts.sum())),
        torch.from_numpy(np.maximum(rng.normal(size=id_counts.sum()), 0).astype(np.float32)),
        torch.from_numpy(id_counts),
        torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True)),
        torch.from_numpy(row_counts),
    )


def embeddings(packed: Representations) -> list[M3Embedding]:
    """Each text as the serving side knows it."""
    ids, weights, rows = (
        np.split(tensor.detach().numpy(), np.cumsum(counts.numpy())[:-1])
        for tensor, counts in (
            (packed.ids, packed.id_counts),
            (packed.weights, packed.id_counts),
            (packed.rows, packed.row_counts),
        )
    )
    sparse = [pool_text(i, w) for i, w in zip(ids, weights, strict=True)]
    parts = zip(packed.dense.detach().numpy(), sparse, rows, strict=True)
    return [M3Embedding(dense=d, sparse=s, multi_vector=r) for d, s, r in parts]


def pool_text(ids: NDArray[np.int64], weights: NDArray[np.float32]) -> SparseVector:
    """The serving side's sparse vector of one text."""
    pooled = pooling.pool_sparse(ids[None], weights[None])
    assert pooled.ids is not None
    return SparseVector(pooled.ids, pooled.values)
