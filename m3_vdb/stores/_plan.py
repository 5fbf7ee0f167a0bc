"""The fused request as a plan that every engine carries out in its own words.

*Leaves* search the whole collection; what they find are the candidates. *Branches* score all candidates by one vector
each, exactly; the fused score is the weighted sum of the branches. The first branch knows every candidate, so a
candidate that another branch lacks (no common token) counts as 0 there, which is its true score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE, Search, Source
from m3_vdb.types import M3Embedding

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
