"""Changes to a model without training: more positions, a mean of several models, a narrower multi-vector head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import XLMRobertaModel

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from onnx_export.checkpoint import read_tokenizer
from train.edit_config import Positions
from train.model import M3Model


def extend_positions(encoder: XLMRobertaModel, max_length: int, *, how: Positions) -> None:
    """Give an encoder position rows for texts of ``max_length`` tokens, in place.

    Call it before an optimiser is made: the position table becomes a new parameter.

    Args:
        encoder: any XLM-RoBERTa model; its configuration and buffers follow.
        max_length: N, tokens that a text may have afterwards, ``<s>`` and ``</s>`` included.
        how: "repeat" sets row i to the present row i mod P, so that texts of up to P tokens keep their output to the
            bit; "interpolate" stretches the P rows linearly over N, first on first and last on last.

    Raises:
        ConfigError: the encoder has more positions already.
    """
    table = encoder.embeddings.position_embeddings
    padding = int(encoder.embeddings.padding_idx)
    offset = padding + 1
    present = table.num_embeddings - offset
    if max_length < present:
        raise ConfigError(f"max_length={max_length}: the encoder reads {present} tokens already, give at least that")
    rows = table.weight.detach()
    weight = torch.cat([rows[:offset], _stretch(rows[offset:], max_length, how)])
    encoder.embeddings.position_embeddings = nn.Embedding.from_pretrained(
        weight, freeze=not table.weight.requires_grad, padding_idx=padding
    )
    index = torch.arange(len(weight), device=weight.device)[None]
    encoder.embeddings.register_buffer("position_ids", index, persistent=False)
    encoder.embeddings.register_buffer("token_type_ids", torch.zeros_like(index), persistent=False)
    encoder.config.max_position_embeddings = len(weight)


def _stretch(rows: Tensor, length: int, how: Positions) -> Tensor:
    """[P, d] → [N, d]."""
    if how == "repeat":
        return rows[torch.arange(length, device=rows.device) % len(rows)]
    columns = functional.interpolate(rows.float().T[None], size=length, mode="linear", align_corners=True)
    return columns[0].T.to(rows.dtype)


def average(paths: Sequence[Path], weights: Sequence[float]) -> tuple[M3Model, str]:
    """A model whose every tensor is Σ wᵢ·tensorᵢ / Σ wᵢ, and the tokenizer that all have.

    Args:
        paths: checkpoints in BGE-M3 layout, read one after the other: two models are in memory at a time.
        weights: one positive weight for each.

    Raises:
        BundleError: something is not a checkpoint.
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


def move_towards(model: M3Model, base: Path, share: float) -> None:
    """Replace each tensor of the encoder's layers by (1 − share)·tensor + share·the base's, in place.

    Embeddings and heads stay. (Weight interpolation as in WiSE-FT, arXiv 2109.01903.)

    Args:
        model: trained from the base.
        base: checkpoint in BGE-M3 layout; its positions and heads may be others.
        share: between 0 and 1.

    Raises:
        BundleError: the base is not a checkpoint.
        ConfigError: its layers have other shapes.
    """
    layers, others = (each.encoder.encoder.state_dict() for each in (model, M3Model.load(base)))
    if {name: tensor.shape for name, tensor in layers.items()} != {name: t.shape for name, t in others.items()}:
        raise ConfigError(f"{base} has other encoder layers than the models: expected the base they were trained from")
    for name, tensor in layers.items():
        tensor.lerp_(others[name], share)


def _tensors(model: M3Model) -> Iterable[Tensor]:
    return (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())


def _shapes(model: M3Model) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


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
