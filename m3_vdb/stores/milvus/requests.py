"""What a Milvus server is asked: searches of one vector, the hybrid search, rows by key.

A query takes two steps. The first, the search for candidates, is one request for many queries. The second scores the
candidates of one query: they are its condition, and Milvus takes one condition for all vectors of a request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from pymilvus import AnnSearchRequest, DataType, WeightedRanker
from pymilvus.client.embedding_list import EmbeddingList
from pymilvus.exceptions import MilvusException

from m3_vdb.scoring import score
from m3_vdb.stores.fusion import Plan, Rescore, fuse, read_parts
from m3_vdb.stores.milvus.client import Calls
from m3_vdb.stores.milvus.engine import Opened
from m3_vdb.stores.milvus.rows import ID, KEY, SENTINEL, STRUCT_VECTOR, read_embedding, vector_fields
from m3_vdb.stores.milvus.wire import Wire
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, Search
from m3_vdb.types import M3Embedding, Scores

_ROWS: Final = 1000
_ROWS_WITH_VECTORS: Final = 64
"""Rows of one answer, of some hundred kilobytes each; see also ``_TOO_LARGE``."""
_TOO_LARGE: Final = ("exceed", "larger than max")
"""Words of Milvus and of gRPC for an answer that is too large."""
_QUERIES: Final = 64
"""Queries of one search, so that an answer with 200 candidates of each stays below a few megabytes."""
_KEYS: Final = 10_000
_ANNS_FIELDS: Final = {DENSE: DENSE, SPARSE: SPARSE, MULTI_VECTOR: STRUCT_VECTOR}


@dataclass(frozen=True, slots=True)
class Requests:
    """The calls on one collection, and the exact scores that are made of their answers.

    The engine fuses where it can: one hybrid search over the candidates adds their raw scores. But a search of token
    rows is approximate in Milvus: it looks only at documents that own one of the rows nearest to each query row, and a
    document that it misses would count as s_mul = 0. So the answer is checked against the dense and the lexical
    scores of the same candidates, and a candidate that a list lacks is scored from its stored vectors.

    Attributes:
        client: where they go,
        wire: and those with whole rows.
        collection: its name.
        opened: what the collection is, and what its engine does itself.
    """

    client: Calls
    wire: Wire
    collection: str
    opened: Opened

    @property
    def terms_as_text(self) -> bool:
        """Whether what filters look at is one text, not a list (``m3_vdb.stores.milvus.filters``)."""
        return self.opened.terms_as_text

    def search(
        self, queries: Sequence[M3Embedding], vector: str, *, limit: int, condition: str = "", ef: int | None = None
    ) -> list[dict[str, tuple[str, float]]]:
        """Key → (user's id, raw score) of each query's best documents; MAX_SIM as a sum over the query's rows."""
        data = [self._data(query, vector) for query in queries]
        sent = [one for one in data if one is not None]
        answers: list[Any] = []
        for start in range(0, len(sent), _QUERIES):
            answers += self.client.search(
                self.collection,
                sent[start : start + _QUERIES],
                anns_field=_ANNS_FIELDS[vector],
                limit=limit,
                filter=condition,
                search_params=self._params(vector, limit, ef),
                output_fields=[ID],
            )
        rest = iter(answers)
        return [
            {} if one is None else {hit[KEY]: (hit["entity"][ID], float(hit["distance"])) for hit in next(rest)}
            for one in data
        ]

    def scores(self, query: M3Embedding, vector: str, keys: Sequence[str]) -> dict[str, float]:
        """Key → raw score of those candidates that the engine returns for one vector."""
        (found,) = self.search([query], vector, limit=len(keys), condition=among(keys))
        return {key: score for key, (_, score) in found.items()}

    def fused(self, query: M3Embedding, rescores: Iterable[Rescore], keys: Sequence[str]) -> dict[str, float]:
        """Key → weighted sum of the raw scores, by one hybrid search over the candidates.

        Milvus takes weights in [0, 1] only, so they are divided by the largest and the scores multiplied by it.
        """
        wanted = [(rescore, data) for rescore in rescores if (data := self._data(query, rescore.vector)) is not None]
        scale = max((rescore.weight for rescore, _ in wanted), default=0.0) or 1.0
        requests = [
            AnnSearchRequest(
                [data],
                _ANNS_FIELDS[rescore.vector],
                self._params(rescore.vector, len(keys), None),
                len(keys),
                expr=among(keys),
            )
            for rescore, data in wanted
        ]
        # norm_score is True by default: scores pressed through arctan, in another order.
        ranker = WeightedRanker(*(rescore.weight / scale for rescore, _ in wanted), norm_score=False)
        hits = self.client.hybrid_search(self.collection, requests, ranker, limit=len(keys), output_fields=[KEY])[0]
        return {hit[KEY]: scale * float(hit["distance"]) for hit in hits}

    def rows(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Key → fields of those rows that exist."""
        found: dict[str, dict[str, Any]] = {}
        size = _ROWS_WITH_VECTORS if DENSE in fields else _ROWS
        for start in range(0, len(keys), size):
            found.update(self._rows(keys[start : start + size], fields))
        return found

    def _rows(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        try:
            return self.matching(among(keys), fields)
        except (MilvusException, grpc.RpcError) as error:
            # A server refuses answers of more than 100 MiB (quotaAndLimits.limits.maxOutputSize), and only it knows
            # how large one would be.
            if len(keys) == 1 or not any(words in str(error) for words in _TOO_LARGE):
                raise
            middle = len(keys) // 2
            return {**self._rows(keys[:middle], fields), **self._rows(keys[middle:], fields)}

    def count(self, condition: str = "") -> int:
        """Rows that meet a condition, exact."""
        found = self.client.query(self.collection, filter=condition, output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def some(self, number: int, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Fields of at most ``number`` rows."""
        return self.wire.query(self.collection, "", fields, limit=number)

    def keys(self, condition: str = "") -> Iterator[list[str]]:
        """All keys that meet a condition, in parts.

        Keys are evenly spread hexadecimal numbers: a part is what begins with some digits.
        """
        number, digits = self.count(), 0
        while number > _KEYS * 16**digits:
            digits += 1
        for prefix in product("0123456789abcdef", repeat=digits):
            part = f'{KEY} like "{"".join(prefix)}%"'
            yield list(self.matching(f"{part} and ({condition})" if condition else part, []))

    def matching(self, condition: str, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Key → fields of all rows that meet a condition."""
        return {row[KEY]: row for row in self.wire.query(self.collection, condition, [KEY, *fields])}

    def _data(self, query: M3Embedding, vector: str) -> list[float] | dict[int, float] | EmbeddingList | None:
        """A query's vector as pymilvus takes it; None if it has no lexical tokens to search by."""
        assert query.dense is not None  # check_search has refused a query that lacks a part
        assert query.sparse is not None
        assert query.multi_vector is not None
        if vector == DENSE:
            return query.dense.tolist()
        if vector == SPARSE:
            return {i: weight for i, weight in query.sparse.as_dict().items() if i not in SENTINEL} or None
        # The numbers must have the type of the field.
        return EmbeddingList(
            query.multi_vector, dtype=DataType.FLOAT16_VECTOR if self.opened.half else DataType.FLOAT_VECTOR
        )

    def _params(self, vector: str, limit: int, ef: int | None) -> dict[str, Any]:
        if vector == MULTI_VECTOR:
            return {"metric_type": "MAX_SIM_IP", "params": {}}
        # A server refuses an ef below the limit.
        tuned = vector == DENSE and not self.opened.capabilities.exact_candidates
        return {"metric_type": "IP", "params": {"ef": max(ef or 0, limit)} if tuned else {}}

    def totals(self, query: M3Embedding, search: Search, plan: Plan, names: Mapping[str, str]) -> dict[str, float]:
        """Id → fused score of every candidate that still exists.

        Args:
            query: all three parts.
            search: says how to fuse.
            plan: of the search.
            names: key → id of the candidates.
        """
        keys, able = list(names), self.opened.capabilities
        wanted = {rescore.vector for rescore in plan.rescores if rescore.weight}
        is_fused_here = search.fusion != "weighted_sum" or not able.raw_weights
        if is_fused_here or (MULTI_VECTOR in wanted and not able.multi_vector_search):
            return _fused(self.parts(query, keys, wanted), names, search)
        totals = self.fused(query, plan.rescores, keys)
        lost = self._lost(query, search, keys, totals)
        sure = {names[key]: total for key, total in totals.items() if key not in lost}
        return {**sure, **_fused(self._stored(query, lost), names, search)}

    def parts(self, query: M3Embedding, keys: Sequence[str], wanted: set[str]) -> dict[str, Scores]:
        """Key → raw scores; a part that is not wanted may be 0."""
        if MULTI_VECTOR in wanted and not self.opened.capabilities.multi_vector_search:
            return self._stored(query, keys)
        # A document without a common token is in no sparse list, rightly; the others must know all.
        lists = {DENSE: dict.fromkeys(keys, 0.0)} | {name: self.scores(query, name, keys) for name in sorted(wanted)}
        found = read_parts(query, lists)
        return {**found, **self._stored(query, set(keys) - found.keys())}

    def _lost(self, query: M3Embedding, search: Search, keys: Sequence[str], totals: dict[str, float]) -> set[str]:
        """Candidates whose fused score may lack a part."""
        weights = search.weights
        if self.opened.capabilities.exact_candidates and not weights.multi_vector:
            return set(keys) - totals.keys()  # full scans: no list can be cut short
        dense = self.scores(query, DENSE, keys) if weights.dense else dict.fromkeys(keys, 0.0)
        sparse = self.scores(query, SPARSE, keys) if weights.sparse and weights.multi_vector else {}

        def lacks(key: str) -> bool:
            if key not in totals or key not in dense:
                return True
            others = weights.dense * dense[key], weights.sparse * sparse.get(key, 0.0)
            rest = totals[key] - sum(others)
            return bool(weights.multi_vector) and abs(rest) <= _NOTHING * (sum(map(abs, others)) + weights.multi_vector)

        return {key for key in keys if lacks(key)}

    def _stored(self, query: M3Embedding, keys: Iterable[str]) -> dict[str, Scores]:
        """Key → raw scores by the definition, from the stored vectors."""
        rows = self.rows(sorted(keys), vector_fields(struct=self.opened.struct))
        return {
            key: score(query, read_embedding(row, self.opened.identity.multi_vector_dim)) for key, row in rows.items()
        }


def among(keys: Sequence[str]) -> str:
    """The condition that keeps these rows. Keys are UUIDs, so JSON's quoting is Milvus' too."""
    return f"{KEY} in {json.dumps(list(keys))}"


_NOTHING: Final = 1e-5
"""What is left of a fused score below this share may be rounding (float32: 1e-7): a list may lack the candidate."""


def _fused(parts: Mapping[str, Scores], names: Mapping[str, str], search: Search) -> dict[str, float]:
    """Id → one score from the raw scores of a key."""
    return fuse({names[key]: scores for key, scores in parts.items()}, search)
