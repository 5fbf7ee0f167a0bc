"""Copy collections: into a Parquet file, out of one, from store to store. Nothing is encoded again.

A file has a row for each document: ``id``, ``title``, ``text``, ``payload`` (JSON), ``m3`` (JSON, our own marks: see
``m3_vdb.marks``; files of version 0.1.0 lack it), ``dense`` (d float32), ``sparse_ids``, ``sparse_weights``,
``multi_vector`` (rows of m float32). The model's identity stands in the file's metadata under ``m3``, so a file only
goes into a collection of the same model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import CollectionMismatchError, MissingExtraError
from m3_vdb.marks import MARKS_FIELD, read_document, to_json
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document, M3Embeddings

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

BATCH: Final = 256
"""Documents at a time; all their vectors are held in memory."""
_KEY: Final = b"m3"


def copy(
    source: VectorStore, target: VectorStore, *, batch: int = BATCH, long_documents: LongDocuments = DEFAULT_POLICY
) -> int:
    """Put everything of one store into another. Returns the number of documents.

    Args:
        source: what is read; see ``VectorStore.scroll`` for documents that change on the way.
        target: what is written; documents of the same id are replaced.
        batch: documents at a time.
        long_documents: pools or truncates what the target cannot hold; nothing is split here.

    Raises:
        CollectionMismatchError: the two belong to different models.
        DocumentError: a document that the target cannot hold.
        ConfigError: ``batch`` is below 1.
    """
    source.identity.require_same(target.identity, where="the target")
    return _put(source.scroll(batch=batch), target, long_documents)


def _put(
    batches: Iterator[tuple[list[Document], M3Embeddings]], target: VectorStore, long_documents: LongDocuments
) -> int:
    done = 0
    for documents, embeddings in batches:
        fitting, _ = long_documents.fit(documents, embeddings, target.max_rows)
        target.upsert(documents, fitting)
        done += len(documents)
    return done


def export_parquet(store: VectorStore, path: str | Path, *, batch: int = BATCH) -> int:
    """Write everything that a store holds into a file, completely or not at all. Returns the number of documents.

    Args:
        store: what is read.
        path: the file; replaced if there is one.
        batch: documents at a time, and in a row group.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be written.
        ConfigError: ``batch`` is below 1.
    """
    _require_pyarrow()
    from pyarrow import parquet  # noqa: PLC0415 - optional

    path, done = Path(path), 0
    temporary = path.with_name(f"{path.name}.tmp")
    batches = store.scroll(batch=batch)
    try:
        with parquet.ParquetWriter(temporary, _schema(store.identity), compression="zstd") as writer:
            for documents, embeddings in batches:
                writer.write_batch(_to_rows(documents, embeddings, store.identity))
                done += len(documents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return done


def import_parquet(
    path: str | Path, store: VectorStore, *, batch: int = BATCH, long_documents: LongDocuments = DEFAULT_POLICY
) -> int:
    """Store everything that ``export_parquet`` has written. Returns the number of documents.

    Args:
        path: the file.
        store: a collection of the same model; documents of the same id are replaced.
        batch: documents at a time.
        long_documents: as ``copy``.

    Raises:
        CollectionMismatchError: the file is not an export, or is of another model.
        DocumentError: a document that the store cannot hold.
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be read.
    """
    return _put(_read(Path(path), store.identity, batch), store, long_documents)


def read_identity(path: str | Path) -> ModelIdentity:
    """The model that an exported file belongs to.

    Raises:
        CollectionMismatchError: the file is not an export.
    """
    return _open(Path(path), None)[1]


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401, PLC0415 - optional
    except ModuleNotFoundError as error:
        raise MissingExtraError("a Parquet file", extra="parquet") from error


def _schema(identity: ModelIdentity) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 - optional

    fields = {
        "id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "payload": pa.string(),
        MARKS_FIELD: pa.string(),
        "dense": pa.list_(pa.float32(), identity.dense_dim),
        "sparse_ids": pa.list_(pa.int32()),
        "sparse_weights": pa.list_(pa.float32()),
        "multi_vector": pa.list_(pa.list_(pa.float32(), identity.multi_vector_dim)),
    }
    return pa.schema(list(fields.items()), metadata={_KEY: json.dumps(identity.as_metadata())})


def _to_rows(documents: list[Document], embeddings: M3Embeddings, identity: ModelIdentity) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415 - optional

    schema = _schema(identity)
    parts = (embeddings.dense, embeddings.sparse_offsets, embeddings.multi_vector, embeddings.multi_vector_offsets)
    dense, sparse_offsets, rows, row_offsets = (np.asarray(part) for part in parts)  # scroll gives all parts
    offsets = pa.array(sparse_offsets.astype(np.int32))
    columns = [
        pa.array([document.id for document in documents]),
        pa.array([document.title for document in documents]),
        pa.array([document.text for document in documents]),
        pa.array([json.dumps(dict(document.payload), ensure_ascii=False) for document in documents]),
        pa.array([json.dumps(to_json(document)) for document in documents]),
        pa.FixedSizeListArray.from_arrays(dense.ravel(), identity.dense_dim),
        pa.ListArray.from_arrays(offsets, pa.array(embeddings.sparse_ids)),
        pa.ListArray.from_arrays(offsets, pa.array(embeddings.sparse_weights)),
        pa.ListArray.from_arrays(
            pa.array(row_offsets.astype(np.int32)),
            pa.FixedSizeListArray.from_arrays(rows.ravel(), identity.multi_vector_dim),
        ),
    ]
    return pa.record_batch([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _open(path: Path, identity: ModelIdentity | None) -> tuple[parquet.ParquetFile, ModelIdentity]:
    _require_pyarrow()
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise CollectionMismatchError(f"{path} is not a Parquet file: {error}") from error
    text = (file.schema_arrow.metadata or {}).get(_KEY)
    metadata: Mapping[str, Any] | None = None if text is None else json.loads(text)
    return file, open_identity(identity, metadata, where=str(path))


def _read(path: Path, identity: ModelIdentity, batch: int) -> Iterator[tuple[list[Document], M3Embeddings]]:
    file, _ = _open(path, identity)
    with file:
        for rows in file.iter_batches(batch_size=batch):
            yield _documents(rows), _embeddings(rows, identity)


def _documents(rows: pa.RecordBatch) -> list[Document]:
    names = ("id", "title", "text", "payload")
    columns = (rows.column(name).to_pylist() for name in names)
    marked = MARKS_FIELD in rows.schema.names
    marks = map(json.loads, rows.column(MARKS_FIELD).to_pylist()) if marked else repeat(None, len(rows))
    return [
        read_document(i, text=text, title=title, payload=json.loads(payload), marks=mark)
        for i, title, text, payload, mark in zip(*columns, marks, strict=True)
    ]


def _embeddings(rows: pa.RecordBatch, identity: ModelIdentity) -> M3Embeddings:
    """The vectors of n rows; a batch may be a slice, so every list is measured and flattened."""
    sparse, multi = rows.column("sparse_ids"), rows.column("multi_vector")
    lengths = multi.value_lengths().to_numpy()
    return M3Embeddings(
        token_counts=(lengths + 1).astype(np.int32),  # all tokens but <s> have a row
        truncated=np.zeros(len(rows), np.bool_),
        dense=_numbers(rows.column("dense").flatten()).reshape(-1, identity.dense_dim),
        sparse_ids=_numbers(sparse.flatten()),
        sparse_weights=_numbers(rows.column("sparse_weights").flatten()),
        sparse_offsets=np.concatenate([[0], np.cumsum(sparse.value_lengths().to_numpy())]).astype(np.int64),
        multi_vector=_numbers(multi.flatten().flatten()).reshape(-1, identity.multi_vector_dim),
        multi_vector_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _numbers(array: pa.Array) -> NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))
