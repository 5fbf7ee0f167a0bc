"""Plans for documents whose multi-vector has more rows than the store accepts.

- ``error``: refuse the document.
- ``truncate``: keep the first rows.
- ``pool``: average similar rows (``token_pooling``) until they fit.
- ``split``: store the document in passages, each with its own three vectors (``m3_vdb.encoding.splitter``).

With ``truncate`` and ``pool`` the dense vector and the lexical weights are those of the whole document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedder import Tokenizing
from m3_vdb.encoding.token_pooling import row_counts, rows_to_keep, with_rows
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.inputs import real_number, whole_number
from m3_vdb.types import Document, M3Embeddings

Plan: TypeAlias = Literal["error", "truncate", "pool", "split"]
PLANS: Final[tuple[Plan, ...]] = get_args(Plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongDocuments:
    """A plan for documents with too many multi-vector rows (one per token except ``<s>``).

    Attributes:
        plan: what to do with them: "error", "truncate", "pool" or "split".
        max_rows: maximum rows per document; None for the store's limit.
        pool_factor: pool *every* document and keep 1 in N rows; 1 keeps all, 2 halves the storage.
        overlap: tokens that two neighbouring passages share (``split`` only).

    Raises:
        ConfigError: a value is out of range.
    """

    plan: Plan = "error"
    max_rows: int | None = None
    pool_factor: float = 1.0
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ConfigError(f"long documents: plan {self.plan!r}; expected one of {', '.join(PLANS)}")
        whole_number("overlap", self.overlap, least=0)
        real_number("pool_factor", self.pool_factor)
        if self.max_rows is not None:
            whole_number("max_rows", self.max_rows, least=1)
        if self.overlap and self.plan != "split":
            raise ConfigError(f"overlap={self.overlap}: expected 0 or more tokens, and the plan split")
        rows_to_keep(np.zeros(0, np.int32), factor=self.pool_factor, max_rows=self.max_rows)

    def limit(self, store_rows: int | None) -> int | None:
        """Maximum rows per document, None for no limit.

        Args:
            store_rows: the store's limit (``VectorStore.max_rows``), None for none.
        """
        known = [rows for rows in (self.max_rows, store_rows) if rows is not None]
        return min(known, default=None)

    def describe(self) -> str:
        """The plan for a report, without values that are the default: "split, overlap 32"."""
        default = LongDocuments(plan=self.plan)
        names = [one.name for one in fields(self) if getattr(self, one.name) != getattr(default, one.name)]
        return ", ".join([self.plan, *(f"{name.replace('_', ' ')} {getattr(self, name):g}" for name in names)])

    def with_encoding_mark(self, document: Document, store_rows: int | None, *, text: str) -> Document:
        """The document with its ``encoding`` filled in; a stored document with another ``encoding`` is encoded again.

        This needs no tokens: a document with fewer characters than allowed rows is never too long.

        Args:
            document: the document to store.
            store_rows: the store's limit of rows, None for none.
            text: how texts are encoded (``text_encoding``).
        """
        limit = self.limit(store_rows)
        marks = [text] if text else []
        if self.pool_factor != 1:
            marks.append(f"pool_factor={self.pool_factor:g}")
        if self.plan in ("truncate", "pool") and limit is not None and len(document.content) > limit:
            marks.append(f"{self.plan}={limit}")
        return replace(document, encoding=",".join(marks))

    def fit(
        self, documents: Sequence[Document], embeddings: M3Embeddings, store_rows: int | None
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """Pool or truncate embeddings to the allowed rows; with ``split``, documents were split before encoding.

        Args:
            documents: n documents.
            embeddings: embeddings of the documents.
            store_rows: the store's limit of rows, None for none.

        Returns:
            The embeddings to store, and bool [n], True for documents that had too many rows.

        Raises:
            DocumentError: a document has too many rows, and the plan is ``error`` or ``split``; ``index`` names it.
        """
        limit = self.limit(store_rows)
        if embeddings.multi_vector_offsets is None or (limit is None and self.pool_factor == 1):
            return embeddings, np.zeros(len(documents), np.bool_)  # the store reports missing multi-vectors
        if self.pool_factor > 1:
            counts = row_counts(embeddings)
            embeddings = with_rows(embeddings, rows_to_keep(counts, factor=self.pool_factor), pool=True)
        counts = row_counts(embeddings)
        long = np.zeros(len(counts), np.bool_) if limit is None else counts > limit
        if limit is None or not long.any():
            return embeddings, long
        if self.plan in ("error", "split"):
            i = int(np.argmax(long))
            raise DocumentError(
                f"document {i}: its multi_vector has {counts[i]:,} rows, and {limit:,} fit: choose a plan for long "
                f"documents (pool, truncate or split), encode with a smaller maximum length, or use a model with a "
                f"narrower multi_vector",
                index=i,
            )
        return with_rows(embeddings, rows_to_keep(counts, max_rows=limit), pool=self.plan == "pool"), long


def text_encoding(embed: object) -> str:
    """Options of an embedding function that change its vectors and are not in its identity; "" for the defaults."""
    if not isinstance(embed, Tokenizing) or embed.max_length == embed.model_max_length:
        return ""
    return f"max_length={embed.max_length}"


DEFAULT_POLICY: Final = LongDocuments()
"""The default: documents that do not fit are refused."""
