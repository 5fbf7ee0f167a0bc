"""The collection as Milvus knows it: fields, indexes, and what is kept with it about the model and the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pymilvus import CollectionSchema, DataType, MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores._milvus_rows import (
    ID,
    KEY,
    MAX_ELEMENTS,
    MAX_TEXT_BYTES,
    NUMBERS,
    PAYLOAD,
    ROW,
    TERMS,
    TOKENS,
)
from m3_vdb.stores.options import CollectionOptions, IndexType
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE

IDENTITY_PROPERTY: Final = "m3"
ENGINE_PROPERTY: Final = "m3.engine"
HALF_PROPERTY: Final = "m3.half"
_INDEXES_PROPERTY: Final = "m3.indexes"
STRUCT_VECTOR: Final = f"{MULTI_VECTOR}[{ROW}]"
"""Path of the token vectors in the array of structs."""
_HNSW: Final = {"M": 16, "efConstruction": 200}
_LITE: Final = "milvus_lite"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a probe has found out about a server; remembered with the collection until the server's version changes.

    Attributes:
        server: its version, in its own words.
        struct_arrays: it keeps arrays of structs and searches them by MAX_SIM, as a sum over the query's rows.
        raw_weights: a hybrid search adds raw scores (``norm_score=False``), exactly.
    """

    server: str
    struct_arrays: bool
    raw_weights: bool

    @property
    def is_lite(self) -> bool:
        """Whether this is milvus-lite, which has no limits on sizes and loses candidates with HNSW."""
        return self.server.startswith(_LITE)

    @classmethod
    def read(cls, properties: Mapping[str, Any]) -> EngineFacts | None:
        """What a collection's properties say; None if they say nothing."""
        try:
            return cls(**json.loads(properties[ENGINE_PROPERTY]))
        except (KeyError, TypeError, ValueError):
            return None

    def as_property(self) -> dict[str, str]:
        """The inverse of ``read``."""
        return {ENGINE_PROPERTY: json.dumps(asdict(self))}


def create(
    client: MilvusClient,
    collection: str,
    identity: ModelIdentity,
    facts: EngineFacts,
    options: CollectionOptions,
    *,
    timeout: float,
) -> None:
    """Make a collection, without indexes.

    The identity is written twice: milvus-lite keeps properties and drops the description, and a server that would drop
    unknown properties keeps the description.
    """
    metadata, half = json.dumps(identity.as_metadata()), options.storage == "half"
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=metadata)
    text = MAX_TEXT_BYTES if not facts.is_lite else 2**30
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=36)
    for name in (ID, "title", "text"):
        schema.add_field(name, DataType.VARCHAR, max_length=text)
    schema.add_field(PAYLOAD, DataType.JSON)
    schema.add_field(NUMBERS, DataType.JSON)
    schema.add_field(TERMS, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=16, max_capacity=MAX_ELEMENTS)
    schema.add_field(DENSE, DataType.FLOAT_VECTOR, dim=identity.dense_dim)
    schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
    if facts.struct_arrays:
        add_struct(schema, identity.multi_vector_dim, DataType.FLOAT16_VECTOR if half else DataType.FLOAT_VECTOR)
    else:
        schema.add_field(
            TOKENS, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=MAX_TEXT_BYTES, max_capacity=MAX_ELEMENTS
        )
    client.create_collection(
        collection,
        schema=schema,
        properties={
            IDENTITY_PROPERTY: metadata,
            HALF_PROPERTY: str(half),
            **facts.as_property(),
            **indexes_property(options.indexes),
        },
        num_shards=options.shard_number or 1,
        consistency_level="Strong",  # a query sees every upsert that was answered before it
        timeout=timeout,
    )


def add_struct(schema: CollectionSchema, width: int, kind: DataType) -> None:
    """Add the array of structs that holds the token rows."""
    struct = MilvusClient.create_struct_field_schema()
    struct.add_field(ROW, kind, dim=width)
    schema.add_field(
        MULTI_VECTOR,
        DataType.ARRAY,
        element_type=DataType.STRUCT,
        struct_schema=struct,
        max_capacity=MAX_ELEMENTS,
    )


def create_indexes(
    client: MilvusClient, collection: str, *, struct: bool, flat: bool, terms: bool, timeout: float
) -> None:
    """Index a collection. IP everywhere: the vectors are unit already, and a raw sum must not mix metrics.

    Args:
        client: a connected client.
        collection: its name.
        struct: it has the array of structs.
        flat: search the dense vector by a full scan.
        terms: it has filters, and is on a server: milvus-lite has no index for them.
        timeout: seconds that a request may take.
    """
    indexes = MilvusClient.prepare_index_params()
    if flat:
        indexes.add_index(DENSE, index_type="FLAT", metric_type="IP")
    else:
        indexes.add_index(DENSE, index_type="HNSW", metric_type="IP", params=_HNSW)
    indexes.add_index(SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")  # no drop_ratio: it changes scores
    if struct:
        indexes.add_index(STRUCT_VECTOR, index_type="HNSW", metric_type="MAX_SIM_IP", params=_HNSW)
    if terms:
        indexes.add_index(TERMS, index_type="INVERTED")
    # Not waited for, which in pymilvus takes half a second an index: the collection is empty.
    client.create_index(collection, indexes, timeout=timeout, sync=False)


def field_types(description: Mapping[str, Any]) -> dict[str, Any]:
    """Name → what ``describe_collection`` says of the field."""
    return {field["name"]: field for field in description["fields"]}


def indexes_property(indexes: Mapping[str, IndexType]) -> dict[str, str]:
    """The fields that were declared with an index; Milvus makes none for them, but what they hold is remembered."""
    return {_INDEXES_PROPERTY: json.dumps(dict(indexes))}


def stored_indexes(description: Mapping[str, Any]) -> dict[str, IndexType]:
    """The inverse of ``indexes_property``; empty for a collection that remembers none."""
    text = description.get("properties", {}).get(_INDEXES_PROPERTY)
    return dict(json.loads(text)) if text else {}


def is_half(description: Mapping[str, Any]) -> bool:
    """Whether new token rows become float16."""
    if has_struct(description):
        (row,) = field_types(description)[MULTI_VECTOR]["struct_fields"]
        return bool(row["type"] == DataType.FLOAT16_VECTOR)
    return bool(description.get("properties", {}).get(HALF_PROPERTY) == str(True))


def has_struct(description: Mapping[str, Any]) -> bool:
    """Whether the collection really has the array of structs: milvus-lite accepts it in a schema and drops it."""
    field = field_types(description).get(MULTI_VECTOR)
    return field is not None and field.get("element_type") == DataType.STRUCT


def stored_identity(description: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the collection says about its model; None if it says nothing."""
    for text in (description.get("properties", {}).get(IDENTITY_PROPERTY), description.get("description")):
        try:
            metadata = json.loads(text or "")
        except ValueError:
            continue
        if isinstance(metadata, dict):
            return metadata
    return None
