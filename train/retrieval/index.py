"""Passages encoded once, and the five rankings of them (the paper's protocol: section 4 and appendix C).

The search is that of ``m3_vdb.stores.exact``; here are blocks on disk that an interrupted run finds again, approximate
dense search by faiss for those who ask for it, and many modes at a time. Dense and sparse search the whole corpus;
dense + sparse ranks the union of both lists by exact sums; multi-vector and all re-rank the dense top 200 by exact
scores. Nothing here is a fusion of ranks, and no missing score counts as 0. Legend: Q queries, k results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError, MissingExtraError, ModelOutputError
from m3_vdb.evaluation.collection import Documents
from m3_vdb.evaluation.protocol import PARTS, Mode, Part, Request
from m3_vdb.stores.exact import Block, ExactIndex, Ranking
from m3_vdb.stores.fusion import SOURCE_VECTORS
from m3_vdb.stores.options import Source
from m3_vdb.types import FloatArray, M3Embeddings
from m3_vdb.weights import Weights
from train.retrieval.config import Report, SearchOptions
from train.retrieval.data import digest

EXACT: Final = "Flat"
TRAINING_ROWS: Final = 100_000
"""Passages from which an index learns; faiss itself wants 39 to 256 for each list of an IVF."""
PROBED_SHARE: Final = 4
"""An IVF looks at 1 in N lists, and at no fewer than ``PROBED_LISTS``. Measured with the shipped model's vectors
of 800 Debian passages: a quarter of the lists holds 86-95 % of the ten nearest; faiss' default, one list, 52-60 %."""
PROBED_LISTS: Final = 8


def encode(
    embed: M3EmbeddingFunction, texts: Iterable[str], *, max_length: int, parts: Collection[Part]
) -> M3Embeddings:
    """Some parts of texts, each cut to ``max_length`` tokens, or to the model's own maximum if that is less.

    Raises:
        ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
        TextError: an item is not a usable string.
    """
    wanted = {part: part in parts for part in PARTS}
    try:
        return embed.encode_documents(texts, max_length=min(max_length, embed.model_max_length), **wanted)
    except ModelOutputError as error:
        what = str(error).partition(":")[0]
        cause = "has its training diverged, or does it need dtype='float32'?"
        raise ModelOutputError(f"{what}: {cause}", index=error.index) from None


def encode_passages(
    embed: M3EmbeddingFunction, passages: Documents, parts: Collection[Part], options: SearchOptions, *, report: Report
) -> ExactIndex:
    """Encode passages block by block.

    Args:
        embed: the model.
        passages: read in their order, ``options.shard_size`` at a time.
        parts: representations to keep.
        options: lengths, blocks, and the folder ``work``: with it, memory holds one block at a time. They lie in a
            sub-folder that is named after model, passages and settings, and complete ones are not encoded again.
        report: called after every block.

    Raises:
        ConfigError: faiss cannot build ``options.index`` for these passages.
        MissingExtraError: faiss is not installed, and ``options.index`` needs it.
    """
    length, size, count = options.passage_max_length, options.shard_size, len(passages)
    folder = None
    if options.work is not None:
        digests = np.fromiter((digest(passage.content) for passage in passages), dtype=np.uint64, count=count)
        content = blake2b(digests.tobytes(), digest_size=16).hexdigest()
        settings = (embed.identity.fingerprint, content, sorted(parts), length, size)
        folder = options.work / blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()
    blocks: list[Block | Path] = []
    stream = iter(passages)
    for first in range(0, count, size):
        texts = [passage.content for passage in islice(stream, size)]
        place = None if folder is None else folder / f"{first:012d}"
        if place is None or not place.is_dir():
            block = Block.of(encode(embed, texts, max_length=length, parts=parts), first=first, half=True)
            if place is not None:
                block.save(place)
            report(f"encoded {first + len(texts):,} of {count:,} passages")
        blocks.append(block if place is None else place)
    return ExactIndex(blocks) if options.index == EXACT or "dense" not in parts else FaissIndex(blocks, options.index)


def rank(index: ExactIndex, queries: M3Embeddings, requests: Mapping[Mode, Request]) -> dict[Mode, Ranking]:
    """The rankings of several modes; they share the searches of the whole corpus and the exact scores.

    Args:
        index: the passages.
        queries: Q queries with the parts that the requests find and score by.
        requests: mode → its request.
    """
    lists: dict[str, Ranking] = {}
    for part in ("dense", "sparse"):
        depths = [one.candidates for one in requests.values() if part in SOURCE_VECTORS[one.source]]
        if depths:
            lists[part] = index.best(part, queries, max(depths))
    alike: dict[tuple[Source, int], list[Mode]] = defaultdict(list)
    rankings: dict[Mode, Ranking] = {}
    for mode, one in requests.items():
        if mode == one.source:  # the ranking is the list itself
            found = lists[mode]
            rankings[mode] = Ranking(found.rows[:, : one.limit], found.scores[:, : one.limit])
        else:
            alike[one.source, one.candidates].append(mode)
    for (source, candidates), modes in alike.items():
        rows = _union([lists[part].rows[:, :candidates] for part in SOURCE_VECTORS[source]])
        scores = index.scores(queries, rows, {p for mode in modes for p in weighted_parts(requests[mode].weights)})
        for mode in modes:
            rankings[mode] = Ranking.of(rows, weighted(scores, requests[mode].weights), requests[mode].limit)
    return {mode: rankings[mode] for mode in requests}


def weighted(scores: Mapping[str, FloatArray], weights: Weights) -> FloatArray:
    """s_hybrid (paper §3.2) of raw scores, each float32 [Q, k]; only those with a weight are needed."""
    terms = [np.float32(getattr(weights, part)) * scores[part] for part in weighted_parts(weights)]
    total: FloatArray = np.sum(terms, axis=0, dtype=np.float32)
    return total


def weighted_parts(weights: Weights) -> tuple[Part, ...]:
    """The scores that have a weight."""
    return tuple(part for part in PARTS if getattr(weights, part))


def import_faiss(what: str) -> Any:
    """Faiss, when it is needed.

    Args:
        what: needs it, in words.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(what, extra="train") from error
    return faiss


class FaissIndex(ExactIndex):
    """Dense search by a faiss index in memory, which is approximate; what it finds gets its exact scores.

    Args:
        blocks: as for ``ExactIndex``.
        factory: a faiss factory string such as HNSW32 or IVF256,Flat.

    Raises:
        ConfigError: faiss cannot build such an index for these passages.
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, blocks: Sequence[Block | Path], factory: str) -> None:
        super().__init__(blocks)
        faiss = import_faiss(f"index={factory!r}")
        count = sum(block.count for block in self)
        step = -(-count // TRAINING_ROWS)
        sample = np.concatenate([block.dense[::step] for block in self if block.dense is not None])
        try:
            self._index = faiss.index_factory(sample.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not self._index.is_trained:
                self._index.train(sample)
            for block in self:
                self._index.add(block.dense)
        except RuntimeError as error:
            raise ConfigError(
                f"index={factory!r} cannot be built for {count} passages: {error}; expected a faiss factory string "
                f"such as HNSW32 or IVF256,Flat, or {EXACT} for an exact search"
            ) from error
        if (lists := faiss.try_extract_index_ivf(self._index)) is not None:
            lists.nprobe = min(lists.nlist, max(PROBED_LISTS, -(-lists.nlist // PROBED_SHARE)))

    def best(self, part: str, queries: M3Embeddings, k: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """As ``ExactIndex.best``, approximate for "dense"."""
        if part != "dense" or allowed is not None:
            return super().best(part, queries, k, allowed=allowed)
        if hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = k  # with less than k, which faiss allows, it finds 78 % of 200 neighbours
        rows: NDArray[np.int64] = self._index.search(queries.dense, k)[1].astype(np.int64)
        return Ranking.of(rows, self.scores(queries, rows, [part])[part], k)


def _union(lists: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The passages of all lists of each query, once."""
    rows = np.sort(np.hstack(lists), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    return rows
