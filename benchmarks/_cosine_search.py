"""A collection searched by the base alone, exactly and in memory, in the form that ``m3_vdb.evaluation`` measures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np

from benchmarks._mean_pooled import PASSAGE, QUERY, MeanPooled
from m3_vdb.evaluation import PROTOCOLS, Collection
from m3_vdb.evaluation.protocol import DEPTH
from m3_vdb.evaluation.results import Cost
from m3_vdb.evaluation.runs import CollectionRuns
from m3_vdb.types import FloatArray

NAME: Final = "zero-shot"
"""Of the ranking in ``CollectionRuns.runs``."""
BLOCK: Final = 4096
"""Texts that are packed into batches together, and are in memory at a time."""


def search(encoder: MeanPooled, collection: Collection, *, max_length: int) -> CollectionRuns:
    """The best ``DEPTH`` documents of every query by cosine, over all documents; equal ones at the end as they come.

    Args:
        encoder: of queries and documents.
        collection: what is searched.
        max_length: tokens kept of a passage; a query has at most the protocol's 512.
    """
    begun = time.perf_counter()
    ids: list[str] = []
    blocks, tokens, truncated = [np.zeros((0, encoder.model.dim), np.float32)], 0, 0
    documents = iter(collection.documents)
    while block := list(islice(documents, BLOCK)):
        ids += [document.id for document in block]
        encoded = encoder.encode([document.content for document in block], prefix=PASSAGE, max_length=max_length)
        blocks.append(encoded.vectors)
        tokens, truncated = tokens + encoded.tokens, truncated + encoded.truncated
    passages, seconds = np.concatenate(blocks), time.perf_counter() - begun
    run = dict(_rank(encoder, collection, ids, passages, min(max_length, PROTOCOLS["paper"].query_max_length)))
    cost = Cost(len(ids), 0, 0, tokens, truncated, seconds, index_bytes=None, encode_ms=None, search_ms={})
    return CollectionRuns(collection, len(ids), {NAME: run}, {}, cost)


def _rank(
    encoder: MeanPooled, collection: Collection, ids: Sequence[str], passages: FloatArray, max_length: int
) -> Iterator[tuple[str, dict[str, float]]]:
    names = iter(collection.queries)
    while block := list(islice(names, BLOCK)):
        texts = [collection.queries[name].text for name in block]
        queries = encoder.encode(texts, prefix=QUERY, max_length=max_length)
        for name, query in zip(block, queries.vectors, strict=True):
            scores = passages @ query
            best = np.argpartition(-scores, DEPTH)[:DEPTH] if len(ids) > DEPTH else range(len(ids))
            yield name, {ids[i]: float(scores[i]) for i in best}
