"""An encoded corpus: shards of passages, in memory or memory-mapped from a folder, found again after an interruption.

Legend: n passages of a shard, d dense width, m multi-vector width, T distinct token ids, nnz lexical weights. Lexical
weights are kept as postings (token id → passages), multi-vectors as float16, which moves a score by about 1e-4. Both
are the same in memory and on disk, so where a corpus lies and how it is cut changes no result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.protocol import Part
from m3_vdb.types import FloatArray, IntArray, M3Embeddings, OffsetArray
from train.retrieval.corpus import Corpus
from train.retrieval.encoder import Encoder
from train.retrieval.options import Report, silent


@dataclass(frozen=True, slots=True)
class Shard:
    """The embeddings of passages first … first + count − 1; parts that were not asked for are None.

    Attributes:
        first: corpus row of the first passage.
        count: n.
        dense: float32 [n, d], unit rows.
        terms: int32 [T], token ids, ascending.
        term_offsets: int64 [T + 1], where a token id's postings begin.
        term_rows: int32 [nnz], passages of each token id, from 0 within the shard, ascending.
        term_weights: float32 [nnz].
        multi_vector: float16 [rows, m], unit rows.
        multi_vector_offsets: int64 [n + 1].
    """

    first: int
    count: int
    dense: FloatArray | None = None
    terms: IntArray | None = None
    term_offsets: OffsetArray | None = None
    term_rows: IntArray | None = None
    term_weights: FloatArray | None = None
    multi_vector: NDArray[np.float16] | None = None
    multi_vector_offsets: OffsetArray | None = None


class Shards:
    """The shards of a corpus in the order of its rows; those on disk are opened one at a time.

    Args:
        items: a shard, or the folder of one.
    """

    def __init__(self, items: Sequence[Shard | Path]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Shard]:
        return (item if isinstance(item, Shard) else _load(item) for item in self._items)


def make_shard(embeddings: M3Embeddings, *, first: int = 0) -> Shard:
    """Turn embeddings into a shard: postings by token id, float16 multi-vectors."""
    arrays: dict[str, Any] = {}
    if embeddings.sparse_ids is not None:
        weights, ids, offsets = embeddings.sparse_csr()
        order = np.argsort(ids, kind="stable")
        rows = np.repeat(np.arange(len(embeddings), dtype=np.int32), np.diff(offsets))
        terms, starts = np.unique(ids[order], return_index=True)
        arrays = {
            "terms": terms,
            "term_offsets": np.append(starts, len(ids)).astype(np.int64),
            "term_rows": rows[order],
            "term_weights": weights[order],
        }
    if embeddings.multi_vector is not None:
        arrays["multi_vector"] = embeddings.multi_vector.astype(np.float16)
        arrays["multi_vector_offsets"] = embeddings.multi_vector_offsets
    return Shard(first=first, count=len(embeddings), dense=embeddings.dense, **arrays)


def encode_corpus(
    encoder: Encoder,
    corpus: Corpus,
    *,
    parts: Collection[Part],
    max_length: int,
    shard_size: int,
    work: Path | None = None,
    report: Report = silent,
) -> Shards:
    """Encode a corpus shard by shard.

    Args:
        encoder: the model.
        corpus: the passages.
        parts: representations to keep.
        max_length: tokens kept of a passage.
        shard_size: passages of a shard.
        work: folder for the shards; memory then holds one shard at a time. They lie in a sub-folder that is named
            after model, corpus and settings, and those that are complete are not encoded again. None: in memory.
        report: told after every shard.
    """
    folder = None if work is None else work / _key(encoder, corpus, parts, max_length, shard_size)
    items: list[Shard | Path] = []
    for first in range(0, len(corpus), shard_size):
        place = None if folder is None else folder / f"{first:012d}"
        if place is not None and place.is_dir():
            items.append(place)
            continue
        last = min(first + shard_size, len(corpus))
        texts = [corpus[row].content for row in range(first, last)]
        shard = make_shard(encoder.encode(texts, max_length=max_length, parts=parts), first=first)
        if place is not None:
            _save(shard, place)
        items.append(place or shard)
        report(f"encoded {last:,} of {len(corpus):,} passages")
    return Shards(items)


def _key(encoder: Encoder, corpus: Corpus, parts: Collection[Part], max_length: int, shard_size: int) -> str:
    settings = (encoder.fingerprint(), corpus.fingerprint, sorted(parts), max_length, shard_size)
    return blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()


def _save(shard: Shard, place: Path) -> None:
    """Write a shard completely or not at all; two processes that write the same one write the same bytes."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, value in _arrays(shard).items():
        np.save(partial / f"{name}.npy", value)
    (partial / "shard.json").write_text(json.dumps({"first": shard.first, "count": shard.count}) + "\n")
    try:
        partial.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        shutil.rmtree(partial)  # another process was first


def _load(place: Path) -> Shard:
    numbers: dict[str, int] = json.loads((place / "shard.json").read_text())
    arrays: dict[str, Any] = {file.stem: np.load(file, mmap_mode="r") for file in place.glob("*.npy")}
    return Shard(first=numbers["first"], count=numbers["count"], **arrays)


def _arrays(shard: Shard) -> Mapping[str, NDArray[Any]]:
    values = {field.name: getattr(shard, field.name) for field in fields(shard)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
