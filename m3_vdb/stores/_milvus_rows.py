"""A document as a row of a Milvus collection, and back; batches by bytes.

A row has the user's ``id``, ``title``, ``text`` and ``payload`` in fields of their own, so no name in a payload can
meet one of ours. The primary key is a UUID made from the id, as in Qdrant: ids may be of any length. Our own marks
(``m3_vdb.marks``) lie among the hashed names of ``numbers``, an object of ours that collections of every version have.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.marks import MARKS_FIELD, read_document
from m3_vdb.stores._points import Point
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.types import Document, FloatArray, IntArray, M3Embedding, SparseVector

KEY: Final = "key"
ID: Final = "id"
PAYLOAD: Final = "payload"
TERMS: Final = "terms"
NUMBERS: Final = "numbers"
DOCUMENT_FIELDS: Final = (ID, "title", "text", PAYLOAD, NUMBERS)
TOKENS: Final = "tokens"
"""Token rows as base64 text, on engines that have no arrays of structs."""
ROW: Final = "row"
"""The vector in a struct of the array ``multi_vector``."""
MAX_TEXT_BYTES: Final = 65_535
"""A VARCHAR on a Milvus server, in bytes of UTF-8; the same for a JSON field (65,536)."""
MAX_ELEMENTS: Final = 4096
"""Elements of an array on a Milvus server: token rows of one text."""
_CHUNK: Final = 65_532
"""Base64 characters of one element of ``tokens``: a multiple of 4 below the limit of a VARCHAR."""
SENTINEL: Final = {0: 1e-12}
"""The sparse vector of a text without tokens, because Milvus takes no empty one. Id 0 is ``<s>``, which is no lexical
weight of M3; queries leave it out, so it is never matched."""


def to_row(
    point: Point, terms: Sequence[str], numbers: Mapping[str, Any], *, struct: bool, half: bool
) -> dict[str, Any]:
    """A checked document as pymilvus wants it.

    Args:
        point: the document with its vectors.
        terms: what filters look at, of its payload.
        numbers: the same.
        struct: the token rows go into an array of structs, not into ``tokens``.
        half: the token rows become float16.
    """
    rows = point.multi_vector.astype(np.float16) if half else point.multi_vector
    return {
        KEY: point.id,
        ID: point.payload["id"],
        "title": point.payload["title"],
        "text": point.payload["text"],
        PAYLOAD: point.payload["payload"],
        TERMS: list(terms),
        NUMBERS: {**numbers, MARKS_FIELD: point.payload[MARKS_FIELD]},
        DENSE: point.dense,
        SPARSE: point.sparse.as_dict() or SENTINEL,
        **({MULTI_VECTOR: [{ROW: row} for row in rows]} if struct else {TOKENS: _pack(rows)}),
    }


def _pack(rows: NDArray[np.floating[Any]]) -> list[str]:
    """Token rows as base64 text in pieces that a VARCHAR holds; the first piece says the type of the numbers."""
    text = base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode("ascii")
    return [rows.dtype.str, *(text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))]


def _unpack(pieces: Sequence[str], width: int) -> FloatArray:
    numbers = np.frombuffer(base64.b64decode("".join(pieces[1:])), dtype=np.dtype(pieces[0]))
    return numbers.reshape(-1, width).astype(np.float32)


def read_row(row: Mapping[str, Any]) -> Document:
    """The document of a row.

    Raises:
        KeyError: the row was not written by m3-vdb.
    """
    marks = row[NUMBERS].get(MARKS_FIELD)
    return read_document(row[ID], text=row["text"], title=row["title"], payload=row[PAYLOAD], marks=marks)


def vector_fields(*, struct: bool) -> tuple[str, str, str]:
    """Where a row keeps its three vectors."""
    return (DENSE, SPARSE, MULTI_VECTOR if struct else TOKENS)


def read_embedding(row: Mapping[str, Any], width: int) -> M3Embedding:
    """The three vectors of a row; ``width`` is that of a token row."""
    sparse = sorted((int(i), float(w)) for i, w in row[SPARSE].items() if i or w > 2 * SENTINEL[0])
    ids: IntArray = np.array([i for i, _ in sparse], dtype=np.int32)
    weights: FloatArray = np.array([w for _, w in sparse], dtype=np.float32)
    if TOKENS in row:
        rows = _unpack(list(row[TOKENS]), width)
    else:
        rows = np.stack([_vector(element[ROW], width) for element in row[MULTI_VECTOR]])
    return M3Embedding(np.asarray(row[DENSE], np.float32), SparseVector(ids, weights), rows)


def _vector(value: object, width: int) -> FloatArray:
    """A vector as pymilvus returns it: numbers, or the bytes of float16."""
    if isinstance(value, (bytes, bytearray)):
        return np.frombuffer(value, dtype=np.float16 if len(value) == 2 * width else np.float32).astype(np.float32)
    return np.asarray(value, dtype=np.float32)


def row_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of a row in a request, from above: vectors are sent as binary numbers."""
    vectors = 8 * len(row[SPARSE]) + 4 * len(row[DENSE])
    rows = sum(element[ROW].nbytes + 8 for element in row.get(MULTI_VECTOR, ()))
    texts = sum(len(text.encode()) + 8 for text in (row["title"], row["text"], row[ID], *row.get(TOKENS, ())))
    return int(
        vectors
        + rows
        + texts
        + len(json.dumps(row[PAYLOAD]))
        + 20 * len(row[TERMS])
        + len(json.dumps(row[NUMBERS]))
        + 256
    )


def batches(rows: Iterable[dict[str, Any]], *, max_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """The rows in order, cut so that a request stays below ``max_bytes``; a larger row travels alone."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = row_bytes(row)
        if batch and size + more > max_bytes:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += more
    if batch:
        yield batch
