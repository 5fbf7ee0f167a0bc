"""Weighted mean of the weights of several checkpoints of one base: one model between them, no further training.

Checkpoints that were trained on from one another lie close together, and their mean is often better than each over all
tasks ("Model soups", Wortsman et al. 2022, arXiv 2203.05482; for embedding models LM-Cocktail, arXiv 2311.13534).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from m3_vdb.errors import ConfigError
from train.checkpoint_files import read_tokenizer
from train.model import M3Model


def average(paths: Sequence[Path], weights: Sequence[float]) -> tuple[M3Model, str]:
    """A model whose every tensor is Σ wᵢ·tensorᵢ / Σ wᵢ, and the tokenizer that all have.

    Args:
        paths: checkpoints in BGE-M3 layout, read one after the other: two models are in memory at a time.
        weights: one positive weight for each.

    Raises:
        BundleError: something is no checkpoint.
        ConfigError: the checkpoints have different tokenizers or tensors.
    """
    model, tokenizer = M3Model.load(paths[0]), read_tokenizer(paths[0])
    total = sum(weights)
    with torch.no_grad():
        for tensor in _tensors(model):
            tensor.mul_(weights[0] / total)
        for path, weight in zip(paths[1:], weights[1:], strict=True):
            other = M3Model.load(path)
            if read_tokenizer(path) != tokenizer or _shapes(other) != _shapes(model):
                raise ConfigError(
                    f"{path} has another tokenizer or other tensors than {paths[0]}: expected checkpoints of one base, "
                    f"of the same positions and colbert_dim"
                )
            for tensor, more in zip(_tensors(model), _tensors(other), strict=True):
                tensor.add_(more, alpha=weight / total)
    return model, tokenizer


def _tensors(model: M3Model) -> Iterable[Tensor]:
    return (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())


def _shapes(model: M3Model) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
