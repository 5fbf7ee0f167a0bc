"""Every weight of the golden BGE-M3-shaped checkpoint, as a formula: NumPy only.

The checkpoint has the shape of BAAI/bge-m3 cut to two layers (1.1 GB in float32), far too
large to commit. So a weight is a pure function of its tensor's name and its place in the
tensor, and any row of any tensor can be made alone::

    bits   = splitmix64((crc32(name) << 32) + flat_index)
    weight = centre + scale * u,   u = (top 24 bits of bits) / 2**23 - 1   in [-1, 1)

Every step is exact in float32 but the addition of a centre (LayerNorm weights, sparse bias), one
correctly rounded operation: no library version, thread count or generator's stream matters.

This is not a model: it yields arrays under the names of ``transformers.XLMRobertaModel``
(``embeddings.word_embeddings.weight`` [250002, 1024], ...; matrices are [out, in]) and of the
two heads (``sparse_linear.weight`` [1, 1024], ``colbert_linear.weight`` [1024, 1024], ...).

A test that wants a small word table takes the rows it needs. Specials keep their ids and the
order of ids is kept when 0..3 are always among them::

    used, flat = np.unique(np.concatenate([np.arange(4), input_ids]), return_inverse=True)
    table = golden_rows("embeddings.word_embeddings.weight", used)  # [len(used), 1024]
    ids = flat[4:]  # what to feed to a model with this table
"""

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

HIDDEN = 1024
LAYERS = 2
HEADS = 16
FFN = 4096
VOCABULARY = 250_002
POSITIONS = 8194
LAYER_NORM_EPS = 1e-5

# Constants of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
# generators", OOPSLA 2014; the mixer is Stafford's variant 13).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# 2**20 hashes at a time: 8 MiB of uint64, which stays near the cache.
_CHUNK = 1 << 20

# Powers of two, chosen so that activations stay of order one. A [out, 1024] matrix of
# uniform(-1/16, 1/16) turns unit-variance input into outputs of standard deviation 1.15; queries
# get twice that, so that attention is peaked (logits of standard deviation 2.7) and texts differ.
_SHARP = 2.0**-3
_WIDE = 2.0**-4
_NARROW = 2.0**-5
_NARROWER = 2.0**-6
_NORM = 2.0**-3

# The mean of W_lex . H over the golden texts is 0.76 (all tokens share a part of H): this bias
# makes about half of the token weights positive, and a forgotten bias is noticed at once.
_SPARSE_BIAS = -0.75


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape of one tensor and the interval [centre - scale, centre + scale) of its values."""

    shape: tuple[int, ...]
    scale: float
    centre: float = 0.0


def _linear(name: str, out: int, width: int, scale: float) -> dict[str, TensorSpec]:
    return {
        f"{name}.weight": TensorSpec((out, width), scale),
        f"{name}.bias": TensorSpec((out,), scale),
    }


def _layer_norm(name: str) -> dict[str, TensorSpec]:
    return {
        f"{name}.weight": TensorSpec((HIDDEN,), _NORM, centre=1.0),
        f"{name}.bias": TensorSpec((HIDDEN,), _NORM),
    }


def _encoder() -> dict[str, TensorSpec]:
    tensors = {
        "embeddings.word_embeddings.weight": TensorSpec((VOCABULARY, HIDDEN), _WIDE),
        "embeddings.position_embeddings.weight": TensorSpec((POSITIONS, HIDDEN), _NARROW),
        "embeddings.token_type_embeddings.weight": TensorSpec((1, HIDDEN), _NARROW),
    }
    tensors |= _layer_norm("embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        tensors |= _linear(f"{layer}.attention.self.query", HIDDEN, HIDDEN, _SHARP)
        tensors |= _linear(f"{layer}.attention.self.key", HIDDEN, HIDDEN, _WIDE)
        tensors |= _linear(f"{layer}.attention.self.value", HIDDEN, HIDDEN, _WIDE)
        tensors |= _linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN, _WIDE)
        tensors |= _layer_norm(f"{layer}.attention.output.LayerNorm")
        tensors |= _linear(f"{layer}.intermediate.dense", FFN, HIDDEN, _WIDE)
        tensors |= _linear(f"{layer}.output.dense", HIDDEN, FFN, _NARROWER)
        tensors |= _layer_norm(f"{layer}.output.LayerNorm")
    return tensors


ENCODER_TENSORS: dict[str, TensorSpec] = _encoder()
HEAD_TENSORS: dict[str, TensorSpec] = {
    "sparse_linear.weight": TensorSpec((1, HIDDEN), _NARROW),
    "sparse_linear.bias": TensorSpec((1,), _NARROW, centre=_SPARSE_BIAS),
    **_linear("colbert_linear", HIDDEN, HIDDEN, _WIDE),
}
TENSORS: dict[str, TensorSpec] = ENCODER_TENSORS | HEAD_TENSORS


def golden_config() -> dict[str, object]:
    """Return the ``config.json`` of the checkpoint (BAAI/bge-m3's, with two layers)."""
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": FFN,
        "layer_norm_eps": LAYER_NORM_EPS,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def _hash(name: str, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 64 pseudo-random bits for each flat index of the tensor called ``name``."""
    bits = (index + np.uint64(crc32(name.encode()) << 32)) * _GAMMA
    bits ^= bits >> np.uint64(30)
    bits *= _MIX_1
    bits ^= bits >> np.uint64(27)
    bits *= _MIX_2
    bits ^= bits >> np.uint64(31)
    return bits


def _values(name: str, spec: TensorSpec, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    values = (_hash(name, index) >> np.uint64(40)).astype(np.float32)
    values *= np.float32(2.0**-23)
    values -= np.float32(1.0)
    values *= np.float32(spec.scale)
    if spec.centre:
        values += np.float32(spec.centre)
    return values


def golden_rows(name: str, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Return some rows of one tensor, without making the others.

    Args:
        name: A key of :data:`TENSORS`.
        rows: [r] indices into the tensor's first axis, in any order, repeats allowed.

    Returns:
        [r, ...] float32, equal to ``golden_tensor(name)[rows]``.

    Raises:
        KeyError: There is no such tensor.
        IndexError: A row lies outside the tensor (negative rows do, too).
    """
    spec = TENSORS[name]
    count = spec.shape[0]
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise IndexError(f"rows {rows.min()}..{rows.max()} asked of {name}, which has rows 0..{count - 1}")
    width = int(np.prod(spec.shape[1:], dtype=np.int64))
    columns = np.arange(width, dtype=np.uint64)
    out = np.empty((rows.size, width), dtype=np.float32)
    step = max(1, _CHUNK // width)
    for start in range(0, rows.size, step):
        part = rows[start : start + step].astype(np.uint64)
        index = part[:, None] * np.uint64(width) + columns
        out[start : start + step] = _values(name, spec, index)
    return out.reshape(rows.size, *spec.shape[1:])


def golden_tensor(name: str) -> npt.NDArray[np.float32]:
    """Return one whole tensor of :data:`TENSORS` as float32; KeyError for another name."""
    return golden_rows(name, np.arange(TENSORS[name].shape[0]))


def golden_state_dict() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield (name, float32 array) for every tensor: the encoder's, then the two heads'.

    One tensor is made at a time: the largest, the word table, takes 1 GiB and a few seconds.
    """
    for name in TENSORS:
        yield name, golden_tensor(name)


def golden_directions() -> npt.NDArray[np.float32]:
    """Return [4, 1024] float32, four unit vectors with elements +-1/32.

    ``colbert_proj`` of the golden file is every multi-vector row times these.
    """
    index = np.arange(4 * HIDDEN, dtype=np.uint64).reshape(4, HIDDEN)
    sign = (_hash("golden_directions", index) >> np.uint64(63)).astype(np.float32)
    return (sign * np.float32(2.0) - np.float32(1.0)) * np.float32(2.0**-5)
