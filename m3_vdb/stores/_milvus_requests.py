"""What a Milvus server is asked: searches of one vector, the hybrid search, rows by key.

Every request is a plain call of pymilvus with a timeout; without one, pymilvus tries 75 times to reach a dead server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from pymilvus import AnnSearchRequest, DataType, MilvusClient, WeightedRanker
from pymilvus.client.embedding_list import EmbeddingList
from pymilvus.exceptions import MilvusException

from m3_vdb.stores._milvus_rows import ID, KEY, SENTINEL
from m3_vdb.stores._milvus_schema import STRUCT_VECTOR
from m3_vdb.stores._plan import Branch
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.types import M3Embedding

_ROWS: Final = 1000
_ROWS_WITH_VECTORS: Final = 64
"""Rows of one answer, of some hundred kilobytes each; see also ``_TOO_LARGE``."""
_TOO_LARGE: Final = ("exceed", "larger than max")
"""Words of Milvus and of gRPC for an answer that is too large."""
_KEYS: Final = 10_000
_ANNS_FIELDS: Final = {DENSE: DENSE, SPARSE: SPARSE, MULTI_VECTOR: STRUCT_VECTOR}


@dataclass(frozen=True, slots=True)
class Requests:
    """The calls on one collection.

    Attributes:
        client: where they go.
        collection: its name.
        flat: the dense vector is searched by a full scan; ``ef`` means nothing.
        half: the array of structs holds float16.
        timeout: seconds that a call may take.
    """

    client: MilvusClient
    collection: str
    flat: bool
    half: bool
    timeout: float

    def search(
        self, query: M3Embedding, vector: str, *, limit: int, condition: str = "", ef: int | None = None
    ) -> dict[str, tuple[str, float]]:
        """Key → (user's id, raw score) of the best documents, best first; MAX_SIM as a sum over the query's rows."""
        data = self._data(query, vector)
        if data is None:
            return {}
        hits = self.client.search(
            self.collection,
            [data],
            anns_field=_ANNS_FIELDS[vector],
            limit=limit,
            filter=condition,
            search_params=self._params(vector, limit, ef),
            output_fields=[ID],
            timeout=self.timeout,
        )[0]
        return {hit[KEY]: (hit["entity"][ID], float(hit["distance"])) for hit in hits}

    def scores(self, query: M3Embedding, vector: str, keys: Sequence[str]) -> dict[str, float]:
        """Key → raw score of those candidates that the engine returns for one vector."""
        found = self.search(query, vector, limit=len(keys), condition=among(keys))
        return {key: score for key, (_, score) in found.items()}

    def fused(self, query: M3Embedding, branches: Iterable[Branch], keys: Sequence[str]) -> dict[str, float]:
        """Key → weighted sum of the raw scores, by one hybrid search over the candidates.

        Milvus takes weights in [0, 1] only, so they are divided by the largest and the scores multiplied by it.
        """
        wanted = [(branch, data) for branch in branches if (data := self._data(query, branch.vector)) is not None]
        scale = max((branch.weight for branch, _ in wanted), default=0.0) or 1.0
        requests = [
            AnnSearchRequest(
                [data],
                _ANNS_FIELDS[branch.vector],
                self._params(branch.vector, len(keys), None),
                len(keys),
                expr=among(keys),
            )
            for branch, data in wanted
        ]
        # norm_score is True by default: scores pressed through arctan, in another order.
        ranker = WeightedRanker(*(branch.weight / scale for branch, _ in wanted), norm_score=False)
        hits = self.client.hybrid_search(
            self.collection, requests, ranker, limit=len(keys), output_fields=[KEY], timeout=self.timeout
        )[0]
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

    def keys(self) -> Iterator[list[str]]:
        """All keys, in parts. They are evenly spread hexadecimal numbers: a part is what begins with some digits."""
        counted = self.client.query(self.collection, output_fields=["count(*)"], timeout=self.timeout)
        digits = 0
        while int(counted[0]["count(*)"]) > _KEYS * 16**digits:
            digits += 1
        for prefix in product("0123456789abcdef", repeat=digits):
            yield list(self.matching(f'{KEY} like "{"".join(prefix)}%"', []))

    def matching(self, condition: str, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Key → fields of all rows that meet a condition."""
        rows = self.client.query(self.collection, filter=condition, output_fields=[KEY, *fields], timeout=self.timeout)
        return {row[KEY]: dict(row) for row in rows}

    def _data(self, query: M3Embedding, vector: str) -> list[float] | dict[int, float] | EmbeddingList | None:
        """A query's vector as pymilvus wants it; None if it has no lexical tokens to search by."""
        assert query.dense is not None  # check_search has refused a query that lacks a part
        assert query.sparse is not None
        assert query.multi_vector is not None
        if vector == DENSE:
            return query.dense.tolist()
        if vector == SPARSE:
            return {i: weight for i, weight in query.sparse.as_dict().items() if i not in SENTINEL} or None
        # The numbers must have the type of the field.
        return EmbeddingList(query.multi_vector, dtype=DataType.FLOAT16_VECTOR if self.half else DataType.FLOAT_VECTOR)

    def _params(self, vector: str, limit: int, ef: int | None) -> dict[str, Any]:
        if vector == MULTI_VECTOR:
            return {"metric_type": "MAX_SIM_IP", "params": {}}
        # A server refuses an ef below the limit.
        tuned = vector == DENSE and not self.flat
        return {"metric_type": "IP", "params": {"ef": max(ef or 0, limit)} if tuned else {}}


def among(keys: Sequence[str]) -> str:
    """The condition that keeps these rows. Keys are UUIDs, so JSON's quoting is Milvus' too."""
    return f"{KEY} in {json.dumps(list(keys))}"
