"""The documents of a collection, in a store: what is there unchanged stays, the rest is encoded and stored.

Asking the store for every document is what makes an evaluation both resumable and sure of what it searches: no ledger
beside the store has to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.errors import CollectionMismatchError
from m3_vdb.ingest import IngestReport, ingest
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document

ENCODING: Final = "encoding"
"""Field of the payload that says how a document was encoded; nothing else of the payload is stored."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A collection that is completely in a store.

    Attributes:
        documents: documents of the collection.
        reused: of what the store holds (documents, or their passages), stored before and unchanged.
        report: what was encoded and stored now, with everything that was rejected.
        digest: changes with any document and with how documents are encoded.
    """

    documents: int
    reused: int
    report: IngestReport
    digest: str


def fill(
    documents: Iterable[Document],
    embed: M3EmbeddingFunction,
    store: VectorStore,
    *,
    long_documents: LongDocuments = REFUSE,
    progress: Callable[[int], None] | None = None,
) -> Filled:
    """Make the store hold exactly these documents, encoded by this function.

    Args:
        documents: read once.
        embed: encodes passages, at its maximum length.
        store: empty, or filled by an earlier call that may have been interrupted.
        long_documents: what becomes of documents with more tokens than the store takes rows.
        progress: called with the number of documents that are done; where they are split, with that of passages.

    Raises:
        CollectionMismatchError: the store holds documents beside these.
        StoreError: the database failed; what was stored stays, and the next call goes on.
    """
    plan = "" if long_documents == REFUSE else f",{long_documents.describe()}"
    seen = _Seen(f"max_length={embed.max_length}{plan}")

    def advance(done: int) -> None:
        if progress is not None:
            progress(done)

    # The mark is of the evaluation's own making, so the pipeline sets none.
    report = ingest(
        seen.marked(documents),
        embed,
        store,
        encoding="",
        long_documents=long_documents,
        progress=lambda state: advance(state.rows),
    )
    advance(seen.documents)
    held, expected = store.count(), report.documents + report.unchanged
    if held != expected:
        raise CollectionMismatchError(
            f"the store holds {held:,} documents and the collection {expected:,}: evaluate in a store of its own "
            f"(or this corpus has changed since: delete the store's collection)"
        )
    return Filled(seen.documents, report.unchanged, report, seen.digest.hexdigest())


class _Seen:
    """Counts and fingerprints documents as they pass, and marks them with how they are encoded."""

    def __init__(self, encoding: str) -> None:
        self.documents = 0
        self.digest = blake2b(encoding.encode(), digest_size=16)
        self._encoding = encoding

    def marked(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self.documents += 1
            self.digest.update(repr((document.id, document.title, document.text)).encode())
            yield replace(document, payload={ENCODING: self._encoding})
