"""What a Milvus server can do, found out by trying: versions promise less than one would hope.

milvus-lite accepts arrays of structs in a schema and drops them; older servers and milvus-lite 2 answer a request for
raw weights with scores pressed through arctan. One document with known scores in a collection of its own tells.
"""

from __future__ import annotations

import math
import uuid
from typing import Any, Final

import numpy as np
from pymilvus import AnnSearchRequest, DataType, MilvusClient, WeightedRanker
from pymilvus.client.embedding_list import EmbeddingList
from pymilvus.exceptions import MilvusException

from m3_vdb.stores._milvus_rows import KEY, ROW
from m3_vdb.stores._milvus_schema import STRUCT_VECTOR, EngineFacts, add_struct, create_indexes, has_struct
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE

PROBE_PREFIX: Final = "m3_probe_"
"""A collection of this name is left behind only by a process that was killed in the middle of a probe."""
_WEIGHTS: Final = (0.5, 1.0, 0.25)
_SCORES: Final = (0.6, 3.0, 1.8)
"""Dense, lexical and MAX_SIM score of the document below. Pressed through arctan they would add up to less than 2."""
_TOLERANCE: Final = 1e-4


def probe(client: MilvusClient, *, timeout: float) -> EngineFacts:
    """Try arrays of structs and raw weights on a collection that is dropped again.

    Raises:
        MilvusException: the server refuses even a plain collection.
    """
    server = client.get_server_version(timeout=timeout)
    for struct in (True, False):
        name = PROBE_PREFIX + uuid.uuid4().hex
        try:
            if _make(client, name, struct=struct, timeout=timeout):
                found = _weighs_raw(client, name, struct=struct, timeout=timeout)
                return EngineFacts(server=str(server), struct_arrays=struct, raw_weights=found)
        finally:
            if client.has_collection(name, timeout=timeout):
                client.drop_collection(name, timeout=timeout)
    raise MilvusException(message="the server keeps no collection with a dense and a sparse vector")


def _make(client: MilvusClient, name: str, *, struct: bool, timeout: float) -> bool:
    """Make the collection and fill it; False if the server cannot search arrays of structs."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=36)
    schema.add_field(DENSE, DataType.FLOAT_VECTOR, dim=2)
    schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
    row: dict[str, Any] = {KEY: "a", DENSE: [0.6, 0.8], SPARSE: {5: 2.0}}
    if struct:
        add_struct(schema, 2, DataType.FLOAT_VECTOR)
        row[MULTI_VECTOR] = [{ROW: [1.0, 0.0]}, {ROW: [0.0, 1.0]}]
    try:
        client.create_collection(name, schema=schema, consistency_level="Strong", timeout=timeout)
        if struct and not has_struct(client.describe_collection(name, timeout=timeout)):
            return False
        create_indexes(client, name, struct=struct, flat=True, terms=False, timeout=timeout)
        client.load_collection(name, timeout=timeout)
        client.insert(name, [row], timeout=timeout)
        return not struct or math.isclose(_struct_score(client, name, timeout), _SCORES[2], abs_tol=_TOLERANCE)
    except MilvusException:
        if not struct:
            raise
        return False


def _rows() -> EmbeddingList:
    return EmbeddingList(np.array([[1.0, 0.0], [0.6, 0.8]], np.float32))


def _struct_score(client: MilvusClient, name: str, timeout: float) -> float:
    params = {"metric_type": "MAX_SIM_IP", "params": {}}
    found = client.search(name, [_rows()], anns_field=STRUCT_VECTOR, limit=1, search_params=params, timeout=timeout)[0]
    return float(found[0]["distance"]) if found else math.nan


def _weighs_raw(client: MilvusClient, name: str, *, struct: bool, timeout: float) -> bool:
    """Whether one hybrid search over all vectors gives the weighted sum of the raw scores."""
    requests = [
        AnnSearchRequest([[1.0, 0.0]], DENSE, {"metric_type": "IP", "params": {}}, 1),
        AnnSearchRequest([{5: 1.5}], SPARSE, {"metric_type": "IP", "params": {}}, 1),
    ]
    if struct:
        requests.append(AnnSearchRequest([_rows()], STRUCT_VECTOR, {"metric_type": "MAX_SIM_IP", "params": {}}, 1))
    weights = _WEIGHTS[: len(requests)]
    expected = sum(weight * score for weight, score in zip(weights, _SCORES, strict=False))
    try:
        ranker = WeightedRanker(*weights, norm_score=False)
        found = client.hybrid_search(name, requests, ranker, limit=1, timeout=timeout)[0]
    except MilvusException:
        return False
    return bool(found) and math.isclose(float(found[0]["distance"]), expected, abs_tol=_TOLERANCE)
