"""``M3DocumentStore``: a collection of m3-vdb as a document store of Haystack.

The store makes all three vectors itself, in one pass per batch, so a pipeline needs no embedder before it. Documents
come back without vectors.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

from m3_vdb import types
from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.filters import field_values
from m3_vdb.imports import no_usage_data
from m3_vdb.index import HybridIndex
from m3_vdb.integrations.haystack_filters import EVERYTHING, to_filter
from m3_vdb.stores.options import CollectionOptions, IndexType, Storage

with no_usage_data():
    from haystack import Document, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy

P = ParamSpec("P")
T = TypeVar("T")
_LOOKED_UP: Final = 256
"""Ids per request."""
_KINDS: Final = {bool: "boolean", int: "long", float: "float"}
_models: WeakValueDictionary[str, M3EmbeddingFunction] = WeakValueDictionary()
_opening = threading.Lock()


def open_model(model: str | Embedder | None) -> Embedder:
    """The embedding function for a component; components with the same model share it.

    Args:
        model: as ``M3EmbeddingFunction``, or an open embedding function.
    """
    if model is not None and not isinstance(model, str):
        return model
    with _opening:
        opened = _models.get(model or "")
        if opened is None:
            opened = _models[model or ""] = M3EmbeddingFunction(model)
        return opened


def written(component: object, given: T) -> T:
    """What ``to_dict`` writes for a model or a store.

    Raises:
        ConfigError: it is open already.
    """
    if given is None or isinstance(given, str):
        return given
    raise ConfigError(
        f"{type(component).__name__} was made with an open {type(given).__name__}, which cannot be written to a file: "
        f"give a name, a folder or a URL"
    )


def in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A method for asyncio that runs another one in a thread."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, *args, **kwargs)

    return call


class M3DocumentStore:
    """A collection of m3-vdb as a document store; opened when it is first used.

    Args:
        store: a folder (``./notes.qdrant``), a server (``qdrant://localhost:6333/notes``), or ``memory://``; a server's
            key is read from ``QDRANT_API_KEY`` or ``MILVUS_TOKEN``. An open index is used as it is, stays open, and
            cannot be written to a file; ``model``, ``storage``, ``indexes`` and ``long_documents`` are its own then.
        model: a model's name, folder or hub id; None for the model that ships with m3-vdb; or an open embedding
            function, with which the store cannot be written to a file.
        meta_fields_to_embed: fields of ``meta`` that are encoded before the content, each on its own line.
        storage: how a new collection keeps multi-vectors: "float32", "half" or "quarter".
        indexes: field of ``meta`` → "keyword", "integer", "float", "bool" or "datetime", for faster filters in a
            new collection.
        long_documents: what to do with documents longer than the store's multi-vector limit: "error", "truncate",
            "pool" or "split". Documents that are split are counted once per passage.
        batch_size: documents encoded and stored together.
    """

    def __init__(
        self,
        store: str | HybridIndex,
        *,
        model: str | Embedder | None = None,
        meta_fields_to_embed: list[str] | None = None,
        storage: str = "float32",
        indexes: dict[str, str] | None = None,
        long_documents: str = "error",
        batch_size: int = 64,
    ) -> None:
        self._store = store
        self._model = model
        self._embedded = meta_fields_to_embed or []
        self._options = CollectionOptions(
            storage=cast(Storage, storage), indexes=cast(dict[str, IndexType], indexes or {})
        )
        self._long_documents = LongDocuments(plan=cast(Plan, long_documents))
        self._batch_size = batch_size
        self._index: HybridIndex | None = None
        self._lock = threading.Lock()

    @property
    def index(self) -> HybridIndex:
        """The open index."""
        with self._lock:
            if isinstance(self._store, HybridIndex):
                return self._store
            if self._index is None:
                self._index = HybridIndex.open(
                    self._store,
                    model=open_model(self._model),
                    options=self._options,
                    long_documents=self._long_documents,
                )
            return self._index

    def close(self) -> None:
        """Close the collection, unless it was open when given; the next call opens it again."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            self._index = None

    def to_dict(self) -> dict[str, Any]:
        """The store as plain values.

        Raises:
            ConfigError: it has an open index or embedding function.
        """
        return default_to_dict(
            self,
            store=written(self, self._store),
            model=written(self, self._model),
            meta_fields_to_embed=self._embedded,
            storage=self._options.storage,
            indexes=dict(self._options.indexes),
            long_documents=self._long_documents.plan,
            batch_size=self._batch_size,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> M3DocumentStore:
        """The store that ``to_dict`` wrote."""
        return default_from_dict(cls, data)

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Encode and store documents.

        Args:
            documents: with content; their vectors, if there are any, are not used.
            policy: what to do with an id that is stored already, or comes twice: NONE and FAIL raise, SKIP keeps the
                stored or first document, OVERWRITE the last.

        Returns:
            How many were written; with OVERWRITE, how many were given.

        Raises:
            DuplicateDocumentError: an id is stored already, or comes twice; nothing was written.
            DocumentError: a document cannot be stored.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise ConfigError(f"documents: expected a list of haystack.Document, got {documents!r:.100}")
        new: dict[str, types.Document] = {}
        for i, document in enumerate(documents):
            if document.id in new and policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
                raise DuplicateDocumentError(f"document {i}: its id {document.id!r} comes twice")
            if document.id not in new or policy != DuplicatePolicy.SKIP:
                new[document.id] = self._to_ours(i, document)
        if policy != DuplicatePolicy.OVERWRITE:
            stored = self._stored(list(new))
            if stored and policy != DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(f"a document with the id {stored[0]!r} is stored already")
            new = {id: document for id, document in new.items() if id not in set(stored)}
        self.index.add(new.values(), batch_size=self._batch_size)
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(new)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """All documents that match, by id.

        Raises:
            FilterError: the filter cannot be used.
        """
        return sorted(map(to_haystack, self._matching(filters)), key=lambda document: document.id)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; unknown ids are ignored."""
        self.index.delete(document_ids)

    def delete_all_documents(self) -> None:
        """Delete all documents; the collection stays."""
        self.index.delete(filter=EVERYTHING)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match, and return their number."""
        condition = to_filter(filters) or EVERYTHING
        count = self.index.count(condition)
        self.index.delete(filter=condition)
        return count

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Set fields of ``meta`` in the documents that match, and return their number.

        Documents are encoded again only if one of the fields is in ``meta_fields_to_embed``.
        """
        documents = self._matching(filters)
        payloads = [{**document.payload, **meta} for document in documents]
        if set(meta).isdisjoint(self._embedded):
            for document, payload in zip(documents, payloads, strict=True):
                self.index.update([document.id], payload)
        else:
            changed = [
                replace(document, payload=payload, title=self._title(payload))
                for document, payload in zip(documents, payloads, strict=True)
            ]
            self.index.add(changed, batch_size=self._batch_size)
        return len(documents)

    def count_documents(self) -> int:
        """Number of documents."""
        return self.index.count()

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Number of documents that match."""
        return self.index.count(to_filter(filters))

    def count_unique_metadata_by_filter(self, filters: dict[str, Any], metadata_fields: list[str]) -> dict[str, int]:
        """Number of different values of each field, in the documents that match."""
        return {field: len(self._values(field, filters)) for field in metadata_fields}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Field of ``meta`` → ``{"type": …}``, of the first document that has it."""
        kinds: dict[str, dict[str, str]] = {}
        for document in self._matching(None):
            for field, value in document.payload.items():
                kinds.setdefault(field, {"type": _KINDS.get(type(value), "keyword")})
        return kinds

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """The smallest and the largest value of a field, None if no document has it."""
        values = self._values(metadata_field, None)
        return {"min": min(values, default=None), "max": max(values, default=None)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """A page of the different values of a field, in order of their text, and how many there are.

        Args:
            metadata_field: field of ``meta``.
            search_term: keep values that contain this text, in upper or lower case.
            from_: values to skip.
            size: values to return.
            filters: of documents.
        """
        values = sorted(self._values(metadata_field, filters), key=str)
        found = [value for value in values if (search_term or "").lower() in str(value).lower()]
        return found[from_ : from_ + size], len(found)

    write_documents_async = in_thread(write_documents)
    filter_documents_async = in_thread(filter_documents)
    delete_documents_async = in_thread(delete_documents)
    delete_all_documents_async = in_thread(delete_all_documents)
    delete_by_filter_async = in_thread(delete_by_filter)
    update_by_filter_async = in_thread(update_by_filter)
    count_documents_async = in_thread(count_documents)
    count_documents_by_filter_async = in_thread(count_documents_by_filter)
    count_unique_metadata_by_filter_async = in_thread(count_unique_metadata_by_filter)
    get_metadata_fields_info_async = in_thread(get_metadata_fields_info)
    get_metadata_field_min_max_async = in_thread(get_metadata_field_min_max)
    get_metadata_field_unique_values_async = in_thread(get_metadata_field_unique_values)

    def _matching(self, filters: dict[str, Any] | None) -> list[types.Document]:
        found = [document for some in self.index.store.documents(filter=to_filter(filters)) for document in some]
        if any(document.passage for document in found):
            ids = [document.passage.document if document.passage else document.id for document in found]
            return self.index.get(list(dict.fromkeys(ids)))
        return found

    def _values(self, field: str, filters: dict[str, Any] | None) -> list[Any]:
        """The different values of a field, in the documents that match and have it; 1, 1.0, "1" and true differ."""
        name = field.removeprefix("meta.")
        condition: types.Filter = {"$and": [{name: {"$exists": True}}, to_filter(filters) or EVERYTHING]}
        documents = (document for some in self.index.store.documents(filter=condition) for document in some)
        found = [value for document in documents for value in field_values(document.payload, name)[:1]]
        return list({json.dumps(value, sort_keys=True): value for value in found}.values())

    def _stored(self, ids: list[str]) -> list[str]:
        parts = [ids[i : i + _LOOKED_UP] for i in range(0, len(ids), _LOOKED_UP)]
        return [document.id for part in parts for document in self.index.store.get(part)]

    def _to_ours(self, i: int, document: Document) -> types.Document:
        if document.content is None:
            raise DocumentError(f"document {i} ({document.id!r}) has no content: convert it to text first", index=i)
        return types.Document(document.id, document.content, self._title(document.meta), document.meta)

    def _title(self, meta: Mapping[str, Any]) -> str:
        return "\n".join(str(meta[field]) for field in self._embedded if meta.get(field) is not None)


def to_haystack(document: types.Document, score: float | None = None) -> Document:
    """A stored document as one of Haystack."""
    return Document(id=document.id, content=document.text, meta=dict(document.payload), score=score)
