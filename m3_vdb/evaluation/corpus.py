"""The documents of a collection, in a store: what is there unchanged stays, the rest is encoded and stored.

Asking the store for every document is what makes an evaluation both resumable and sure of what it searches: no ledger
beside the store has to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Final

from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import CollectionMismatchError
from m3_vdb.ingest import IngestReport, ingest
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document

LOOKUP: Final = 256
"""Documents that the store is asked for at once."""
ENCODING: Final = "encoding"
"""Field of the payload that says how a document was encoded; nothing else of the payload is stored."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A collection that is completely in a store.

    Attributes:
        documents: documents of the collection.
        reused: of these, stored before and unchanged.
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
    progress: Callable[[int], None] | None = None,
) -> Filled:
    """Make the store hold exactly these documents, encoded by this function.

    Args:
        documents: read once.
        embed: encodes passages, at its maximum length.
        store: empty, or filled by an earlier call that may have been interrupted.
        progress: called with the number of documents that are done.

    Raises:
        CollectionMismatchError: the store holds documents beside these.
        StoreError: the database failed; what was stored stays, and the next call goes on.
    """
    seen = _Seen(f"max_length={embed.max_length}", progress or (lambda _: None))
    report = ingest(seen.missing(documents, store), embed, store, progress=lambda state: seen.advance(state.documents))
    seen.progress(seen.documents)
    held, expected = store.count(), seen.documents - len(report.rejected)
    if held != expected:
        raise CollectionMismatchError(
            f"the store holds {held:,} documents and the collection {expected:,}: evaluate in a store of its own "
            f"(or this corpus has changed since: delete the store's collection)"
        )
    return Filled(seen.documents, seen.reused, report, seen.digest.hexdigest())


class _Seen:
    """Counts and fingerprints documents as they pass, and lets through those that the store does not hold."""

    def __init__(self, encoding: str, progress: Callable[[int], None]) -> None:
        self.documents = self.reused = self._stored = 0
        self.digest = blake2b(encoding.encode(), digest_size=16)
        self.progress = progress
        self._encoding = encoding

    def advance(self, stored: int) -> None:
        """Told how many documents were stored by now."""
        self._stored = stored
        self.progress(self.reused + stored)

    def missing(self, documents: Iterable[Document], store: VectorStore) -> Iterator[Document]:
        source = (replace(document, payload={ENCODING: self._encoding}) for document in documents)
        while batch := list(islice(source, LOOKUP)):
            stored = {document.id: document for document in store.get([document.id for document in batch])}
            for document in batch:
                self.digest.update(repr((document.id, document.title, document.text)).encode())
            fresh = [document for document in batch if stored.get(document.id) != document]
            self.documents += len(batch)
            self.reused += len(batch) - len(fresh)
            if not fresh:
                self.advance(self._stored)
            yield from fresh
