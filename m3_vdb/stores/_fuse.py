"""The three ways of fusion and the order of hits in plain Python: what engines compute, and are tested against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from m3_vdb.scoring import hybrid_score
from m3_vdb.stores.search import RRF_K, Search
from m3_vdb.types import Scores

Name = TypeVar("Name", str, int)


def best_first(totals: Mapping[Name, float], search: Search) -> list[tuple[Name, float]]:
    """The page of hits that a search asks for: by score, of equal ones by id.

    Args:
        totals: candidate → fused score.
        search: which hits to return.
    """
    lowest = search.score_threshold
    kept = [(name, total) for name, total in totals.items() if lowest is None or total >= lowest]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    return kept[search.offset : search.offset + search.limit]


def fuse(parts: Mapping[Name, Scores], search: Search) -> dict[Name, float]:
    """One score per candidate from its three raw scores.

    Args:
        parts: candidate → raw scores.
        search: says how.

    Returns:
        Candidate → score. "exact" is the weighted sum. Else every score with a weight is a list of the candidates, best
        first, the lexical one of those that share a token: "rrf" adds 1/(60 + rank), ranks from 1; "dbsf" adds
        (score − (μ − 3σ)) / 6σ with mean and sample deviation of the list, or 0.5 where σ is 0. Of equal scores the
        smaller candidate has the better rank. A candidate that is in no list has no score.
    """
    if search.fusion == "exact":
        return {candidate: hybrid_score(scores, search.weights) for candidate, scores in parts.items()}
    weights = search.weights
    lists = [
        {candidate: scores.dense for candidate, scores in parts.items() if weights.dense},
        {candidate: scores.sparse for candidate, scores in parts.items() if weights.sparse and scores.sparse > 0},
        {candidate: scores.multi_vector for candidate, scores in parts.items() if weights.multi_vector},
    ]
    total: dict[Name, float] = {}
    for scored in lists:
        for candidate, value in (_reciprocal_ranks(scored) if search.fusion == "rrf" else _normalised(scored)).items():
            total[candidate] = total.get(candidate, 0.0) + value
    return total


def _reciprocal_ranks(scored: Mapping[Name, float]) -> dict[Name, float]:
    order = sorted(scored, key=lambda candidate: (-scored[candidate], candidate))
    return {candidate: 1 / (RRF_K + rank) for rank, candidate in enumerate(order, start=1)}


def _normalised(scored: Mapping[Name, float]) -> dict[Name, float]:
    values = np.array(list(scored.values()), dtype=np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if not deviation:
        return dict.fromkeys(scored, 0.5)
    low = float(values.mean()) - 3 * deviation
    return {candidate: (value - low) / (6 * deviation) for candidate, value in scored.items()}
