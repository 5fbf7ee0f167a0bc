"""M3Model: one XLM-R encoder, three heads, and the public BGE-M3 directory layout on disk.

Shapes: B texts, L tokens, d encoder width, m multi-vector width (``colbert_dim``). This file knows tensors and files,
not losses (``train.losses``) and not serving (``m3_vdb``, whose NumPy pooling is the reference for ``M3Output``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import XLMRobertaConfig, XLMRobertaModel
from transformers.utils import logging

from m3_vdb.encoding import pooling
from m3_vdb.encoding.tokenizer import CLS, TokenBatch
from m3_vdb.types import M3Embedding, SparseVector
from onnx_export.checkpoint import BASIS, COLBERT_FILE, POSITION_OFFSET, SPARSE_FILE, read_checkpoint
from onnx_export.tensors import read_tensors

MODULES: Final = Path(__file__).with_name("m3_modules.py")
"""The heads as modules of sentence-transformers, which checkpoints carry with them."""


@dataclass(frozen=True, slots=True)
class M3Output:
    """The three representations of a padded batch (numerics as M3-Embedding, section 3.2).

    Attributes:
        dense: [B, d], CLS state, unit rows.
        token_weights: [B, L], ReLU'd lexical weight of every position; padding and special ids are not removed here.
        multi_vector: [B, L - 1, m], unit rows of positions 1 … L-1; rows of padding are meaningless.
    """

    dense: Tensor
    token_weights: Tensor
    multi_vector: Tensor


torch.export.register_dataclass(M3Output)  # so that sharding (FSDP) finds the tensors in it


class M3Model(nn.Module):
    """XLM-R encoder + ``sparse_linear`` + ``colbert_linear``, of any size.

    Args:
        encoder: an XLM-RoBERTa model without pooling layer.
        colbert_dim: width m of a multi-vector row; None takes the encoder's width, as BGE-M3 does.

    Attributes:
        recompute: keep no activations for the backward pass, make them again there (split-batch training).
        embedding_basis: float16 [d + 1, d], in which an export at int4 codes the embedding table
            (``onnx_export.weights.table_basis``); None leaves it to the export.
    """

    def __init__(self, encoder: XLMRobertaModel, *, colbert_dim: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.recompute = False
        self.embedding_basis: NDArray[np.float16] | None = None
        self.dim = int(encoder.config.hidden_size)
        self.colbert_dim = colbert_dim or self.dim
        self.sparse_linear = nn.Linear(self.dim, 1)
        self.colbert_linear = nn.Linear(self.dim, self.colbert_dim)

    @property
    def max_length(self) -> int:
        """Tokens that a text may have, ``<s>`` and ``</s>`` included."""
        return int(self.encoder.config.max_position_embeddings) - POSITION_OFFSET

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> M3Output:
        """Encode a padded batch, each argument int64 [B, L].

        The encoder runs in its own dtype or in autocast's; normalisation is done in float32, since a bfloat16 unit
        vector is only unit to 2⁻⁸.
        """
        if self.recompute and torch.is_grad_enabled():
            output: M3Output = checkpoint(self._encode, input_ids, attention_mask, use_reentrant=False)
            return output
        return self._encode(input_ids, attention_mask)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> M3Output:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return M3Output(
            dense=functional.normalize(hidden[:, 0].float(), dim=-1),
            token_weights=functional.relu(self.sparse_linear(hidden)).squeeze(-1).float(),
            multi_vector=functional.normalize(self.colbert_linear(hidden[:, 1:]).float(), dim=-1),
        )

    @classmethod
    def load(cls, path: Path, *, attention: str = "eager") -> M3Model:
        """Load a checkpoint directory in BGE-M3 layout, in float32.

        Args:
            path: directory with config.json, encoder weights, ``sparse_linear.pt`` and ``colbert_linear.pt``.
            attention: transformers' attention implementation; "eager" trains fastest on CPUs (docs/log.md).

        Raises:
            BundleError: a file is missing, damaged or of another model. Weights are never made up.
        """
        found = read_checkpoint(path)
        state = {name: torch.from_numpy(np.array(value)) for name, value in found.tensors.items()}
        heads = {name: state.pop(name) for name in list(state) if "_linear." in name}
        with quiet():
            encoder = XLMRobertaModel.from_pretrained(
                None,
                config=XLMRobertaConfig.from_dict(dict(found.config)),
                state_dict=state,
                dtype=torch.float32,
                attn_implementation=attention,
                add_pooling_layer=False,
            )
        model = cls(encoder, colbert_dim=len(heads["colbert_linear.bias"]))
        model.load_state_dict(heads, strict=False)
        model.embedding_basis = found.basis
        return model.eval()

    @torch.inference_mode()
    def embed(self, tokens: TokenBatch) -> list[M3Embedding]:
        """The three representations of every text, each alone and without padding.

        An export can be verified against this (``onnx_export.export.convert(…, also=model.embed)``).
        """
        found = []
        for i in range(len(tokens)):
            ids, mask = tokens.padded(np.array([i]))
            output = self.encoder(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            hidden = output.last_hidden_state
            lexical = pooling.pool_sparse(ids, functional.relu(self.sparse_linear(hidden))[..., 0].float().numpy())
            rows = functional.normalize(self.colbert_linear(hidden).float(), dim=-1)[0].numpy()
            assert lexical.ids is not None
            found.append(
                M3Embedding(
                    pooling.pool_dense(hidden.float().numpy(), ids, mask)[0],  # with MCLS the average of several states
                    SparseVector(lexical.ids, lexical.values),
                    rows[ids[0] != CLS],
                )
            )
        return found

    def save(self, path: Path, *, tokenizer_json: str, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the checkpoint: readable by ``load``, by FlagEmbedding and by sentence-transformers.

        Args:
            path: directory, made if missing.
            tokenizer_json: content of Hugging Face's ``tokenizer.json``, control tokens included.
            state: write these tensors, named as in ``state_dict``, in place of the model's own (which may be sharded).
        """
        path.mkdir(parents=True, exist_ok=True)
        whole = self.state_dict() if state is None else state
        parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "sparse_linear": {}, "colbert_linear": {}}
        for name, tensor in whole.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor.detach()
        with quiet():
            self.encoder.save_pretrained(path, state_dict=parts["encoder"])
        torch.save(parts["sparse_linear"], path / SPARSE_FILE)
        torch.save(parts["colbert_linear"], path / COLBERT_FILE)
        (path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        if self.embedding_basis is not None:
            np.save(path / BASIS, self.embedding_basis)
        for name, content in _companion_files(self.max_length, self.dim).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for folder in ("sparse_encoder", "multi_vector_encoder"):
            shutil.copyfile(MODULES, path / folder / MODULES.name)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file in float32; errors as ``onnx_export.tensors.read_tensors``."""
    return {name: torch.from_numpy(np.array(tensor.read())) for name, tensor in read_tensors(path).items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and warnings, which come between our lines; what matters of them is an error here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _companion_files(max_length: int, dim: int) -> dict[str, Any]:
    """Small files by which other libraries find tokenizer, pooling (FlagEmbedding #1326: without them, mean) and heads.

    To sentence-transformers the checkpoint is a dense model, and two folders in it are a sparse and a multi-vector one.
    """
    specials = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    specials |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    library, own = "sentence_transformers", MODULES.stem
    return {
        "tokenizer_config.json": {
            **specials,
            "tokenizer_class": "XLMRobertaTokenizerFast",
            "model_max_length": max_length,
        },
        "special_tokens_map.json": specials,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "modules.json": _modules(
            ("", f"{library}.models.Transformer"),
            ("1_Pooling", f"{library}.models.Pooling"),
            ("2_Normalize", f"{library}.models.Normalize"),
        ),
        "1_Pooling/config.json": {
            "word_embedding_dimension": dim,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
        "sparse_encoder/config_sentence_transformers.json": {
            "model_type": "SparseEncoder",
            "similarity_fn_name": "dot",
        },
        "sparse_encoder/modules.json": _modules(
            ("", f"{own}.CheckpointEncoder"), ("", f"{own}.CheckpointSparseLinear")
        ),
        "multi_vector_encoder/config_sentence_transformers.json": {
            "model_type": "MultiVectorEncoder",
            "similarity_fn_name": "meanmaxsim",
        },
        "multi_vector_encoder/modules.json": _modules(
            ("", f"{own}.CheckpointEncoder"),
            ("", f"{own}.CheckpointColbertLinear"),
            ("2_MultiVectorMask", f"{library}.multi_vector_encoder.modules.MultiVectorMask"),
            ("3_Normalize", f"{library}.base.modules.Normalize"),
        ),
        # M3 has a row for every token but <s>, of queries and documents.
        "multi_vector_encoder/2_MultiVectorMask/config.json": {
            "skiplist_words": ["<s>"],
            "skiplist_tasks": ["query", "document"],
        },
        "multi_vector_encoder/3_Normalize/config.json": {"module_input_name": "token_embeddings"},
    }


def _modules(*modules: tuple[str, str]) -> list[dict[str, Any]]:
    """``modules.json`` of sentence-transformers: the folder and class of each module, in the order they run."""
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
