"""What sentence-transformers lacks for an M3 checkpoint. ``M3Model.save`` copies this file into the checkpoint.

A checkpoint is a SentenceTransformer as it lies. Its folders ``sparse_encoder`` and ``multi_vector_encoder`` are a
SparseEncoder and a MultiVectorEncoder: their ``modules.json`` names classes of this file, which read the weights of the
checkpoint around them, so that each is stored once. Their ``load`` returns a module of sentence-transformers or
``SparseHead``, and what those save is complete in itself. The copy runs where this project is not installed, so it
imports sentence-transformers and torch alone.

Shapes: B texts, L tokens, d encoder width, V pieces of the vocabulary.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Module, Transformer
from sentence_transformers.util.tensor import repad_flattened_features
from torch import Tensor, nn

SPECIAL_IDS = (0, 1, 2, 3)  # <s>, <pad>, </s>, <unk>: they have no lexical weight


class SparseHead(Module):
    """Lexical weights: ReLU of a linear layer per token, the greatest one for each token id.

    Args:
        dim: d.
        vocab_size: V.
    """

    config_keys = ["dim", "vocab_size"]  # noqa: RUF012 - as the base class has it

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dim, self.vocab_size = dim, vocab_size
        self.linear = nn.Linear(dim, 1)

    def forward(self, features: dict[str, Any], **_: object) -> dict[str, Any]:
        """Add ``sentence_embedding``, [B, V], made of ``token_embeddings`` [B, L, d] and ``input_ids`` [B, L]."""
        if "cu_seq_lens_q" in features:  # with flash attention the texts lie one after the other
            features = repad_flattened_features(features)
        ids, mask = features["input_ids"], features["attention_mask"]
        weights = self.linear(features["token_embeddings"]).relu().squeeze(-1) * mask
        found = weights.new_zeros(len(ids), self.vocab_size).scatter_reduce(1, ids, weights, "amax")
        features["sentence_embedding"] = found.index_fill(1, ids.new_tensor(SPECIAL_IDS), 0)
        return features

    def get_embedding_dimension(self) -> int:
        """V."""
        return self.vocab_size

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write weights and settings, and this file to where sentence-transformers looks for it."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        shutil.copyfile(__file__, Path(output_path).parent / Path(__file__).name)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> SparseHead:  # type: ignore[override]
        """Read what ``save`` wrote, from a folder or the hub."""
        hub: dict[str, Any] = {name: options.get(name) for name in ("token", "cache_folder", "revision")}
        hub |= {"subfolder": subfolder, "local_files_only": options.get("local_files_only", False)}
        model = cls(**cls.load_config(model_name_or_path, **hub))
        head: SparseHead = cls.load_torch_weights(model_name_or_path, **hub, model=model)
        return head


class CheckpointEncoder:
    """``modules.json``: the encoder and tokenizer of the checkpoint around this folder."""

    @staticmethod
    def load(model_name_or_path: str, subfolder: str = "", **options: Any) -> Transformer:
        """The encoder, by sentence-transformers' own means."""
        encoder: Transformer = Transformer.load(str(_checkpoint(model_name_or_path)), **options)
        return encoder


class CheckpointSparseLinear:
    """``modules.json``: the sparse head of the checkpoint around this folder."""

    @staticmethod
    def load(model_name_or_path: str, subfolder: str = "", **_: object) -> SparseHead:
        """The head."""
        checkpoint = _checkpoint(model_name_or_path)
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        head = SparseHead(config["hidden_size"], config["vocab_size"])
        head.linear.load_state_dict(_weights(checkpoint / "sparse_linear.pt"))
        return head


class CheckpointColbertLinear:
    """``modules.json``: the multi-vector head of the checkpoint around this folder."""

    @staticmethod
    def load(model_name_or_path: str, subfolder: str = "", **_: object) -> Dense:
        """The head, which replaces the state of each token."""
        weights = _weights(_checkpoint(model_name_or_path) / "colbert_linear.pt")
        width, dim = weights["weight"].shape
        head = Dense(dim, width, activation_function=nn.Identity(), module_input_name="token_embeddings")
        head.linear.load_state_dict(weights)
        return head


def _checkpoint(folder: str) -> Path:
    checkpoint = Path(folder).absolute().parent
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is not in a checkpoint ({checkpoint} has no config.json): give the path of this folder inside "
            "the whole checkpoint; one on the hub must be downloaded first (huggingface_hub.snapshot_download)"
        )
    return checkpoint


def _weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float() for name, tensor in state.items()}
