"""A writer of the ``E5S1`` layout, the counterpart of ``train.import_base``, for tiny files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS, TYPES, EPS = 32, 1, 2, 64, 6, 2, 1e-12
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "ab", "▁ab", "本", "日本", "<mask>"]
SCORES = np.array([0, 0, 0, 0, -2.5, -3, -4, -5, -6.25, -7, -5.5, 0], dtype=np.float32)


def shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of the file."""
    h, f = HIDDEN, INTERMEDIATE
    result: dict[str, tuple[int, ...]] = {
        "emb.word": (len(PIECES), h),
        "emb.pos": (POSITIONS, h),
        "emb.type": (TYPES, h),
    }
    result |= {"emb.ln.w": (h,), "emb.ln.b": (h,)}
    for layer in range(LAYERS):
        for name, (out, width) in {
            "q": (h, h),
            "k": (h, h),
            "v": (h, h),
            "ao": (h, h),
            "fi": (f, h),
            "fo": (h, f),
        }.items():
            result |= {f"l{layer}.{name}.w": (out, width), f"l{layer}.{name}.b": (out,)}
        for name in ("aln", "oln"):
            result |= {f"l{layer}.{name}.w": (h,), f"l{layer}.{name}.b": (h,)}
    return result


def is_matrix(name: str) -> bool:
    """Stored in 4-bit blocks; all else is float32."""
    return len(shapes()[name]) == 2 and name not in ("emb.pos", "emb.type")


def pack_block(scale: float, levels: np.ndarray) -> bytes:
    """float16 scale, then byte j = level j in the low nibble and level j + 16 in the high one."""
    low, high = levels[:16].astype(np.uint8), levels[16:].astype(np.uint8)
    return np.float16(scale).tobytes() + (low | (high << 4)).tobytes()


def make_tensors(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """(what a reader must find, what the file holds) for every tensor."""
    rng = np.random.default_rng(seed)
    values, raw = {}, {}
    for name, shape in shapes().items():
        if not is_matrix(name):
            values[name] = rng.normal(size=shape).astype(np.float32)
            raw[name] = values[name].tobytes()
        else:
            levels = rng.integers(0, 16, size=(np.prod(shape) // 32, 32))
            scales = rng.uniform(0.01, 0.1, size=len(levels)).astype(np.float16)
            values[name] = ((levels - 8) * scales[:, None].astype(np.float32)).astype(np.float32).reshape(shape)
            raw[name] = b"".join(pack_block(s, row) for s, row in zip(scales, levels, strict=True))
    return values, raw


def write(path: Path, raw: dict[str, bytes], *, magic: bytes = b"E5S1", version: int = 1, block: int = 32) -> Path:
    """Header, pieces, a normalisation map that readers skip, directory, tensors."""
    head = magic + struct.pack("<I7i", version, HIDDEN, LAYERS, HEADS, INTERMEDIATE, len(PIECES), POSITIONS, TYPES)
    head += struct.pack("<fi", EPS, block)
    blobs = [piece.encode() for piece in PIECES]
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, blobs)))
    head += np.cumsum([0, *map(len, blobs)]).astype("<u4").tobytes() + SCORES.tobytes() + b"".join(blobs)
    head += struct.pack("<iI", 2, 5) + b"skip!"
    entries = [(name.encode(), int(is_matrix(name))) for name in raw]
    offset = len(head) + 4 + sum(2 + len(name) + 21 for name, _ in entries)
    directory = struct.pack("<i", len(raw))
    for name, dtype in entries:
        content, size = raw[name.decode()], int(np.prod(shapes()[name.decode()]))
        directory += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", dtype, size, offset, len(content))
        offset += len(content)
    path.write_bytes(head + directory + b"".join(raw.values()))
    return path
