"""Embeddings as stores take and return them: checked, read from an engine, packed again.

The engines check less than one would hope: Qdrant Edge accepts NaN, scores a repeated token id by whichever copy it
meets, and a ragged batch makes it panic in a way that leaves the folder unreadable. So the rules are kept here, once.
Shapes as in ``m3_vdb.types``: n documents, d dense width, m multi-vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.types import M3Embedding, M3Embeddings, OffsetArray

_ONE_COUNT: Final = np.zeros(1, np.int32)


def check_embeddings(embeddings: M3Embeddings, *, n: int, identity: ModelIdentity, max_rows: int | None) -> None:
    """Check that the embeddings belong to n documents and fit the collection.

    Args:
        embeddings: all three parts, packed.
        n: documents that they belong to.
        identity: the model of the collection; its widths must be met.
        max_rows: rows that a multi-vector may have; None for any number.

    Raises:
        ConfigError: the batch as a whole is unusable: a part is missing, or the packing contradicts itself.
        DocumentError: one document's vectors cannot be stored; ``index`` names it.
    """
    if not isinstance(embeddings, M3Embeddings):
        raise ConfigError(f"embeddings: expected M3Embeddings, got {type(embeddings).__name__}")
    if len(embeddings) != n:
        raise ConfigError(f"{n} documents but {len(embeddings)} embeddings: give one embedding for each document")
    if n == 0:
        return
    _check_dense(embeddings, n, identity.dense_dim)
    _check_sparse(embeddings, n)
    _check_multi_vector(embeddings, n, identity.multi_vector_dim, max_rows)


def _check_dense(embeddings: M3Embeddings, n: int, width: int) -> None:
    if embeddings.dense is None:
        raise _missing("dense")
    _check_width("dense", embeddings.dense, width)
    if len(embeddings.dense) != n:
        raise ConfigError(f"dense has {len(embeddings.dense)} rows for {n} documents")
    _raise_first(_not_finite(embeddings.dense), "dense vector holds NaN or infinity")


def _check_sparse(embeddings: M3Embeddings, n: int) -> None:
    ids, weights, offsets = embeddings.sparse_ids, embeddings.sparse_weights, embeddings.sparse_offsets
    if ids is None or weights is None or offsets is None:
        raise _missing("sparse")
    if ids.shape != weights.shape or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ConfigError(
            f"sparse_ids {ids.dtype}{list(ids.shape)} and sparse_weights {weights.dtype}{list(weights.shape)}: "
            f"expected one integer id and one weight for each entry"
        )
    _check_offsets("sparse", offsets, n=n, size=len(ids))
    _raise_first(~np.isfinite(weights) | (weights <= 0), "sparse weights must be finite and above 0", offsets)
    _raise_first(ids < 0, "sparse ids must not be negative", offsets)
    falls = np.zeros(len(ids), dtype=bool)
    falls[1:] = np.diff(ids) <= 0
    falls[offsets[:-1][offsets[:-1] < len(ids)]] = False  # the first entry of a document follows nothing
    _raise_first(falls, "sparse ids must be unique and ascending", offsets)


def _check_multi_vector(embeddings: M3Embeddings, n: int, width: int, max_rows: int | None) -> None:
    rows, offsets = embeddings.multi_vector, embeddings.multi_vector_offsets
    if rows is None or offsets is None:
        raise _missing("multi_vector")
    _check_width("multi_vector", rows, width)
    _check_offsets("multi_vector", offsets, n=n, size=len(rows))
    counts = np.diff(offsets)
    _raise_first(counts == 0, "multi_vector has no rows; every text has at least one")
    _raise_first(_not_finite(rows), "multi_vector holds NaN or infinity", offsets)
    if max_rows is not None and (counts > max_rows).any():
        i = int(np.argmax(counts > max_rows))
        raise DocumentError(
            f"document {i}: its multi_vector has {counts[i]} rows of {width} numbers, and this collection takes at "
            f"most {max_rows}: choose a plan for long documents (m3_vdb.LongDocuments), encode with a smaller maximum "
            f"length, or use a model with a narrower multi_vector",
            index=i,
        )


def check_query(query: M3Embedding, identity: ModelIdentity) -> None:
    """Check that a query fits the collection.

    Raises:
        ConfigError: a part is missing, of another width than the collection's, or not finite.
    """
    if not isinstance(query, M3Embedding):
        raise ConfigError(
            f"query: expected the M3Embedding of one text, embed.encode_queries([text])[0], got {type(query).__name__}"
        )
    if query.dense is None or query.sparse is None or query.multi_vector is None:
        raise ConfigError("the query lacks a part: encode it with dense, sparse and multi_vector")
    alone = M3Embeddings(  # pack() would copy, and takes three times as long
        token_counts=_ONE_COUNT,
        truncated=_ONE_COUNT.astype(np.bool_),
        dense=query.dense[np.newaxis],
        sparse_ids=query.sparse.ids,
        sparse_weights=query.sparse.weights,
        sparse_offsets=np.array([0, len(query.sparse.ids)]),
        multi_vector=query.multi_vector,
        multi_vector_offsets=np.array([0, len(query.multi_vector)]),
    )
    try:
        check_embeddings(alone, n=1, identity=identity, max_rows=None)
    except (ConfigError, DocumentError) as error:
        raise ConfigError(f"the query cannot be used: {str(error).removeprefix('document 0: ')}") from None


def _missing(part: str) -> ConfigError:
    return ConfigError(f"the embeddings lack the {part} part: encode with dense, sparse and multi_vector")


def _check_width(part: str, rows: NDArray[Any], width: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DocumentError(
            f"document 0: {part} has shape {list(rows.shape)}, and this collection holds vectors of {width} numbers: "
            f"encode with the model of the collection",
            index=0,
        )


def _check_offsets(part: str, offsets: OffsetArray, *, n: int, size: int) -> None:
    if offsets.shape != (n + 1,) or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ConfigError(
            f"{part}_offsets must be {n + 1} ascending numbers from 0 to {size}, got {offsets.tolist()[:8]}"
        )


def _not_finite(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of [n, width] hold NaN or infinity: bool [n]."""
    return np.asarray(~np.isfinite(rows).all(axis=1))


def _raise_first(bad: NDArray[np.bool_], message: str, offsets: OffsetArray | None = None) -> None:
    """Raise for the first True; with ``offsets``, entries are mapped to the document that holds them."""
    if not bad.any():
        return
    at = int(np.argmax(bad))
    i = at if offsets is None else int(np.searchsorted(offsets, at, side="right")) - 1
    raise DocumentError(f"document {i}: {message}", index=i)


def pack(embeddings: Sequence[M3Embedding]) -> M3Embeddings:
    """Complete embeddings of n ≥ 1 stored documents, packed; whether their texts were truncated is unknown."""
    dense = [e.dense for e in embeddings if e.dense is not None]
    sparse = [e.sparse for e in embeddings if e.sparse is not None]
    rows = [e.multi_vector for e in embeddings if e.multi_vector is not None]
    return M3Embeddings(
        token_counts=np.array([len(part) + 1 for part in rows], np.int32),  # all tokens but <s> have a row
        truncated=np.zeros(len(embeddings), np.bool_),
        dense=np.stack(dense),
        sparse_ids=np.concatenate([part.ids for part in sparse]),
        sparse_weights=np.concatenate([part.weights for part in sparse]),
        sparse_offsets=np.cumsum([0, *(len(part.ids) for part in sparse)], dtype=np.int64),
        multi_vector=np.concatenate(rows),
        multi_vector_offsets=np.cumsum([0, *(len(part) for part in rows)], dtype=np.int64),
    )
