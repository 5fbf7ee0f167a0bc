"""The one way of documents into a store: checked, split, marked, encoded, written. ``HybridIndex.add`` and ``ingest``.

- **Equal ids.** An id occurs once in what one call of ``add`` or ``ingest`` is given, and the first document has it; a
  further one is a bad row. (Not the last, for which the first would have to go: by then it is stored, and its text is
  no longer at hand to be set aside.) What an earlier call stored under an id is replaced.
- **Bad rows.** Every step raises an ``ItemError`` whose ``index`` names the document, before anything of what it was
  given is written. ``add`` lets it through; ``ingest`` sets that row aside and writes the others.
- **Older versions.** Passages that the stored version has and the new one has not are deleted right before the new
  version is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments, text_encoding
from m3_vdb.encoding.splitter import make_splitter
from m3_vdb.errors import ConfigError, DocumentError, ItemError, StoreError, StoreRequestError
from m3_vdb.passages import belongs_to, held_passages, other_passages
from m3_vdb.retry import Retrier, about_content
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.checks import check_documents, check_types
from m3_vdb.types import Document, M3Embeddings

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Vectors and texts handed to the store at once: what is sent again when a request fails."""
PIECE_DOCUMENTS: Final = 256


def check_parts(embed: Embedder, store: VectorStore) -> None:
    """Check that an embedding function and an open store are what they should be, and belong together.

    Raises:
        ConfigError: one of them is something else.
        CollectionMismatchError: the store holds vectors of another model.
    """
    if isinstance(embed, VectorStore) or not hasattr(embed, "encode_documents"):
        raise ConfigError(f"embed: expected an embedding function, M3EmbeddingFunction(), got {type(embed).__name__}")
    if not hasattr(store, "upsert"):  # a store that wraps another one is a store
        raise ConfigError(f"store: expected an open store, open_store(…, identity=embed), got {type(store).__name__}")
    embed.identity.require_same(store.identity, where="the store")


@dataclass(frozen=True, slots=True)
class AddReport:
    """What ``HybridIndex.add`` did.

    Attributes:
        documents: documents that were given, and are stored.
        passages: what they are stored as: one per document, more where long ones were split.
        long_documents: documents that were too long, and were pooled, cut or split as planned.
        truncated: documents, or passages, that were longer than the embedding function's maximum and were cut.
        tokens: tokens that were encoded.
    """

    documents: int = 0
    passages: int = 0
    long_documents: int = 0
    truncated: int = 0
    tokens: int = 0

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds under the ids of documents that are to be written.

    Attributes:
        documents: id → the stored document.
        faults: id → why the new one may not be stored there.
        outdated: id → passages that the stored version has and the new one has not.
    """

    documents: Mapping[str, Document] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    outdated: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of n documents.

    Attributes:
        stored: bool [n], True for those that the store acknowledged.
        shortened: bool [n], True for those of which fewer rows are stored than they have, as planned.
    """

    stored: NDArray[np.bool_]
    shortened: NDArray[np.bool_]


class Writer:
    """Writes documents to one store.

    Args:
        store: takes them.
        long_documents: what becomes of documents with more tokens than the store takes rows.
        encoding: how texts are encoded, "" for the model's own way (``text_encoding``).
        retrier: decides which requests are made again; None makes each once.
    """

    def __init__(
        self,
        store: VectorStore,
        *,
        long_documents: LongDocuments = DEFAULT_POLICY,
        encoding: str = "",
        retrier: Retrier | None = None,
    ) -> None:
        self._store = store
        self._long_documents = long_documents
        self._encoding = encoding
        self._retrier = retrier or Retrier()
        self._types = store.field_types
        self._max_rows = store.max_rows

    def check(self, document: Document, index: int = 0) -> Document:
        """The document as it will be stored, with how it will be encoded.

        Args:
            document: given by a user.
            index: its place, for errors.

        Raises:
            DocumentError: the store cannot hold it; ``index`` is 0 unless given.
        """
        try:
            checked = check_documents([document])
            check_types(checked, self._types)
        except DocumentError as error:
            raise error.at(index) from error.__cause__
        return self._long_documents.with_encoding_mark(checked[0], self._max_rows, text=self._encoding)

    def look_up(self, documents: Sequence[Document]) -> Found:
        """What the store holds under the ids of documents.

        Args:
            documents: checked, each id once.

        Raises:
            StoreError: the store cannot be asked.
        """
        new = {document.id: document for document in documents}
        stored = self._retrier.call(self._store.get, list(new)) if new else []
        faults = {old.id: fault for old in stored if (fault := _replaced_fault(old, new[old.id]))}
        outdated: dict[str, list[str]] = {}
        for old in stored:
            passage = new[old.id].passage
            count = 1 if passage is None else passage.count
            ids = [id for number, id in enumerate(other_passages(old), start=2) if number > count]
            if ids and (held := self._retrier.call(held_passages, self._store, ids, old.id)):
                outdated[old.id] = [one.id for one in held]
        return Found({document.id: document for document in stored}, faults, outdated)

    def write(
        self,
        documents: Sequence[Document],
        embeddings: M3Embeddings,
        outdated: Mapping[str, list[str]],
        *,
        refuse: Callable[[int, DocumentError | StoreRequestError], None] | None = None,
    ) -> Written:
        """Store documents, whole or piece by piece; a request that fails in a way that may pass is made again.

        Args:
            documents: n documents, checked.
            embeddings: of these.
            outdated: of ``look_up``.
            refuse: called with the index of a document that cannot be stored, and why: the others are stored, in
                pieces of bounded size, and a refusal of the store is narrowed down to the documents that it is about.
                None stores all in one request or none.

        Raises:
            DocumentError: one cannot be stored, and there is no ``refuse``; ``index`` names it, nothing was written.
            StoreError: the store failed; pieces before it are stored.
        """
        written = Written(np.zeros(len(documents), np.bool_), np.zeros(len(documents), np.bool_))
        pieces = [(0, len(documents))] if refuse is None else list(_pieces(documents, embeddings))[::-1]
        failures = 0
        while pieces:
            start, stop = pieces.pop()
            some = documents[start:stop]
            left_over = [id for document in some for id in outdated.get(document.id, ())]
            try:
                vectors, shortened = self._long_documents.fit(some, embeddings[start:stop], self._max_rows)
                if left_over:  # before the first passage is replaced, which says how many there are
                    self._store.delete(left_over)
                self._store.upsert(some, vectors)
            except DocumentError as error:
                if refuse is None:
                    raise
                bad = start + error.index
                refuse(bad, error)
                middle = (bad + 1 + stop) // 2  # many bad ones in a row must not each cost a check of all that follow
                pieces += [(i, j) for i, j in ((middle, stop), (bad + 1, middle), (start, bad)) if i < j]
            except StoreError as error:
                if self._retrier.again(error, failures + 1):
                    failures += 1
                    pieces.append((start, stop))
                    continue
                if refuse is None or not isinstance(error, StoreRequestError) or not about_content(error):
                    raise
                middle = (start + stop) // 2
                if middle > start:  # which of them it is about
                    pieces += [(middle, stop), (start, middle)]
                else:
                    refuse(start, error)
            else:
                written.stored[start:stop], written.shortened[start:stop] = True, shortened
            failures = 0
        return written


def _pieces(documents: Sequence[Document], embeddings: M3Embeddings) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces below ``PIECE_BYTES``; a larger document travels alone."""
    start, size = 0, 0
    for i, (document, vectors) in enumerate(zip(documents, _vector_bytes(embeddings), strict=True)):
        bytes_of_row = vectors + len(document.text) + len(document.title)
        if i > start and (size + bytes_of_row > PIECE_BYTES or i - start == PIECE_DOCUMENTS):
            yield start, i
            start, size = i, 0
        size += bytes_of_row
    yield start, len(documents)


def _vector_bytes(embeddings: M3Embeddings) -> list[int]:
    """Bytes of each text's three vectors."""
    sizes = np.zeros(len(embeddings), np.int64)
    if embeddings.dense is not None:
        sizes += embeddings.dense.nbytes // max(1, len(embeddings.dense))
    if embeddings.sparse_offsets is not None:
        sizes += 8 * np.diff(embeddings.sparse_offsets)
    if embeddings.multi_vector is not None and embeddings.multi_vector_offsets is not None:
        row_bytes = embeddings.multi_vector.nbytes // max(1, len(embeddings.multi_vector))
        sizes += row_bytes * np.diff(embeddings.multi_vector_offsets)
    return [int(size) for size in sizes]


class BatchWriter:
    """Encodes and writes whole batches: what ``HybridIndex.add`` does with each.

    Args:
        embed: makes the vectors.
        store: keeps them.
        long_documents: what becomes of documents with more tokens than the store takes rows.

    Raises:
        ConfigError: documents are to be split, and the embedding function has no tokenizer.
    """

    def __init__(self, embed: Embedder, store: VectorStore, long_documents: LongDocuments) -> None:
        self._embed = embed
        self._splitter = make_splitter(embed, long_documents, store.max_rows)
        self._writer = Writer(store, long_documents=long_documents, encoding=text_encoding(embed))

    def add(self, batch: Sequence[Document], places: dict[str, int], *, batch_size: int) -> AddReport:
        """Encode and store documents.

        Args:
            batch: documents, as they were given.
            places: id → place of what this call of ``HybridIndex.add`` has stored before; those of the batch are added.
            batch_size: documents, or passages, that are encoded and written together.

        Raises:
            InputError: a text cannot be encoded or a document not stored; ``index`` is its place in ``batch``. Nothing
                of the batch is written; where it was split into more passages than ``batch_size``, those before it are.
            ModelOutputError: the model returned NaN or infinity for a text; likewise.
        """
        checked = [self._writer.check(document, i) for i, document in enumerate(batch)]
        before = len(places)
        for i, document in enumerate(checked):
            first = places.setdefault(document.id, before + i)
            if first != before + i:
                raise DocumentError(
                    f"document {i}: its id {document.id!r} is that of document {first}: an id occurs once in a call of "
                    f"add; leave one of them out, or replace the first in a later call",
                    index=i,
                )
        split = [self._splitter.split(one, index=i) if self._splitter else [one] for i, one in enumerate(checked)]
        owners = [i for i, parts in enumerate(split) for _ in parts]
        passages = [passage for parts in split for passage in parts]
        found = self._writer.look_up(passages)
        for i, passage in zip(owners, passages, strict=True):
            if passage.id in found.faults:
                raise DocumentError(f"document {i}: {found.faults[passage.id]}", index=i)
        report = AddReport(len(batch), len(passages), sum(len(parts) > 1 for parts in split))
        for start in range(0, len(passages), batch_size):
            some = passages[start : start + batch_size]
            with placed(owners[start:]):
                embeddings = self._embed.encode_documents([one.content for one in some])
                written = self._writer.write(some, embeddings, found.outdated)
            report += AddReport(
                long_documents=int(written.shortened.sum()),
                truncated=int(embeddings.truncated.sum()),
                tokens=int(embeddings.token_counts.sum()),
            )
        return report


def _replaced_fault(stored: Document, document: Document) -> str | None:
    """Why a passage may not be stored where there is a document of another one's id already, None if it may."""
    after = document.passage
    if after is None or after.number == 1 or belongs_to(stored, after.document):
        return None
    return (
        f"its passage {after.number} would replace the document {stored.id!r}, which was stored when such ids were "
        f"allowed: store that one under another id and delete it, or give {after.document!r} another id"
    )


@contextmanager
def placed(places: Sequence[int]) -> Iterator[None]:
    """Errors about an item of a part name its place in the whole.

    Args:
        places: of the part's items.
    """
    try:
        yield
    except ItemError as error:
        raise error.at(places[error.index]) from error.__cause__
