"""Narrow the multi-vector head of a trained model: fewer numbers a token to store, no further training.

The rows of a sample of texts are analysed for their principal directions (uncentred, since scores are plain inner
products); the head is rotated onto the strongest ones and the rest is cut off. Rows are normalised after the cut, as
they always are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from train.model import M3Model


def principal_directions(rows: Tensor, dim: int) -> Tensor:
    """The ``dim`` orthonormal directions that keep most of the rows' inner products.

    Args:
        rows: float32 [n, m], unit rows.
        dim: directions wanted, 1 … m.

    Returns:
        float32 [dim, m], strongest first: eigenvectors of Σ x·xᵀ.
    """
    values, vectors = torch.linalg.eigh(rows.T.double() @ rows.double())
    strongest = torch.argsort(values, descending=True)[:dim]
    kept: Tensor = vectors[:, strongest].T.float()
    return kept


@torch.inference_mode()
def token_rows(model: M3Model, tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int = 16) -> Tensor:
    """Multi-vector rows of all real tokens of the texts: float32 [n, m]."""
    found = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer.encode(texts[start : start + batch_size], max_length=model.max_length)
        ids, mask = (torch.from_numpy(array) for array in batch.padded(np.arange(len(batch))))
        found.append(model(ids, mask).multi_vector[mask[:, 1:].bool()])
    return torch.cat(found)


def project(model: M3Model, tokenizer: Tokenizer, texts: Sequence[str], dim: int) -> M3Model:
    """A model with a multi-vector head of width ``dim``, sharing encoder and sparse head with ``model``.

    Args:
        model: a trained model.
        tokenizer: its tokenizer.
        texts: a sample of what will be searched, some hundred passages.
        dim: new width, 1 … the present one.

    Raises:
        ConfigError: ``dim`` is out of range.
    """
    if not 1 <= dim <= model.colbert_dim:
        raise ConfigError(f"colbert_dim={dim}: expected 1 … {model.colbert_dim}, the width of the trained head")
    directions = principal_directions(token_rows(model, tokenizer, texts), dim)
    narrow = M3Model(model.encoder, colbert_dim=dim)
    narrow.sparse_linear.load_state_dict(model.sparse_linear.state_dict())
    with torch.no_grad():
        narrow.colbert_linear.weight.copy_(directions @ model.colbert_linear.weight)
        narrow.colbert_linear.bias.copy_(directions @ model.colbert_linear.bias)
    return narrow.eval()
