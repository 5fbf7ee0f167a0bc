"""What stores write and read: points, their ids and payload, batches by bytes.

A point's payload is ``{"id": …, "title": …, "text": …, "payload": {…}, "m3": {…}}``. The user's fields live under
``payload`` alone, so no name of theirs can collide with one of ours, and a filter on ``lang`` is a condition on
``payload."lang"``. ``m3`` has our own marks (``m3_vdb.marks``).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from m3_vdb.bm25 import bm25_document
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.inputs import DocumentLike
from m3_vdb.marks import MARKS_FIELD, read_document, to_json
from m3_vdb.stores.checks import check_documents, check_types
from m3_vdb.stores.options import BM25, DENSE, MULTI_VECTOR, SPARSE, IndexType
from m3_vdb.stores.vectors import check_embeddings
from m3_vdb.types import Document, FloatArray, M3Embedding, M3Embeddings, SparseVector

Item = TypeVar("Item")
_NAMESPACE: Final = uuid.UUID("a4a0f3c1-94a1-5a57-8f1c-6d3f5c0e7d10")
"""Fixed for ever: another namespace would give every stored document another point id."""
ID_FIELD: Final = "id"
"""Where a point's payload keeps the user's id."""
TEXT_FIELD: Final = "text"
"""Where it keeps the text."""
_STEP: Final = re.compile(r'\."([^"]*)"|\.([^."]+)')
_JSON_BYTES_PER_FLOAT: Final = 16
"""A float32 with the nine digits that it may need, "-1.23456789e-10,"."""
_PACKED_BYTES_PER_FLOAT: Final = 5
"""A float32 and a little."""
_NAMES_BYTES: Final = 256
"""Of the id and the names of vectors and fields."""


@dataclass(frozen=True, slots=True)
class Point:
    """One document, checked and ready to be written.

    Attributes:
        index: its place among the documents that were given.
        id: UUID of the point, made from the user's id.
        payload: what is stored beside the vectors.
        dense: float32 [d].
        sparse: lexical weights.
        multi_vector: float32 [rows, m].
        payload_bytes: of the payload as JSON.
        bm25: exact words; None in a collection without them.
    """

    index: int
    id: str
    payload: dict[str, Any]
    dense: FloatArray
    sparse: SparseVector
    multi_vector: FloatArray
    payload_bytes: int
    bm25: SparseVector | None = None

    @property
    def embedding(self) -> M3Embedding:
        """Its vectors."""
        return M3Embedding(self.dense, self.sparse, self.multi_vector, self.bm25)

    @property
    def vectors(self) -> dict[str, Any]:
        """Its named vectors (``named_vectors``)."""
        return named_vectors(self.embedding)

    @property
    def floats(self) -> int:
        """Numbers that its vectors hold, token ids included."""
        words = 0 if self.bm25 is None else self.bm25.ids.size
        return self.dense.size + 2 * (self.sparse.ids.size + words) + self.multi_vector.size

    @property
    def json_bytes(self) -> int:
        """Upper bound of its size in a JSON request."""
        return self.floats * _JSON_BYTES_PER_FLOAT + self.payload_bytes

    @property
    def packed_bytes(self) -> int:
        """Upper bound of its size where numbers are binary: over gRPC, in the embedded engine's write-ahead log."""
        return self.floats * _PACKED_BYTES_PER_FLOAT + self.payload_bytes + _NAMES_BYTES


def named_vectors(embedding: M3Embedding) -> dict[str, Any]:
    """The vectors of a point or a query in the form of Qdrant's REST API, with arrays for lists.

    Name → array [d] or [rows, m], or ``{"indices": …, "values": …}`` of a sparse vector.
    """
    assert embedding.dense is not None  # check_embeddings and check_query refuse what lacks a part
    assert embedding.sparse is not None
    assert embedding.multi_vector is not None
    vectors = {
        DENSE: embedding.dense,
        SPARSE: {"indices": embedding.sparse.ids, "values": embedding.sparse.weights},
        MULTI_VECTOR: embedding.multi_vector,
    }
    if embedding.bm25 is not None:
        vectors[BM25] = {"indices": embedding.bm25.ids, "values": embedding.bm25.weights}
    return vectors


def point_id(document_id: str) -> str:
    """The point that holds a document: Qdrant takes integers or UUIDs only, so the user's string is hashed (UUIDv5)."""
    return str(uuid.uuid5(_NAMESPACE, document_id))


def field_path(*steps: str) -> str:
    """Where Qdrant finds a field of the user's payload, which is nested under ``payload``; quotes protect dots."""
    return "payload" + "".join(f'."{step}"' for step in steps)


def field_name(path: str) -> str | None:
    """The name of the field at a path, with dots where it is within an object; None if it is not of the user's payload.

    Qdrant returns paths without quotes where they are not needed.
    """
    steps = field_path_steps(path)
    return None if steps is None else ".".join(steps)


def field_path_steps(path: str) -> tuple[str, ...] | None:
    """The inverse of ``field_path``; None for a path that is not of the user's payload."""
    rest = path.removeprefix("payload")
    found = [quoted or plain for quoted, plain in _STEP.findall(rest)]
    return tuple(found) if rest != path and found else None


def make_points(
    documents: Iterable[DocumentLike],
    embeddings: M3Embeddings,
    *,
    identity: ModelIdentity,
    max_rows: int | None,
    types: Mapping[str, IndexType],
    bm25: bool = False,
) -> list[Point]:
    """Check a whole batch and pair documents with their vectors; of an id that occurs twice, the last one stays.

    Args:
        documents: n documents, or mappings with their fields.
        embeddings: n embeddings.
        identity: the model of the collection.
        max_rows: rows that a multi-vector may have; None for any number.
        types: payload fields with an index → what they hold.
        bm25: points have the exact words of their documents.

    Raises:
        ConfigError: documents and embeddings do not belong together.
        DocumentError: a document cannot be stored.
    """
    checked = check_documents(documents)
    check_types(checked, types)
    check_embeddings(embeddings, n=len(checked), identity=identity, max_rows=max_rows)
    last = {document.id: i for i, document in enumerate(checked)}
    return [_make_point(i, checked[i], embeddings[i], bm25=bm25) for i in last.values()]


def _make_point(index: int, document: Document, embedding: M3Embedding, *, bm25: bool) -> Point:
    # check_embeddings has refused a batch that lacks a part.
    assert embedding.dense is not None
    assert embedding.sparse is not None
    assert embedding.multi_vector is not None
    payload = {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "payload": dict(document.payload),
        MARKS_FIELD: to_json(document),
    }
    size = len(json.dumps(payload))
    return Point(
        index,
        point_id(document.id),
        payload,
        embedding.dense,
        embedding.sparse,
        embedding.multi_vector,
        size,
        bm25_document(document.content) if bm25 else None,
    )


def batches(
    items: Iterable[Item], size: Callable[[Item], int], *, max_bytes: int, max_items: int | None = None
) -> Iterator[list[Item]]:
    """The items in order, in batches below ``max_bytes`` and of no more than ``max_items``; a larger item comes alone.

    Args:
        items: points or rows.
        size: bytes of an item in a request.
        max_bytes: of a batch.
        max_items: of a batch; None for no limit.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        more = size(item)
        if batch and (total + more > max_bytes or len(batch) == max_items):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += more
    if batch:
        yield batch


def read_point(payload: Mapping[str, Any] | None) -> Document:
    """The document that a point's payload holds.

    Raises:
        KeyError: the point was not written by m3-vdb.
    """
    fields = payload or {}
    return read_document(
        fields["id"],
        text=fields["text"],
        title=fields["title"],
        payload=fields["payload"],
        marks=fields.get(MARKS_FIELD),
    )


def read_id(payload: Mapping[str, Any] | None) -> str:
    """The user's id, from a payload that may hold nothing else.

    Raises:
        KeyError: the point was not written by m3-vdb.
    """
    return str((payload or {})[ID_FIELD])
