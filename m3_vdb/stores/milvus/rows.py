"""A document as a row of a Milvus collection, and back; the collection's schema and properties.

A row has the user's ``id``, ``title``, ``text`` and ``payload`` in fields of their own, so no name in a payload can
collide with one of ours. The primary key is a UUID made from the id, as in Qdrant: ids may be of any length. Our marks
(``m3_vdb.marks``) are kept among the hashed names of ``numbers``, an object that collections of every version have.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymilvus import CollectionSchema, DataType, MilvusClient

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.marks import MARKS_FIELD, read_document
from m3_vdb.stores.milvus.client import Calls
from m3_vdb.stores.milvus.wire import STRUCT_ROW, Row, sparse_pairs
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType
from m3_vdb.stores.points import Point
from m3_vdb.types import Document, FloatArray, M3Embedding, SparseVector

KEY: Final = "key"
ID: Final = "id"
PAYLOAD: Final = "payload"
TERMS: Final = "terms"
NUMBERS: Final = "numbers"
DOCUMENT_FIELDS: Final = (ID, "title", "text", PAYLOAD, NUMBERS)
TOKENS: Final = "tokens"
"""Token rows as base64 text, on engines that have no arrays of structs."""
MAX_TEXT_BYTES: Final = 65_535
"""A VARCHAR on a Milvus server, in bytes of UTF-8; the same for a JSON field (65,536)."""
MAX_ELEMENTS: Final = 4096
"""Elements of an array on a Milvus server: token rows of one text."""
_CHUNK: Final = 65_532
"""Base64 characters of one element of ``tokens``: a multiple of 4 below the limit of a VARCHAR."""
SENTINEL: Final = {0: 1e-12}
"""The sparse vector of a text without tokens, because Milvus takes no empty one. Id 0 is ``<s>``, which never has a
lexical weight in M3; queries leave it out, so it is never matched."""
_NO_TOKENS: Final = sparse_pairs(np.array([*SENTINEL]), np.array([*SENTINEL.values()]))


def to_row(point: Point, terms: Sequence[str] | str, numbers: Mapping[str, Any], *, struct: bool, half: bool) -> Row:
    """A checked document as a row.

    Args:
        point: the document with its vectors.
        terms: what filters look at, of its payload: a list, or a text.
        numbers: the same.
        struct: the token rows go into an array of structs, not into ``tokens``.
        half: the token rows become float16.
    """
    rows = point.multi_vector.astype(np.float16) if half else point.multi_vector
    sparse = sparse_pairs(point.sparse.ids, point.sparse.weights) if point.sparse.ids.size else _NO_TOKENS
    return {
        KEY: point.id,
        ID: point.payload["id"],
        "title": point.payload["title"],
        "text": point.payload["text"],
        PAYLOAD: _json(point.payload["payload"]),
        TERMS: terms,
        NUMBERS: _json({**numbers, MARKS_FIELD: point.payload[MARKS_FIELD]}),
        DENSE: point.dense,
        SPARSE: sparse,
        **({MULTI_VECTOR: rows} if struct else {TOKENS: _pack(rows)}),
    }


def _json(value: Any) -> bytes:  # noqa: ANN401 - a JSON value
    return json.dumps(value, ensure_ascii=False).encode()


def _pack(rows: NDArray[np.floating[Any]]) -> list[str]:
    """Token rows as base64 text in pieces that a VARCHAR holds; the first piece says the type of the numbers."""
    text = base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode("ascii")
    return [rows.dtype.str, *(text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))]


def _unpack(pieces: Sequence[str], width: int) -> FloatArray:
    numbers = np.frombuffer(base64.b64decode("".join(pieces[1:])), dtype=np.dtype(pieces[0]))
    return numbers.reshape(-1, width).astype(np.float32, copy=False)


def read_row(row: Row) -> Document:
    """The document of a row.

    Raises:
        KeyError: the row was not written by m3-vdb.
    """
    marks = row[NUMBERS].get(MARKS_FIELD)
    return read_document(row[ID], text=row["text"], title=row["title"], payload=row[PAYLOAD], marks=marks)


def vector_fields(*, struct: bool) -> tuple[str, str, str]:
    """Where a row keeps its three vectors."""
    return (DENSE, SPARSE, MULTI_VECTOR if struct else TOKENS)


def read_embedding(row: Row, width: int) -> M3Embedding:
    """The three vectors of a row; ``width`` is that of a token row."""
    pairs = np.sort(row[SPARSE], order="id")
    pairs = pairs[(pairs["id"] > 0) | (pairs["weight"] > 2 * SENTINEL[0])]
    sparse = SparseVector(pairs["id"].astype(np.int32), np.ascontiguousarray(pairs["weight"]))
    rows = _unpack(row[TOKENS], width) if TOKENS in row else row[MULTI_VECTOR].reshape(-1, width)
    return M3Embedding(row[DENSE], sparse, rows)


def row_bytes(row: Row) -> int:
    """Upper bound of a row's bytes in a request."""
    arrays = sum(value.nbytes + 16 for value in row.values() if isinstance(value, np.ndarray))
    terms = [row[TERMS]] if isinstance(row[TERMS], str) else row[TERMS]
    texts = (row[KEY], row[ID], row["title"], row["text"], *terms, *row.get(TOKENS, ()))
    return int(arrays + sum(len(text.encode()) + 12 for text in texts) + len(row[PAYLOAD]) + len(row[NUMBERS]) + 256)


IDENTITY_PROPERTY: Final = "m3"
ENGINE_PROPERTY: Final = "m3.engine"
HALF_PROPERTY: Final = "m3.half"
_INDEXES_PROPERTY: Final = "m3.indexes"
STRUCT_VECTOR: Final = f"{MULTI_VECTOR}[{STRUCT_ROW}]"
"""Path of the token vectors in the array of structs."""
_HNSW: Final = {"M": 16, "efConstruction": 200}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What was found by trying a server; kept with the collection until the server's version changes.

    Attributes:
        server: its version, as it gives it.
        struct_arrays: it keeps arrays of structs and searches them by MAX_SIM, as a sum over the query's rows.
        raw_weights: a hybrid search adds raw scores (``norm_score=False``), exactly.
    """

    server: str
    struct_arrays: bool
    raw_weights: bool

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


def is_lite(server: str) -> bool:
    """Whether this version is milvus-lite's, which has no limits on sizes and loses candidates with HNSW."""
    return server.startswith("milvus_lite")


def create(
    client: Calls, collection: str, identity: ModelIdentity, facts: EngineFacts, options: CollectionOptions
) -> None:
    """Make a collection, without indexes.

    The identity is written twice: milvus-lite keeps properties and drops the description, and a server that would drop
    unknown properties keeps the description.
    """
    metadata, half = json.dumps(identity.as_metadata()), options.storage == "half"
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=metadata)
    text = 2**30 if is_lite(facts.server) else MAX_TEXT_BYTES
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=36)
    for name in (ID, "title", "text"):
        schema.add_field(name, DataType.VARCHAR, max_length=text)
    schema.add_field(PAYLOAD, DataType.JSON)
    schema.add_field(NUMBERS, DataType.JSON)
    if is_lite(facts.server):
        schema.add_field(TERMS, DataType.VARCHAR, max_length=text)
    else:
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
    )


def add_struct(schema: CollectionSchema, width: int, kind: DataType) -> None:
    """Add the array of structs that holds the token rows."""
    struct = MilvusClient.create_struct_field_schema()
    struct.add_field(STRUCT_ROW, kind, dim=width)
    schema.add_field(
        MULTI_VECTOR,
        DataType.ARRAY,
        element_type=DataType.STRUCT,
        struct_schema=struct,
        max_capacity=MAX_ELEMENTS,
    )


def create_indexes(client: Calls, collection: str, *, struct: bool, flat: bool, terms: bool) -> None:
    """Index a collection. IP everywhere: the vectors are unit already, and a raw sum must not mix metrics.

    Args:
        client: makes the requests.
        collection: its name.
        struct: it has the array of structs.
        flat: search the dense vector by a full scan.
        terms: it has filters, and is on a server: milvus-lite has no index for them.
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
    # Not waited for, which in pymilvus takes half a second per index: the collection is empty.
    client.create_index(collection, indexes, sync=False)


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


def has_terms_as_text(description: Mapping[str, Any]) -> bool:
    """Whether what filters look at is one text; a list on servers, and in files of version 0.1."""
    return bool(field_types(description)[TERMS]["type"] == DataType.VARCHAR)


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
