"""How a query is carried out by every engine: the plan, the ways of fusion, and the page of hits.

The plan has two parts. *Prefetches* search the whole collection; what they find are the candidates. *Rescores* score
all candidates by one vector each, exactly; the fused score is the weighted sum of the rescores. The first rescore (the
primary one) knows every candidate, so a candidate that another one lacks (no common token) counts as 0 there, which is
its true score.

An engine adds the rescores in one request where it can. Where it cannot, and where ranks are added (of equal scores an
engine ranks any first), the rescores are the requests of one batch, and they are added here, in float64, by the rules
that the engines are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from m3_vdb.scoring import hybrid_score, saturated
from m3_vdb.stores.options import BM25, DENSE, MULTI_VECTOR, RRF_K, SPARSE, Search, Source
from m3_vdb.types import M3Embedding, Scores

SOURCE_VECTORS: Final[dict[Source, tuple[str, ...]]] = {
    "dense": (DENSE,),
    "sparse": (SPARSE,),
    "union": (DENSE, SPARSE),
}
WORDS_SHARE: Final = 4
"""The list of exact words has a quarter of the candidates: each more is scored by all parts (docs/log.md)."""
MAY_LACK: Final = frozenset({SPARSE, BM25})
"""What finds only documents with a common token; the score of others is 0."""
Name = TypeVar("Name", str, int)


@dataclass(frozen=True, slots=True)
class Rescore:
    """All candidates scored by one vector.

    Attributes:
        vector: its name.
        weight: factor of the engine's score in the sum. MAX_SIM is a *sum* over the N rows of the query and M3 defines
            a mean, so multi_vector has w3 / N (``m3_vdb.scoring``). Of bm25 it is that of the saturated score.
        is_prefetch: the prefetch itself gives this score; otherwise the candidates are scored again.
    """

    vector: str
    weight: float
    is_prefetch: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One query.

    Attributes:
        prefetches: vectors by which candidates are searched; empty if nothing can be found.
        rescores: what is summed; the first has weight 0 if it is only there to know the candidates.
        prefetch_limit: candidates of one prefetch; of that by exact words a share (``words_limit``).
        rescore_limit: a rescore must return *all* candidates; a missing one would count as 0.
    """

    prefetches: tuple[str, ...]
    rescores: tuple[Rescore, ...]
    prefetch_limit: int
    rescore_limit: int


def make_plan(query: M3Embedding, search: Search) -> Plan:
    """The plan of a query that ``check_search`` has passed."""
    weights, source = search.weights, search.source
    assert query.sparse is not None
    assert query.multi_vector is not None
    lexical = len(query.sparse.ids) > 0
    words = weights.bm25 if query.bm25 is not None and len(query.bm25.ids) else 0.0
    prefetches = tuple(vector for vector in SOURCE_VECTORS[source] if vector != SPARSE or lexical)
    if source == "union" and words:
        prefetches += (BM25,)
    # Only this one knows every candidate: the sparse list of a dense search would lose those without a common token.
    primary = SPARSE if source == "sparse" else DENSE
    factors = {
        DENSE: weights.dense,
        SPARSE: weights.sparse if lexical else 0.0,
        MULTI_VECTOR: weights.multi_vector / len(query.multi_vector),
        BM25: words,
    }
    rescores = tuple(
        Rescore(vector, factors[vector], is_prefetch=prefetches == (vector,))
        for vector in sorted(factors, key=lambda vector: vector != primary)
        if factors[vector] or vector == primary
    )
    if search.fusion != "weighted_sum":
        # Ranks of lists: a list without a weight takes no part, and none has to be complete.
        rescores = tuple(rescore for rescore in rescores if rescore.weight)
    limit = search.candidates
    every = sum(words_limit(limit) if vector == BM25 else limit for vector in prefetches)
    return Plan(prefetches, rescores if prefetches else (), limit, every)


def words_limit(candidates: int) -> int:
    """Candidates of the list of exact words."""
    return -(-candidates // WORDS_SHARE)


def read_parts(query: M3Embedding, answers: Mapping[str, Mapping[str, float]]) -> dict[str, Scores]:
    """Candidate → raw scores, from the answers of a batch; 0 for a vector that was not requested.

    Args:
        query: all three parts.
        answers: vector → candidate → the engine's score; of multi_vector a sum over the query's rows, not yet a mean,
            of bm25 not yet saturated.
    """
    assert query.multi_vector is not None
    rows = len(query.multi_vector)
    # Only lists of common tokens may lack a candidate. Another gap is a document that came or went meanwhile.
    complete = [set(scored) for name, scored in answers.items() if name not in MAY_LACK]
    known = set.intersection(*complete) if complete else set[str]().union(*answers.values())
    dense, sparse, multi, words = (answers.get(name, {}) for name in (DENSE, SPARSE, MULTI_VECTOR, BM25))
    return {
        i: Scores(
            dense.get(i, 0.0),
            sparse.get(i, 0.0),
            multi.get(i, 0.0) / rows,
            None if query.bm25 is None else saturated(words.get(i, 0.0)),
        )
        for i in known
    }


def fuse(parts: Mapping[Name, Scores], search: Search) -> dict[Name, float]:
    """One score per candidate from its three raw scores.

    Args:
        parts: candidate → raw scores.
        search: says how.

    Returns:
        Candidate → score. "weighted_sum" is the M3 score. Otherwise every score with a weight is a list of the
        candidates, best first, those of tokens (sparse, bm25) only of candidates that share one: "rrf" adds
        1/(60 + rank), ranks from 1; "dbsf" adds (score − (μ − 3σ)) / 6σ with mean and sample deviation of the list, or
        0.5 where σ is 0. Of equal scores the smaller candidate has the better rank. A candidate that is in no list has
        no score.
    """
    weights = search.weights
    if search.fusion == "weighted_sum":
        return {candidate: hybrid_score(scores, weights) for candidate, scores in parts.items()}
    lists = [
        {candidate: scores.dense for candidate, scores in parts.items() if weights.dense},
        {candidate: scores.sparse for candidate, scores in parts.items() if weights.sparse and scores.sparse > 0},
        {candidate: scores.multi_vector for candidate, scores in parts.items() if weights.multi_vector},
        {candidate: scores.bm25 for candidate, scores in parts.items() if weights.bm25 and scores.bm25},
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


def best_first(totals: Mapping[Name, float], search: Search) -> list[tuple[Name, float]]:
    """The page of hits that a search asks for: by score, of equal scores by id.

    Args:
        totals: candidate → fused score.
        search: which hits to return.
    """
    lowest = search.score_threshold
    kept = [(name, total) for name, total in totals.items() if lowest is None or total >= lowest]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    return kept[search.offset : search.offset + search.limit]


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as an engine gives it.

    Attributes:
        id: the user's.
        score: fused.
        payload: of the point, as far as it was requested.
    """

    id: str
    score: float
    payload: Mapping[str, Any]


def page_window(search: Search, most: int) -> tuple[int, int]:
    """(offset, limit) to request of an engine for a page: one hit before it and one behind it too; limit 0 for none.

    Engines return hits of equal scores in any order, which differs between requests. If no two equal hits lie on both
    sides of an edge, the page holds what it must and is only sorted.

    Args:
        search: which hits to return.
        most: candidates that there may be.
    """
    start = max(search.offset - 1, 0)
    return start, 0 if search.offset >= most else min(search.offset + search.limit + 1, most) - start


def take_page(found: Sequence[Found], search: Search) -> list[Found] | None:
    """The page among the hits of its window, by score, of equal scores by id; None if equal scores cross an edge.

    Then the ids and scores of all candidates are needed, and ``best_first`` takes the page from them.
    """
    first = min(search.offset, 1)
    last = first + search.limit
    if any(0 < edge < len(found) and found[edge - 1].score == found[edge].score for edge in (first, last)):
        return None
    return sorted(found[first:last], key=lambda one: (-one.score, one.id))
