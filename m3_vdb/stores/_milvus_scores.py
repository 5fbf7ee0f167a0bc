"""Exact scores of the candidates, with a guard against lists that an engine cut short.

The engine fuses where it can: one hybrid search over the candidates adds their raw scores. But a search of token rows
is approximate in Milvus: it looks only at documents that own one of the rows nearest to each query row, and a document
that it leaves out would count as s_mul = 0. So what came back is checked against the dense and the lexical scores of
the same candidates, and a candidate that a list lacks is scored from its stored vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from m3_vdb.scoring import score
from m3_vdb.stores._fuse import fuse
from m3_vdb.stores._milvus_requests import Requests
from m3_vdb.stores._milvus_rows import read_embedding, vector_fields
from m3_vdb.stores._plan import Plan
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.types import M3Embedding, Scores

_NOTHING: Final = 1e-5
"""What is left of a fused score below this share may be rounding (float32: 1e-7): a list may lack the candidate."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the candidates of a query.

    Attributes:
        requests: the collection.
        struct: token rows are in an array of structs.
        scores_rows: the engine scores token rows itself.
        raw: the engine's hybrid search adds raw scores.
        width: numbers of a token row.
    """

    requests: Requests
    struct: bool
    scores_rows: bool
    raw: bool
    width: int

    def totals(self, query: M3Embedding, search: Search, plan: Plan, names: Mapping[str, str]) -> dict[str, float]:
        """Id → fused score of every candidate that still exists.

        Args:
            query: all three parts.
            search: says how to fuse.
            plan: of the search.
            names: key → id of the candidates.
        """
        keys = list(names)
        wanted = {branch.vector for branch in plan.branches if branch.weight}
        if not self.raw or search.fusion != "exact" or (MULTI_VECTOR in wanted and not self.scores_rows):
            return _fused(self.parts(query, keys, wanted), names, search)
        totals = self.requests.fused(query, plan.branches, keys)
        lost = self._lost(query, search, keys, totals)
        sure = {names[key]: total for key, total in totals.items() if key not in lost}
        return {**sure, **_fused(self._stored(query, lost), names, search)}

    def parts(self, query: M3Embedding, keys: Sequence[str], wanted: set[str]) -> dict[str, Scores]:
        """Key → raw scores; a part that is not wanted may be 0."""
        if MULTI_VECTOR in wanted and not self.scores_rows:
            return self._stored(query, keys)
        lists = {vector: self.requests.scores(query, vector, keys) for vector in sorted(wanted)}
        # A document without a common token is in no sparse list, rightly; the others must know all.
        complete = [lists[vector] for vector in (DENSE, MULTI_VECTOR) if vector in wanted]
        lost = {key for key in keys if not all(key in scored for scored in complete)}
        assert query.multi_vector is not None
        rows = len(query.multi_vector)
        dense, sparse, multi = (lists.get(vector, {}) for vector in (DENSE, SPARSE, MULTI_VECTOR))
        found = {
            key: Scores(dense.get(key, 0.0), sparse.get(key, 0.0), multi.get(key, 0.0) / rows)
            for key in keys
            if key not in lost
        }
        return {**found, **self._stored(query, lost)}

    def _lost(self, query: M3Embedding, search: Search, keys: Sequence[str], totals: dict[str, float]) -> set[str]:
        """Candidates whose fused score may lack a part."""
        weights = search.weights
        if self.requests.flat and not weights.multi_vector:
            return set(keys) - totals.keys()  # full scans: no list can be cut short
        dense = self.requests.scores(query, DENSE, keys) if weights.dense else dict.fromkeys(keys, 0.0)
        sparse = self.requests.scores(query, SPARSE, keys) if weights.sparse and weights.multi_vector else {}

        def lacks(key: str) -> bool:
            if key not in totals or key not in dense:
                return True
            others = weights.dense * dense[key], weights.sparse * sparse.get(key, 0.0)
            rest = totals[key] - sum(others)
            return bool(weights.multi_vector) and abs(rest) <= _NOTHING * (sum(map(abs, others)) + weights.multi_vector)

        return {key for key in keys if lacks(key)}

    def _stored(self, query: M3Embedding, keys: Iterable[str]) -> dict[str, Scores]:
        """Key → raw scores by the definition, from the stored vectors."""
        rows = self.requests.rows(sorted(keys), vector_fields(struct=self.struct))
        return {key: score(query, read_embedding(row, self.width)) for key, row in rows.items()}


def _fused(parts: Mapping[str, Scores], names: Mapping[str, str], search: Search) -> dict[str, float]:
    """Id → one score from the raw scores of a key."""
    return fuse({names[key]: scores for key, scores in parts.items()}, search)
