"""Opening a collection of Milvus: make it if it does not exist, check its model, try what the engine can do."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
from pymilvus import AnnSearchRequest, DataType, MilvusClient, WeightedRanker
from pymilvus.client.embedding_list import EmbeddingList
from pymilvus.exceptions import MilvusException

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.errors import CollectionMismatchError, ConfigError, StoreError
from m3_vdb.stores.base import new_identity
from m3_vdb.stores.milvus.client import Calls
from m3_vdb.stores.milvus.rows import (
    DOCUMENT_FIELDS,
    KEY,
    NUMBERS,
    STRUCT_VECTOR,
    TERMS,
    TOKENS,
    EngineFacts,
    add_struct,
    create,
    create_indexes,
    field_types,
    has_struct,
    has_terms_as_text,
    indexes_property,
    is_half,
    is_lite,
    stored_identity,
    stored_indexes,
)
from m3_vdb.stores.milvus.wire import STRUCT_ROW
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType

_OPTIONS: Final = ("storage", "indexes", "shard_number")
OLDEST: Final = (2, 4)
"""First version of Milvus with sparse vectors and hybrid search."""
_LOAD_SECONDS: Final = 600
"""A large collection takes minutes to load into a server's memory."""


@dataclass(frozen=True, slots=True)
class MilvusCapabilities:
    """What the engine behind a collection does itself, found by trying it, not derived from a version.

    Attributes:
        multi_vector_search: the engine searches all three vectors, token rows in an array of structs; otherwise it
            searches dense and sparse vectors, and token rows are kept beside them and scored here.
        fusion: where the M3 score is added up: "server", or "client" from exact raw scores. Without
            ``multi_vector_search``, a search without a weight for the multi-vector is still fused by the server if
            ``raw_weights``. Ranks and normalised scores ("rrf", "dbsf") are always fused here.
        exact_scores: every candidate has its exact score; always True: that is what the store is for.
        exact_candidates: the candidates are chosen by a full scan, not by HNSW.
        raw_weights: the engine's hybrid search adds raw scores.
        struct_arrays: the engine searches arrays of structs by MAX_SIM.
        server: version of the engine.
        client: version of pymilvus.
    """

    multi_vector_search: bool
    fusion: Literal["server", "client"]
    exact_scores: bool
    exact_candidates: bool
    raw_weights: bool
    struct_arrays: bool
    server: str
    client: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A collection that may be used.

    Attributes:
        identity: the model that made it.
        capabilities: what the engine does itself.
        struct: token rows are in an array of structs.
        half: token rows are float16.
        terms_as_text: what filters look at is one text, not a list.
        types: payload fields that were declared with an index → what they hold.
    """

    identity: ModelIdentity
    capabilities: MilvusCapabilities
    struct: bool
    half: bool
    terms_as_text: bool
    types: Mapping[str, IndexType]

    @property
    def is_lite(self) -> bool:
        """Whether this is milvus-lite, which has no limits on sizes."""
        return is_lite(self.capabilities.server)


def open_collection(
    client: Calls,
    collection: str,
    *,
    identity: ModelIdentity | None,
    create: bool,
    exact: bool | None,
    options: CollectionOptions,
    where: str,
) -> Opened:
    """Open a collection, or make it; see ``MilvusStore`` for the arguments and errors."""
    if options.bm25:
        raise ConfigError(
            "bm25=True: Milvus adds weighted scores only, so it cannot add b / (b + c), and milvus-lite counts "
            "documents by segment: keep exact words in a folder or on a Qdrant server"
        )
    server = str(client.get_server_version())
    _check_version(server, where=where)
    if not client.has_collection(collection):
        _create(client, collection, new_identity(identity, create=create, where=where), options)
    found = client.describe_collection(collection)
    stored = open_identity(identity, stored_identity(found), where=where)
    _check_fields(found, where=where)
    facts, struct = _facts(client, collection, found, server), has_struct(found)
    if DENSE not in client.list_indexes(collection):
        # A new collection, or one whose creation was interrupted.
        # Under a condition on 200 keys milvus-lite's HNSW returns a fraction of them, and its full scan all.
        lite = is_lite(facts.server)
        create_indexes(client, collection, struct=struct, flat=lite or bool(exact), terms=not lite)
    flat = client.describe_index(collection, DENSE)["index_type"] == "FLAT"
    if exact and not flat:
        raise ConfigError(
            f"{where} was made with HNSW, and Milvus scans in full only where a collection was made with exact=True: "
            f"leave exact out (a large ef finds better candidates), or ingest into a new collection"
        )
    types = stored_indexes(found)
    if create and not options.indexes.keys() <= types.keys():
        types = {**options.indexes, **types}
        client.alter_collection_properties(collection, indexes_property(types))
    client.load_collection(collection, timeout=max(client.timeout, _LOAD_SECONDS))
    searched = struct and facts.struct_arrays
    able = MilvusCapabilities(
        multi_vector_search=searched,
        fusion="server" if searched and facts.raw_weights else "client",
        exact_scores=True,
        exact_candidates=flat,
        raw_weights=facts.raw_weights,
        struct_arrays=facts.struct_arrays,
        server=facts.server,
        client=version("pymilvus"),
    )
    return Opened(stored, able, struct=struct, half=is_half(found), terms_as_text=has_terms_as_text(found), types=types)


def _create(client: Calls, collection: str, identity: ModelIdentity, options: CollectionOptions) -> None:
    facts = try_engine(client)
    lite = is_lite(facts.server)
    options.require_only(*_OPTIONS[: 2 if lite else 3], where="milvus-lite" if lite else "Milvus")
    if options.storage == "quarter":
        raise ConfigError("storage='quarter': Milvus has 'float32' and 'half'")
    try:
        create(client, collection, identity, facts, options)
    except MilvusException:
        # Two workers may start at once: the other one made it, and opening it checks what it is.
        if not client.has_collection(collection):
            raise


def _check_version(server: str, *, where: str) -> None:
    """Refuse a server without sparse vectors; one that does not say its version is tried.

    Raises:
        StoreError: it is too old.
    """
    numbers = re.match(r"v?(\d+)\.(\d+)", server)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise StoreError(
            f"{where}: the server is Milvus {server.removeprefix('v')}, and m3-vdb needs {needed} or newer (older ones "
            f"have no sparse vectors): upgrade it"
        )


def _facts(client: Calls, collection: str, found: Mapping[str, Any], server: str) -> EngineFacts:
    """What the engine can do: as remembered, or tried again if its version has changed."""
    known = EngineFacts.read(found.get("properties") or {})
    if known is not None and known.server == server:
        return known
    try:
        facts = try_engine(client)
    except MilvusException:
        # Most likely not allowed to make a collection: assume nothing, and score everything here.
        return EngineFacts(server=server, struct_arrays=False, raw_weights=False)
    with suppress(MilvusException):  # not allowed to: then it is tried again next time
        client.alter_collection_properties(collection, facts.as_property())
    return facts


def _check_fields(found: Mapping[str, Any], *, where: str) -> None:
    """Refuse a collection that lacks one of our fields.

    Raises:
        CollectionMismatchError: it does.
    """
    present = field_types(found).keys()
    missing = {KEY, *DOCUMENT_FIELDS, TERMS, NUMBERS, DENSE, SPARSE} - present
    if missing or not {MULTI_VECTOR, TOKENS} & present:
        names = ", ".join(sorted(missing)) or f"{MULTI_VECTOR} or {TOKENS}"
        raise CollectionMismatchError(
            f"{where} lacks the field {names}, so m3-vdb did not make it: choose another name"
        )


TRIAL_PREFIX: Final = "m3_probe_"
"""A collection of this name is left behind only by a process that was killed while it tried the engine."""
_WEIGHTS: Final = (0.5, 1.0, 0.25)
_SCORES: Final = (0.6, 3.0, 1.8)
"""Dense, lexical and MAX_SIM score of the document below. Pressed through arctan they would add up to less than 2."""
_QUERY_ROWS: Final = EmbeddingList(np.array([[1.0, 0.0], [0.6, 0.8]], np.float32))
_TOLERANCE: Final = 1e-4


def try_engine(client: Calls) -> EngineFacts:
    """Try arrays of structs and raw weights on a temporary collection.

    Raises:
        MilvusException: the server refuses even a plain collection.
    """
    server = client.get_server_version()
    for struct in (True, False):
        name = TRIAL_PREFIX + uuid.uuid4().hex
        try:
            if _make(client, name, struct=struct):
                found = _weighs_raw(client, name, struct=struct)
                return EngineFacts(server=str(server), struct_arrays=struct, raw_weights=found)
        finally:
            if client.has_collection(name):
                client.drop_collection(name)
    raise MilvusException(message="the server keeps no collection with a dense and a sparse vector")


def _make(client: Calls, name: str, *, struct: bool) -> bool:
    """Make the collection and fill it; False if the server cannot search arrays of structs."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=36)
    schema.add_field(DENSE, DataType.FLOAT_VECTOR, dim=2)
    schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
    row: dict[str, Any] = {KEY: "a", DENSE: [0.6, 0.8], SPARSE: {5: 2.0}}
    if struct:
        add_struct(schema, 2, DataType.FLOAT_VECTOR)
        row[MULTI_VECTOR] = [{STRUCT_ROW: [1.0, 0.0]}, {STRUCT_ROW: [0.0, 1.0]}]
    try:
        client.create_collection(name, schema=schema, consistency_level="Strong")
        if struct and not has_struct(client.describe_collection(name)):
            return False
        create_indexes(client, name, struct=struct, flat=True, terms=False)
        client.load_collection(name)
        client.insert(name, [row])
        return not struct or math.isclose(_struct_score(client, name), _SCORES[2], abs_tol=_TOLERANCE)
    except MilvusException:
        if not struct:
            raise
        return False


def _struct_score(client: Calls, name: str) -> float:
    params = {"metric_type": "MAX_SIM_IP", "params": {}}
    found = client.search(name, [_QUERY_ROWS], anns_field=STRUCT_VECTOR, limit=1, search_params=params)[0]
    return float(found[0]["distance"]) if found else math.nan


def _weighs_raw(client: Calls, name: str, *, struct: bool) -> bool:
    """Whether one hybrid search over all vectors gives the weighted sum of the raw scores."""
    requests = [
        AnnSearchRequest([[1.0, 0.0]], DENSE, {"metric_type": "IP", "params": {}}, 1),
        AnnSearchRequest([{5: 1.5}], SPARSE, {"metric_type": "IP", "params": {}}, 1),
    ]
    if struct:
        requests.append(AnnSearchRequest([_QUERY_ROWS], STRUCT_VECTOR, {"metric_type": "MAX_SIM_IP", "params": {}}, 1))
    weights = _WEIGHTS[: len(requests)]
    expected = sum(weight * score for weight, score in zip(weights, _SCORES, strict=False))
    try:
        ranker = WeightedRanker(*weights, norm_score=False)
        found = client.hybrid_search(name, requests, ranker, limit=1)[0]
    except MilvusException:
        return False
    return bool(found) and math.isclose(float(found[0]["distance"]), expected, abs_tol=_TOLERANCE)
