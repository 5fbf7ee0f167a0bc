"""Chooses a row's hard negatives among the passages found: ranks, margins and sampling, without a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from m3_vdb.types import FloatArray
from train.retrieval.config import MineOptions
from train.retrieval.data import Corpus


@dataclass(frozen=True, slots=True)
class Found:
    """What one mode found for a row, best first.

    Attributes:
        rows: int64 [k], corpus rows.
        scores: float32 [k].
        limit: the highest score of a negative in this mode.
    """

    rows: NDArray[np.int64]
    scores: FloatArray
    limit: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's new negatives.

    Attributes:
        rows: corpus rows, at most as many as wanted.
        dropped: candidates that scored above a limit.
    """

    rows: list[int]
    dropped: int


def score_limit(positive: float, options: MineOptions) -> float:
    """The highest score that a negative may have beside a positive, by both margins.

    The relative one is ``positive − (1 − ratio) · |positive|``: ``ratio · positive`` for positive scores, and still
    below the positive for negative ones.
    """
    limits = [math.inf]
    if options.margin is not None:
        limits.append(positive - options.margin)
    if options.ratio is not None:
        limits.append(positive - (1 - options.ratio) * abs(positive))
    return min(limits)


def choose(
    found: Sequence[Found], corpus: Corpus, *, skipped: NDArray[np.int64], key: str, wanted: int, options: MineOptions
) -> Choice:
    """Choose negatives.

    Args:
        found: the results of every mode.
        corpus: texts that are equal count once.
        skipped: corpus rows that are no candidates and have no rank.
        key: names the row; the draw depends on it, the seed and the candidates.
        wanted: negatives to choose.
        options: ranks, and how to sample.
    """
    ranks: dict[int, tuple[int, int]] = {}  # digest → (best rank, row)
    close: set[int] = set()
    for one in found:
        allowed = ~np.isin(one.rows, skipped)
        rows, scores = one.rows[allowed][: options.last], one.scores[allowed][: options.last]
        close.update(corpus.digests[rows[scores > one.limit]].tolist())
        marks = corpus.digests[rows].tolist()
        for rank in range(options.first, len(rows) + 1):
            entry = (rank, int(rows[rank - 1]))
            ranks[marks[rank - 1]] = min(entry, ranks.get(marks[rank - 1], entry))
    candidates = [mark for mark in ranks if mark not in close]
    if options.sample == "top":
        candidates.sort(key=lambda mark: (ranks[mark][0], mark))
    else:
        candidates.sort(key=_draw(f"{options.seed}\0{key}"))
    return Choice([ranks[mark][1] for mark in candidates[: max(0, wanted)]], len(ranks) - len(candidates))


def _draw(key: str) -> Callable[[int], bytes]:
    """A number for each candidate; the smallest are the sample.

    A candidate more or less, as the roundings of another machine may bring, then changes one place and not all.
    """
    prepared = blake2b(key.encode(), digest_size=8)

    def number(mark: int) -> bytes:
        state = prepared.copy()
        state.update(mark.to_bytes(8, "little"))
        return state.digest()

    return number
