"""What a Milvus server would refuse is refused here, before anything is sent. milvus-lite has none of these limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from m3_vdb.errors import DocumentError
from m3_vdb.marks import MARKS_FIELD, to_json
from m3_vdb.stores.milvus.filters import numbers, terms
from m3_vdb.stores.milvus.rows import ID, MAX_ELEMENTS, MAX_TEXT_BYTES
from m3_vdb.types import Document, M3Embeddings


def check_limits(documents: Sequence[Document], embeddings: M3Embeddings, *, struct: bool) -> None:
    """Check documents and vectors that ``make_points`` has passed.

    Args:
        documents: n documents.
        embeddings: n embeddings.
        struct: token rows go into an array.

    Raises:
        DocumentError: a text or a payload is too long, or a text has too many token rows.
    """
    offsets = embeddings.multi_vector_offsets
    assert offsets is not None  # make_points has refused it
    rows = np.diff(offsets) if struct else np.zeros(len(documents), np.int64)
    for i, document in enumerate(documents):
        fault = next(_faults(document, int(rows[i])), None)
        if fault:
            raise DocumentError(f"document {i}: {fault}", index=i)


def _faults(document: Document, rows: int) -> Iterator[str]:
    for name in (ID, "title", "text"):
        size = len(getattr(document, name).encode())
        if size > MAX_TEXT_BYTES:
            yield f"its {name} has {size:,} bytes, and a Milvus server takes {MAX_TEXT_BYTES:,}: split the text"
    payload = dict(document.payload)
    size = len(json.dumps(payload, ensure_ascii=False).encode())
    if size > MAX_TEXT_BYTES:
        yield f"its payload has {size:,} bytes as JSON, and a Milvus server takes {MAX_TEXT_BYTES:,}"
    found, size = len(terms(payload)), len(json.dumps({**numbers(payload), MARKS_FIELD: to_json(document)}))
    if found > MAX_ELEMENTS or size > MAX_TEXT_BYTES:
        yield (
            f"its payload has {found:,} different values on its top level, and m3-vdb can index {MAX_ELEMENTS:,} of "
            f"them (and about 1,000 fields with numbers) on a Milvus server: nest what no filter needs in an object"
        )
    if rows > MAX_ELEMENTS:
        yield (
            f"its multi_vector has {rows} rows, and an array on a Milvus server holds {MAX_ELEMENTS}: choose "
            f"a plan for long documents (m3_vdb.encoding.long_documents), or encode with a smaller maximum length"
        )
