"""The fused request as a plan that every engine carries out in its own words.

*Leaves* search the whole collection; what they find are the candidates. *Branches* score all candidates by one vector
each, exactly; the fused score is the weighted sum of the branches. The first branch knows every candidate, so a
candidate that another branch lacks (no common token) counts as 0 there, which is its true score.

The engine adds the branches in one request. Where it may not add, and where ranks are added (of equal scores an engine
ranks any first), the branches are the requests of one batch, and they are added here, in float64, by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE, Search, Source
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
