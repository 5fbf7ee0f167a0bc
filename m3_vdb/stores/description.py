"""What a collection holds: read without changing it, and without reading all of it.

Counts are the engine's own and exact. Bytes of each part are measured where the engine's files say whose they are, and
elsewhere estimated from some documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from m3_vdb.bm25 import bm25_document
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import StoreError
from m3_vdb.filters import field_values
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.options import BM25, DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.types import Document

LANGUAGE_FIELD: Final = "lang"
VALUES_COUNTED: Final = 10
DOCUMENTS_READ: Final = 256
"""Documents whose payloads show which languages there are."""
DOCUMENTS_MEASURED: Final = 32
"""Documents whose vectors show how large they are."""
SCAN_AT_MOST: Final = 100_000
"""Documents of a server that are counted by a field without an index, which the server reads one by one."""
_BYTES_PER_PAIR: Final = 8
"""Of a sparse vector: an id and a weight."""
_BYTES_PER_NUMBER: Final = {"half": 2, "quarter": 1}
"""Of a multi-vector, by storage; "float32" takes 4."""


@dataclass(frozen=True, slots=True)
class CollectionDescription:
    """What a collection holds.

    Attributes:
        model: the model that made its vectors.
        documents: how many there are.
        passages: rows of the store; more than documents where long ones were split.
        languages: value of the payload field ``lang`` → rows that have it, of the first ten values that were seen.
        languages_note: why they were not counted; "" if they were.
        bytes: part → bytes.
        bytes_are: "on disk", or from how many documents they are estimated.
        disk_bytes: of all files; None if the store cannot say.
        index: state of the indexes.
        options: how the collection was made.
        engine: what keeps it, its version, and what it can do.
        last_run: the last ingest or sync that ended: "command", "source" of a sync, "documents" that it wrote,
            "rejected", "time" (UTC); {} if none was noted.
    """

    model: ModelIdentity
    documents: int
    passages: int
    languages: Mapping[str, int]
    languages_note: str
    bytes: Mapping[str, int]
    bytes_are: str
    disk_bytes: int | None
    index: str
    options: Mapping[str, Any]
    engine: Mapping[str, Any]
    last_run: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The description as plain JSON values."""
        return asdict(self)


def describe(store: VectorStore) -> CollectionDescription:
    """Describe an open collection.

    Args:
        store: the collection; it is not changed.

    Raises:
        StoreError: the store cannot be read.
    """
    facts, passages = store.facts(), store.count()
    read = store.sample(DOCUMENTS_READ)
    languages, note = _languages(store, read, passages)
    measured = facts.bytes
    return CollectionDescription(
        model=store.identity,
        documents=passages - facts.later_passages,
        passages=passages,
        languages=languages,
        languages_note=note,
        bytes=_estimate(store, read[:DOCUMENTS_MEASURED], passages) if measured is None else measured,
        bytes_are=f"estimated from {min(len(read), DOCUMENTS_MEASURED)} documents" if measured is None else "on disk",
        disk_bytes=store.disk_bytes(),
        index=facts.index,
        options=facts.options,
        engine=facts.engine,
        last_run=dict(sorted(facts.last_run.items())),
    )


def _languages(store: VectorStore, read: Sequence[Document], passages: int) -> tuple[dict[str, int], str]:
    """Language → number of rows, and why they were not counted."""
    found = (value for one in read for value in field_values(one.payload, LANGUAGE_FIELD))
    elements = (one for value in found for one in (value if isinstance(value, list) else [value]))
    names = list(dict.fromkeys(one for one in elements if isinstance(one, str)))[:VALUES_COUNTED]
    if names and store.is_server and passages > SCAN_AT_MOST and LANGUAGE_FIELD not in store.field_types:
        return {}, f"not counted: the field has no index (m3-vdb create --index {LANGUAGE_FIELD}=keyword makes one)"
    try:
        counts = {name: store.count({LANGUAGE_FIELD: name}) for name in names}
    except StoreError as error:  # a server's strict mode refuses filters without an index
        return {}, f"not counted: {error}"
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))), ""


def _estimate(store: VectorStore, read: Sequence[Document], passages: int) -> dict[str, int]:
    """Part → bytes, from the sizes of some documents."""
    identity = store.identity
    sizes = {"text and payload": 0, DENSE: 0, SPARSE: 0, MULTI_VECTOR: 0, **({BM25: 0} if store.has_bm25 else {})}
    number = 0
    width = _BYTES_PER_NUMBER.get(str(store.facts().options.get("storage")), 4)
    for documents, embeddings in store.get_with_vectors([one.id for one in read]):
        for document, one in zip(documents, embeddings, strict=True):
            assert one.sparse is not None
            assert one.multi_vector is not None
            number += 1
            whole = [document.id, document.title, document.text, dict(document.payload)]
            sizes["text and payload"] += len(json.dumps(whole, ensure_ascii=False).encode())
            sizes[DENSE] += 4 * identity.dense_dim
            sizes[SPARSE] += _BYTES_PER_PAIR * len(one.sparse.ids)
            sizes[MULTI_VECTOR] += width * one.multi_vector.size
            if store.has_bm25:
                sizes[BM25] += _BYTES_PER_PAIR * len(bm25_document(document.content).ids)
    return {name: round(size * passages / max(number, 1)) for name, size in sizes.items()}
