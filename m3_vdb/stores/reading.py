"""Vectors of stored documents, in pages that are bounded by bytes.

No engine says how large vectors are before it sends them. So documents are read first, and vectors then for as many of
them as are sure to fit: a token has at least one character, so a text has at most as many rows as characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from m3_vdb.stores.vectors import pack
from m3_vdb.types import Document, M3Embedding, M3Embeddings

READ_AT_ONCE: Final = 256
"""Documents per page, without vectors or with short ones."""
PAGE_NUMBERS: Final = 1024 * 1024
"""Of the vectors in a page, unless one document has more; in a client over REST a number takes up to 100 bytes."""
_MORE_ROWS: Final = 2
"""Rows that a text may have beyond its characters: an empty one has the row of ``</s>``."""

Read = Callable[[Sequence[str]], list[tuple[Document, M3Embedding]]]
"""Ids → documents with their vectors, of those that exist."""


def read_pages(
    parts: Iterable[Sequence[Document]], read: Read, *, batch: int, width: int
) -> Iterator[tuple[list[Document], M3Embeddings]]:
    """Documents with their vectors, as they are when the vectors are read.

    Args:
        parts: documents, without vectors.
        read: reads a page.
        batch: documents in a page, at most.
        width: numbers of a multi-vector row.
    """
    # Vectors need not come from the text that is stored with them: so the first page has one document, the next two,
    # and the document with the most rows per character so far is taken for the rule.
    rows_per_character, most = 1.0, 1
    for part in parts:
        start = 0
        while start < len(part):
            sizes = (rows_per_character * width * (len(one.content) + _MORE_ROWS) for one in part[start:])
            page = part[start : start + max(1, min(_fitting(sizes), most, batch))]
            start, most = start + len(page), 2 * most
            found = read([one.id for one in page])
            if not found:
                continue
            documents, embeddings = [one for one, _ in found], pack([vectors for _, vectors in found])
            lengths = np.array([len(one.content) + _MORE_ROWS for one in documents])
            rows = np.diff(np.asarray(embeddings.multi_vector_offsets))
            rows_per_character = max(rows_per_character, float((rows / lengths).max()))
            yield documents, embeddings


def _fitting(sizes: Iterable[float]) -> int:
    """How many of the first documents fit a page."""
    total, number = 0.0, 0
    for size in sizes:
        total += size
        if total > PAGE_NUMBERS:
            break
        number += 1
    return number
