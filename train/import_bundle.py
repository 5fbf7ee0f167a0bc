"""A bundle, such as the one that ships, → a checkpoint in BGE-M3 layout: to go on training from it.

The weights are those of the bundle's precision, expanded to float32. The tokenizer gets back the control tokens that
serving took from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.bundle import MODEL, TOKENIZER, find_bundle
from m3_vdb.tokenizer import CLS, CONTROL_PIECES, PAD, SEP
from onnx_export.restore import restore
from onnx_export.weights import EMBEDDING
from train.import_base import with_control_tokens
from train.model import POSITION_OFFSET, M3Model


def import_bundle(bundle: str | Path | None, out: Path) -> M3Model:
    """Write the checkpoint to ``out`` and return the model.

    Args:
        bundle: directory or name of a bundle; None is the default model.
        out: directory to create.

    Raises:
        BundleError: there is no such bundle, it is damaged, or its graph is not one of ours.
    """
    found = find_bundle(bundle)
    weights = restore(onnx.load(str(found.path / MODEL)), max_length=found.max_length)
    config = XLMRobertaConfig(
        vocab_size=len(weights[EMBEDDING]),
        hidden_size=weights.dim,
        num_hidden_layers=weights.layers,
        num_attention_heads=weights.heads,
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=found.max_length + POSITION_OFFSET,
        type_vocab_size=1,
        layer_norm_eps=weights.layer_norm_eps,
        pad_token_id=PAD,
        bos_token_id=CLS,
        eos_token_id=SEP,
    )
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=weights.colbert_dim)
    state = {
        name if "_linear." in name else f"encoder.{name}": torch.from_numpy(np.array(value))
        for name, value in weights.tensors.items()
    }
    model.load_state_dict(state)
    model.save(out, tokenizer_json=restore_tokenizer((found.path / TOKENIZER).read_text(encoding="utf-8")))
    return model.eval()


def restore_tokenizer(data: str) -> str:
    """Hugging Face's ``tokenizer.json`` from a bundle's (the way back of ``m3_vdb.tokenizer.plain_text_only``)."""
    tree: dict[str, Any] = json.loads(data)
    hidden = {f"\0{piece}": piece for piece in CONTROL_PIECES}
    for entry in tree["model"]["vocab"]:
        entry[0] = hidden.get(entry[0], entry[0])
    with_control_tokens(tree, [piece for piece, _ in tree["model"]["vocab"]])
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
