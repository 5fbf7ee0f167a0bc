"""Long documents in passages (``m3_vdb.encoding.splitter``): what a store returns, put together again.

A passage is stored like any document, with three vectors of its own. So a store needs to know nothing about passages,
filters work on each of them, and reading finds out by itself whether a collection has any. What belongs to a document
is what says so itself (``Document.passage``), never what merely has such an id.

A search finds passages. A document's score is that of its best passage among the candidates, so ``candidates`` counts
passages; page after page of them is requested until there are enough documents or no more candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from m3_vdb.inputs import whole_number
from m3_vdb.marks import passage_id
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document, Hit


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """A page of hits that counts whole documents, over a search that may find several passages of each.

    Attributes:
        limit: documents of the page.
        offset: documents before it.
        most: hits to ask for at a time.
    """

    limit: int
    offset: int
    most: int

    @classmethod
    def read(cls, limit: int, offset: int, candidates: int) -> DocumentPage:
        """The page that a user asked for.

        Raises:
            ConfigError: a number is out of range.
        """
        limit, offset = whole_number("limit", limit, least=1), whole_number("offset", offset, least=0)
        return cls(limit, offset, max(limit, whole_number("candidates", candidates, least=1)))

    @property
    def first(self) -> int:
        """How many hits to ask for first, from the best on."""
        return min(self.offset + self.limit, self.most)

    def documents(self, found: list[Hit], search: Callable[..., list[Hit]]) -> list[Hit]:
        """The documents of the page, best first, each once with its best passage.

        Args:
            found: the ``first`` hits.
            search: gives further ones, by ``offset`` and ``limit``.
        """
        wanted, asked, size = self.offset + self.limit, self.first, self.first
        best: dict[str, Hit] = {}
        while True:
            for hit in map(_of_document, found):
                best.setdefault(hit.document.id, hit)
            if len(best) >= wanted or len(found) < size:
                return list(best.values())[self.offset : wanted]
            found, size = search(offset=asked, limit=self.most), self.most
            asked += size


def whole_documents(store: VectorStore, ids: Sequence[str]) -> list[Document]:
    """Stored documents, put together from their passages, in the order of ``ids``; unknown ids are left out."""
    found = _documents(store, ids)
    names = [name for document in found for name in other_passages(document)]
    others = {document.id: document for document in store.get(names)} if names else {}
    return [_joined(one, [others[name] for name in other_passages(one) if name in others]) for one in found]


def stored_ids(store: VectorStore, ids: Sequence[str]) -> list[str]:
    """The ids of all passages of these documents, the first of each after its others."""
    found = _documents(store, ids)
    others = [one.id for first in found for one in held_passages(store, other_passages(first), first.id)]
    return [*others, *(document.id for document in found)]


def _documents(store: VectorStore, ids: Sequence[str]) -> list[Document]:
    """What is stored under ids of documents: whole, or the first passage; a further passage is not a document."""
    return [one for one in store.get(ids) if one.passage is None or one.passage.number == 1]


def other_passages(first: Document) -> list[str]:
    """The ids of a document's further passages."""
    passage = first.passage
    if passage is None or passage.number > 1:
        return []
    return [passage_id(first.id, number) for number in range(2, passage.count + 1)]


def held_passages(store: VectorStore, names: list[str], document_id: str) -> list[Document]:
    """Passages of a document among what is stored under these ids."""
    return [one for one in (store.get(names) if names else []) if belongs_to(one, document_id)]


def belongs_to(stored: Document, document_id: str) -> bool:
    """Whether what is stored is a passage of this document."""
    return stored.passage is not None and stored.passage.document == document_id


def _of_document(hit: Hit) -> Hit:
    passage = hit.document.passage
    if passage is None:
        return hit
    document = replace(hit.document, id=passage.document, passage=None)
    return replace(hit, document=document, passage=passage if passage.count > 1 else None)


def _joined(first: Document, others: Sequence[Document]) -> Document:
    """The whole document; a passage that is not there (its ingest has not come so far) leaves a gap."""
    text, end = "", 0
    for document in [first, *others]:
        part = document.passage
        if part is None or part.document != first.id:  # another document of this id, from before such were refused
            continue
        text += document.text[max(0, end - part.start) :]
        end = part.stop
    return first if first.passage is None else replace(first, text=text, passage=None)
