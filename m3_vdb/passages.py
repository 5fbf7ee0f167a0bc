"""Joins the passages of long documents (``m3_vdb.encoding.splitter``) after they were read from a store.

Each passage is stored like a document, with its own three vectors. So stores do not treat passages specially, and
filters apply to each passage. ``Document.passage``, not the id, says which document a passage belongs to.

A search finds passages, and ``candidates`` counts them. A document has the score of its best passage among the
candidates. Further pages of passages are requested until there are enough documents or no more candidates.
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
    """A page of hits, counted in documents; the search may find several passages per document.

    Attributes:
        limit: documents on the page.
        offset: documents to skip before it.
        most: hits per request.
    """

    limit: int
    offset: int
    most: int

    @classmethod
    def read(cls, limit: int, offset: int, candidates: int) -> DocumentPage:
        """Check the numbers of a page.

        Raises:
            ConfigError: a number is out of range.
        """
        limit, offset = whole_number("limit", limit, least=1), whole_number("offset", offset, least=0)
        return cls(limit, offset, max(limit, whole_number("candidates", candidates, least=1)))

    @property
    def first(self) -> int:
        """Number of hits in the first request."""
        return min(self.offset + self.limit, self.most)

    def documents(self, found: list[Hit], search: Callable[..., list[Hit]]) -> list[Hit]:
        """The documents of the page, best first, each once with its best passage.

        Args:
            found: the first ``first`` hits.
            search: returns further hits, called with ``offset`` and ``limit``.
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
    """Whole documents, joined from their passages, in the order of ``ids``; unknown ids are skipped."""
    found = _documents(store, ids)
    names = [name for document in found for name in other_passages(document)]
    others = {document.id: document for document in store.get(names)} if names else {}
    return [_joined(one, [others[name] for name in other_passages(one) if name in others]) for one in found]


def stored_ids(store: VectorStore, ids: Sequence[str]) -> list[str]:
    """Ids of all passages of these documents; the first passage of each comes last, so that it is deleted last."""
    found = _documents(store, ids)
    others = [one.id for first in found for one in held_passages(store, other_passages(first), first.id)]
    return [*others, *(document.id for document in found)]


def _documents(store: VectorStore, ids: Sequence[str]) -> list[Document]:
    """The documents with these ids, or their first passages; the id of a later passage finds nothing."""
    return [one for one in store.get(ids) if one.passage is None or one.passage.number == 1]


def other_passages(first: Document) -> list[str]:
    """The ids of a document's further passages."""
    passage = first.passage
    if passage is None or passage.number > 1:
        return []
    return [passage_id(first.id, number) for number in range(2, passage.count + 1)]


def held_passages(store: VectorStore, names: list[str], document_id: str) -> list[Document]:
    """The passages of a document among the stored ids ``names``."""
    return [one for one in (store.get(names) if names else []) if belongs_to(one, document_id)]


def belongs_to(stored: Document, document_id: str) -> bool:
    """Whether a stored row is a passage of this document."""
    return stored.passage is not None and stored.passage.document == document_id


def _of_document(hit: Hit) -> Hit:
    passage = hit.document.passage
    if passage is None:
        return hit
    document = replace(hit.document, id=passage.document, passage=None)
    return replace(hit, document=document, passage=passage if passage.count > 1 else None)


def _joined(first: Document, others: Sequence[Document]) -> Document:
    """The whole document; a missing passage (its ingest was interrupted) leaves a gap."""
    text, end = "", 0
    for document in [first, *others]:
        part = document.passage
        if part is None or part.document != first.id:  # a document whose id looks like a passage's, stored by 0.1.0
            continue
        text += document.text[max(0, end - part.start) :]
        end = part.stop
    return first if first.passage is None else replace(first, text=text, passage=None)
