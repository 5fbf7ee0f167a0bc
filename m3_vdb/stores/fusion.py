"""The fused request as a plan that every engine carries out in its own words.

*Leaves* search the whole collection; what they find are the candidates. *Branches* score all candidates by one vector
each, exactly; the fused score is the weighted sum of the branches. The first branch knows every candidate, so a
candidate that another branch lacks (no common token) counts as 0 there, which is its true score.

The engine adds the branches in one request. Where it may not add, and where ranks are added (of equal scores an engine
ranks any first), the branches are the requests of one batch, and they are added here, in float64, by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np

from m3_vdb.scoring import hybrid_score
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, RRF_K, SPARSE, Search, Source
from m3_vdb.types import M3Embedding, Scores

LEAVES: Final[dict[Source, tuple[str, ...]]] = {"dense": (DENSE,), "sparse": (SPARSE,), "union": (DENSE, SPARSE)}


@dataclass(frozen=True, slots=True)
class Branch:
    """Candidates scored by one vector.

    Attributes:
        vector: its name.
        weight: factor of the engine's score in the sum. MAX_SIM is a *sum* over the N rows of the query and M3 defines
            a mean, so multi_vector has w3 / N (``m3_vdb.scoring``).
        is_leaf: the leaf itself gives this score; otherwise the candidates of all leaves are scored again.
    """

    vector: str
    weight: float
    is_leaf: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One query.

    Attributes:
        leaves: vectors that are searched; empty if nothing can be found.
        branches: what is summed; the first has weight 0 if it is only there to know the candidates.
        leaf_limit: candidates of a leaf.
        branch_limit: a branch must return *all* candidates; one that it cut off would count as 0.
    """

    leaves: tuple[str, ...]
    branches: tuple[Branch, ...]
    leaf_limit: int
    branch_limit: int


def make_plan(query: M3Embedding, search: Search) -> Plan:
    """The plan of a query that ``check_search`` has passed."""
    weights, source = search.weights, search.source
    assert query.sparse is not None
    assert query.multi_vector is not None
    lexical = len(query.sparse.ids) > 0
    leaves = tuple(vector for vector in LEAVES[source] if vector != SPARSE or lexical)
    # Only these know every candidate: the sparse branch of a dense search would lose those without a common token.
    knows_all = SPARSE if source == "sparse" else DENSE
    factors = {
        DENSE: weights.dense,
        SPARSE: weights.sparse if lexical else 0.0,
        MULTI_VECTOR: weights.multi_vector / len(query.multi_vector),
    }
    order = sorted(factors, key=lambda vector: vector != knows_all)
    branches = tuple(
        Branch(vector, factors[vector], is_leaf=leaves == (vector,))
        for vector in order
        if factors[vector] or vector == knows_all
    )
    if search.fusion != "exact":
        # Ranks of lists: a list without a weight takes no part, and nothing has to be complete.
        branches = tuple(branch for branch in branches if branch.weight)
    return Plan(leaves, branches if leaves else (), search.candidates, search.candidates * len(leaves))


def vectors_to_score(query: M3Embedding, plan: Plan, *, explain: bool) -> tuple[str, ...]:
    """The vectors whose scores a batch must ask for: those with a weight, or all of them to explain a score.

    The lexical one is left out where nothing can be found by it: every score is 0 then.
    """
    assert query.sparse is not None
    wanted = [branch.vector for branch in plan.branches]
    if explain:
        wanted += [name for name in (DENSE, SPARSE, MULTI_VECTOR) if name not in wanted]
    return tuple(name for name in wanted if name != SPARSE or len(query.sparse.ids))


def read_parts(query: M3Embedding, answers: Mapping[str, Mapping[str, float]]) -> dict[str, Scores]:
    """Candidate → raw scores, from the answers of a batch; 0 for a vector that was not asked for.

    Args:
        query: all three parts.
        answers: vector → candidate → the engine's score; of multi_vector a sum over the query's rows, not yet a mean.
    """
    assert query.multi_vector is not None
    rows = len(query.multi_vector)
    # Only the lexical answer may lack a candidate. Another gap is a document that came or went between two searches.
    known = set.intersection(*(set(scored) for name, scored in answers.items() if name != SPARSE or len(answers) == 1))
    dense, sparse, multi = (answers.get(name, {}) for name in (DENSE, SPARSE, MULTI_VECTOR))
    return {i: Scores(dense.get(i, 0.0), sparse.get(i, 0.0), multi.get(i, 0.0) / rows) for i in known}


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


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as an engine gives it.

    Attributes:
        id: the user's.
        score: fused.
        payload: of the point, with as much as was asked for.
        parts: raw scores, if they were asked for.
    """

    id: str
    score: float
    payload: Mapping[str, Any]
    parts: Scores | None = None


def read_page(
    search: Search,
    most: int,
    ask: Callable[[int, int, bool], Sequence[Found]],
    payloads: Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]] | None,
) -> list[Found]:
    """The hits of a page, best first.

    Args:
        search: which hits to return.
        most: candidates that there may be.
        ask: gives hits by (offset, limit, whether their ids will do), best first.
        payloads: gives the payloads of ids that still exist; None if ids are all that is wanted.
    """
    start, stop = max(search.offset - 1, 0), min(search.offset + search.limit + 1, most)
    if search.offset >= most:
        return []
    found = ask(start, stop - start, payloads is None)
    first, last = search.offset - start, search.offset - start + search.limit
    if not _cuts_tie(found, first) and not _cuts_tie(found, last):
        return _sorted(found[first:last])
    page = _sorted(ask(0, most, True))[search.offset : search.offset + search.limit]
    if payloads is None:
        return page
    kept = payloads([one.id for one in page])
    return [replace(one, payload=kept[one.id]) for one in page if one.id in kept]


def _cuts_tie(found: Sequence[Found], at: int) -> bool:
    return 0 < at < len(found) and found[at - 1].score == found[at].score


def _sorted(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (-one.score, one.id))
