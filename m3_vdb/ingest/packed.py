"""Parts of packed batches, as views: n texts, of which some are wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.types import FloatArray, M3Embeddings, OffsetArray


def part(embeddings: M3Embeddings, start: int, stop: int) -> M3Embeddings:
    """The embeddings of the texts start … stop; the costs stay with the whole."""
    sparse, sparse_offsets = _cut(embeddings.sparse_offsets, start, stop)
    rows, row_offsets = _cut(embeddings.multi_vector_offsets, start, stop)
    return M3Embeddings(
        token_counts=embeddings.token_counts[start:stop],
        truncated=embeddings.truncated[start:stop],
        dense=None if embeddings.dense is None else embeddings.dense[start:stop],
        sparse_ids=None if embeddings.sparse_ids is None else embeddings.sparse_ids[sparse],
        sparse_weights=None if embeddings.sparse_weights is None else embeddings.sparse_weights[sparse],
        sparse_offsets=sparse_offsets,
        multi_vector=None if embeddings.multi_vector is None else embeddings.multi_vector[rows],
        multi_vector_offsets=row_offsets,
    )


def _cut(offsets: OffsetArray | None, start: int, stop: int) -> tuple[slice, OffsetArray | None]:
    if offsets is None:
        return slice(0, 0), None
    return slice(int(offsets[start]), int(offsets[stop])), offsets[start : stop + 1] - offsets[start]


def keep_tokens(tokens: TokenBatch, kept: NDArray[np.bool_]) -> TokenBatch:
    """The tokens of some of the texts.

    Args:
        tokens: of n texts.
        kept: bool [n].
    """
    lengths = np.diff(tokens.offsets)
    return TokenBatch(tokens.ids[np.repeat(kept, lengths)], _offsets(lengths[kept]), tokens.truncated[kept])


def keep_texts(embeddings: M3Embeddings, kept: NDArray[np.bool_]) -> M3Embeddings:
    """The embeddings of some of the texts; the costs stay those of the whole.

    Args:
        embeddings: of n texts.
        kept: bool [n].
    """
    chosen: dict[str, Any] = {name: getattr(embeddings, name)[kept] for name in ("token_counts", "truncated")}
    if embeddings.dense is not None:
        chosen["dense"] = embeddings.dense[kept]
    for part, arrays in (("sparse", ("sparse_ids", "sparse_weights")), ("multi_vector", ("multi_vector",))):
        offsets = getattr(embeddings, f"{part}_offsets")
        if offsets is not None:
            lengths = np.diff(offsets)
            chosen[f"{part}_offsets"] = _offsets(lengths[kept])
            chosen |= {name: getattr(embeddings, name)[np.repeat(kept, lengths)] for name in arrays}
    return replace(embeddings, **chosen)


def _offsets(lengths: NDArray[np.integer]) -> OffsetArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def vector_bytes(embeddings: M3Embeddings) -> list[int]:
    """Bytes of each text's three vectors."""
    sizes = np.zeros(len(embeddings), np.int64)
    if embeddings.dense is not None:
        sizes += _row_bytes(embeddings.dense)
    if embeddings.sparse_offsets is not None:
        sizes += 8 * np.diff(embeddings.sparse_offsets)
    if embeddings.multi_vector is not None and embeddings.multi_vector_offsets is not None:
        sizes += _row_bytes(embeddings.multi_vector) * np.diff(embeddings.multi_vector_offsets)
    return [int(size) for size in sizes]


def _row_bytes(rows: FloatArray) -> int:
    return rows.shape[1] * rows.itemsize if rows.ndim == 2 else rows.itemsize
