"""A bundle, such as the one that ships, → a checkpoint in BGE-M3 layout that can be trained further.

The weights are those of the bundle's precision, expanded to float32. The tokenizer gets back the control tokens that
serving took from it. ``config.json`` notes the bundle, and every later checkpoint keeps the note, so that the export
can measure how much of a training it keeps (``onnx_export.verify``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding.bundle import MODEL
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.model_files import check_file, damaged
from m3_vdb.encoding.tokenizer import CLS, HIDDEN_PIECES, PAD, SEP, rename_pieces
from onnx_export.checkpoint import POSITION_OFFSET
from onnx_export.restore import restore
from onnx_export.tokenizer import with_control_tokens
from onnx_export.weights import EMBEDDING
from train.model import M3Model


def import_bundle(bundle: str | Path | None, out: Path) -> M3Model:
    """Write the checkpoint to ``out`` and return the model.

    Args:
        bundle: directory or name of a bundle; None is the default model.
        out: directory to create.

    Raises:
        BundleError: there is no such bundle, it is damaged, or its graph is not one of ours.
    """
    found = find_bundle(bundle)
    weights = restore(_load(found.path / MODEL), max_length=found.max_length)
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
    config.update({"imported_from": {"bundle": _place(bundle), "name": found.name, "fingerprint": found.fingerprint}})
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=weights.colbert_dim)
    state = {
        name if "_linear." in name else f"encoder.{name}": torch.from_numpy(np.array(value))
        for name, value in weights.tensors.items()
    }
    model.load_state_dict(state)
    model.embedding_basis = weights.basis
    model.save(out, tokenizer_json=restore_tokenizer(found.read_tokenizer().to_json()))
    return model.eval()


def _load(path: Path) -> onnx.ModelProto:
    check_file(path)
    try:
        return onnx.load(str(path))
    except Exception as error:  # of protobuf, or of onnx where the file of large weights is missing
        raise damaged(path, error) from error


def _place(bundle: str | Path | None) -> str | None:
    """What ``find_bundle`` finds the bundle by from any working directory."""
    if bundle is None or not Path(bundle).is_dir():
        return None if bundle is None else str(bundle)
    return str(Path(bundle).resolve())


def restore_tokenizer(data: str) -> str:
    """Hugging Face's ``tokenizer.json`` from a bundle's (undoes ``tokenizer.plain_text_only``)."""
    tree: dict[str, Any] = json.loads(data)
    rename_pieces(tree["model"], {hidden: piece for piece, hidden in HIDDEN_PIECES.items()})
    with_control_tokens(tree)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
