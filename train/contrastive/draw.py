"""Which passages of a row a step sees, and in what form: reproducible from (seed, epoch, row), so nothing is stored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.contrastive.batch import Batch
from train.data.store import token_batch
from train.words import segment_cuts

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draw:
    """How groups are drawn.

    Attributes:
        group_size: passages of a group at most: one positive, the rest negatives, none twice.
        seed: of all draws.
        shuffle: share of positives that are cut in three segments and shuffled (arXiv 2402.03216v4, A.1).
        word_starts: bool [vocabulary], where a text may be cut; only needed for ``shuffle``.
    """

    group_size: int
    seed: int
    shuffle: float = 0.0
    word_starts: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    tokens: list[Sequence[int]]
    keys: list[int]
    scores: list[float]


def draw_batch(records: Sequence[Record], numbers: Sequence[int], draw: Draw, *, epoch: int, share: float) -> Batch:
    """The batch of some rows.

    Args:
        records: rows as ``train.data.store.COLUMNS``.
        numbers: their row numbers.
        draw: how.
        epoch: another epoch gives other draws.
        share: share of these rows in the global batch.
    """
    groups = [_group(record, draw, f"{draw.seed}/{epoch}/{n}") for record, n in zip(records, numbers, strict=True)]
    most = max(len(record["positive_keys"]) for record in records)
    answers = [(r["positive_keys"] * most)[:most] for r in records]
    return Batch(
        queries=token_batch(record["query"] for record in records),
        passages=token_batch(tokens for group in groups for tokens in group.tokens),
        group_sizes=np.array([len(group.tokens) for group in groups], dtype=np.int64),
        query_keys=np.array([record["query_key"] for record in records], dtype=np.int64),
        passage_keys=np.array([key for group in groups for key in group.keys], dtype=np.int64),
        answers=np.array(answers, dtype=np.int64),
        reranker=np.array([score for group in groups for score in group.scores], dtype=np.float32),
        share=share,
    )


def _group(record: Record, draw: Draw, seed: str) -> _Group:
    """One positive, then negatives."""
    rng = random.Random(seed)
    positive = rng.randrange(len(record["positives"]))
    count = min(draw.group_size - 1, len(record["negatives"]))
    negatives = rng.sample(range(len(record["negatives"])), count)
    tokens = record["positives"][positive]
    if rng.random() < draw.shuffle and draw.word_starts is not None:
        tokens = shuffle_segments(tokens, draw.word_starts, rng)
    scored = record["positive_scores"] and (record["negative_scores"] or not negatives)
    scores = [record["positive_scores"][positive], *(record["negative_scores"][n] for n in negatives)] if scored else []
    return _Group(
        [tokens, *(record["negatives"][n] for n in negatives)],
        [record["positive_keys"][positive], *(record["negative_keys"][n] for n in negatives)],
        scores or [float("nan")] * (1 + count),
    )


def shuffle_segments(tokens: Sequence[int], word_starts: NDArray[np.bool_], rng: random.Random) -> list[int]:
    """A text cut in three at word boundaries and put together in another order; ``<s>`` and ``</s>`` stay outside."""
    inner = np.asarray(tokens[1:-1], dtype=np.int32)
    cuts = [0, *segment_cuts(inner, word_starts, 3), len(inner)]
    segments = [inner[a:b].tolist() for a, b in pairwise(cuts)]
    before = list(segments)
    while len(set(map(tuple, segments))) > 1 and segments == before:
        rng.shuffle(segments)
    return [tokens[0], *(token for segment in segments for token in segment), tokens[-1]]
