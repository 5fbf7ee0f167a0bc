"""The contract that every vector store keeps.

One collection holds, for every document, three named vectors (``dense``, ``sparse``, ``multi_vector``), the user's
id, title, text and payload, and once for the collection the identity of the model that made the vectors.

- **Scores.** ``query`` takes ``candidates`` documents from a search of the whole collection (``source``: the nearest by
  dense score, the best by lexical score, or both lists) and returns those with the highest *exact* M3 score
  (``m3_vdb.scoring``), fused by the engine in one request. A candidate without a common token has s_lex = 0; a
  candidate is never scored by a part of the formula only. ``rank`` is the same query without the documents.
- **Order.** By score, of equal scores by id. The candidates do not depend on the page, so pages of any size add up to
  one list in which no document comes twice, explained or not; beyond the candidates it ends.
- **Identity.** Opening a collection with a model whose identity differs raises ``CollectionMismatchError``.
- **Ids** are the user's strings. ``upsert`` of a known id replaces the document with all its vectors; ``update``
  replaces its payload and leaves the vectors as they are.
- **Filters** restrict the candidates *before* they are chosen, so ``limit`` hits come back if that many match. A
  filter names fields of the payload; ``m3_vdb.filters`` is the definition.
- **Errors** of the client library are mapped to ``StoreConnectionError`` or ``StoreRequestError``; a document that
  cannot be stored raises ``DocumentError`` with its index, before anything of the batch is written.
- **Payloads** come back as the JSON values they were; of a float, 15 digits are certain.
- **Threads.** Calls may come from several threads.
- **Processes.** A store is used in the process that opened it. In a forked child every method raises ``StoreError``
  and ``close`` does nothing; an open store cannot be pickled. A worker opens its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionNotFoundError, ConfigError, StoreError
from m3_vdb.filters import Expression
from m3_vdb.inputs import DocumentLike, read_ids, real_number, whole_number
from m3_vdb.stores.checks import check_documents, check_types
from m3_vdb.stores.options import Facts
from m3_vdb.stores.points import Point, make_points
from m3_vdb.stores.reading import READ_AT_ONCE, read_pages
from m3_vdb.stores.searching import Searchable
from m3_vdb.stores.waiting import OPTIMIZE_SECONDS, Waiting
from m3_vdb.types import Document, Filter, M3Embedding, M3Embeddings, Payload

Batch = TypeVar("Batch")


class VectorStore(Searchable):
    """One open collection. A context manager; complete after construction.

    The methods that all callers use are here, queries in ``searching.py``. They check what is common to all stores; a
    store defines those that they call, most of the same name with an underscore.
    """

    _read_only = False

    @property
    def is_server(self) -> bool:
        """Whether a server keeps the collection: requests at the same time gain time, and other machines may write."""
        return False

    @property
    def max_rows(self) -> int | None:
        """Multi-vector rows that a document may have here, for a plan for longer ones; None for any number."""
        return None

    @property
    def is_read_only(self) -> bool:
        """Whether it was opened for reading only; all that writes raises ``StoreError``."""
        return self._read_only

    def upsert(self, documents: Iterable[DocumentLike], embeddings: M3Embeddings) -> None:
        """Store documents with their vectors, replacing documents of the same id.

        Args:
            documents: n documents, or dicts with id, text, title and payload; if an id occurs twice, the last one wins.
            embeddings: n embeddings with all three parts, in the same order.

        Raises:
            DocumentError: a document or its vectors cannot be stored; nothing was written.
            ConfigError: documents and embeddings do not belong together, or a part is missing; nothing was written.
        """
        self.check_writable()
        points = make_points(
            documents,
            embeddings,
            identity=self.identity,
            max_rows=self.max_rows,
            types=self.field_types,
            bm25=self.has_bm25,
        )
        self._write(points)
        self._confirm()

    def check_writable(self) -> None:
        """Check that the collection may be changed.

        Raises:
            StoreError: it was opened for reading only, because that was asked for or its folder cannot be written.
        """
        self._check_process()
        if self._read_only:
            raise StoreError(
                f"the {self._where} is open for reading only: to change it, open it without read_only, and make its "
                f"folder writable"
            )

    def scroll(
        self, *, batch: int = READ_AT_ONCE, filter: Filter | None = None
    ) -> Iterator[tuple[list[Document], M3Embeddings]]:
        """Everything that is stored, in batches: for export, and to move a collection without encoding again.

        Every document comes once, in no particular order. Documents that are written or deleted on the way may come
        or not. The vectors are those that the store keeps: of a collection that is not ``storage="float32"`` they are
        rounded. ``token_counts`` are as encoded (without MCLS, and unless rows were pooled or cut, ``LongDocuments``);
        ``truncated`` is unknown and False. Of documents that were split, passages come.

        Args:
            batch: documents at a time, at most; fewer where their vectors would take more than a few megabytes.
            filter: payload conditions that must hold.

        Yields:
            n ≥ 1 documents and their n embeddings with all three parts.

        Raises:
            ConfigError: ``batch`` is below 1, or the filter cannot be used.
        """
        batch = whole_number("batch", batch, least=1)
        self._check_process()
        return self._checked(self._with_vectors(self._documents(READ_AT_ONCE, self._condition(filter)), batch))

    def documents(self, *, batch: int = READ_AT_ONCE, filter: Filter | None = None) -> Iterator[list[Document]]:
        """``scroll`` without the vectors, which are not requested.

        Args:
            batch: documents at a time, at most.
            filter: payload conditions that must hold.

        Yields:
            n ≥ 1 documents.

        Raises:
            ConfigError: ``batch`` is below 1, or the filter cannot be used.
        """
        batch = whole_number("batch", batch, least=1)
        self._check_process()
        return self._checked(self._documents(batch, self._condition(filter)))

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that exist, in the order of ``ids``.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids.
            DocumentError: an id is not a string.
        """
        self._check_process()
        return self._get(read_ids(ids))

    def get_with_vectors(self, ids: Iterable[str]) -> Iterator[tuple[list[Document], M3Embeddings]]:
        """``get`` with the vectors as they are kept, in batches like those of ``scroll``.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids.
            DocumentError: an id is not a string.
        """
        self._check_process()
        return self._checked(self._with_vectors([self._get(read_ids(ids))], READ_AT_ONCE))

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> None:
        """Remove documents by their ids, or all that match a filter.

        Args:
            ids: of documents; unknown ids are ignored.
            filter: payload conditions that must hold, at least one, instead of ids.

        Raises:
            ConfigError: not one of the two is given, ``ids`` is one string or nothing that holds ids, or the filter
                cannot be used; nothing was deleted.
            DocumentError: an id is not a string; nothing was deleted.
        """
        self.check_writable()
        if (ids is None) == (filter is None):
            got = "neither" if ids is None else "both"
            raise ConfigError(f"ids: expected a list of ids, or a filter instead; got {got}")
        if ids is not None:
            self._delete(read_ids(ids))
            self._confirm()
            return
        condition = self._condition(filter)
        if condition is None:
            raise ConfigError(
                "filter: it has no condition, so all documents would be deleted; give the ids of those to delete"
            )
        self._delete_matching(condition)
        self._confirm()

    def update(self, ids: Iterable[str], payload: Payload) -> None:
        """Replace the payload of documents; their texts and vectors stay, and nothing is encoded.

        The new payload takes the place of the old one: fields that it lacks are gone. A document that is upserted or
        deleted by others at the same time may come out either way.

        Args:
            ids: of documents; unknown ids are ignored.
            payload: what each of them gets.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids; nothing was changed.
            DocumentError: an id is not a string, or the payload cannot be stored; nothing was changed.
        """
        self.check_writable()
        names = list(dict.fromkeys(read_ids(ids)))
        plain = check_documents([Document("payload", "", payload=payload)])
        check_types(plain, self.field_types)
        documents = [replace(document, payload=plain[0].payload) for document in self._get(names)]
        if documents:
            self._update(documents)
            self._confirm()

    def update_payloads(self, documents: Iterable[Document]) -> None:
        """Store each document's own payload, and what m3-vdb notes about it; title, text and vectors stay as stored.

        Args:
            documents: of any payloads; of unknown ids they are ignored, and so are their texts.

        Raises:
            DocumentError: a payload cannot be stored; nothing was changed.
            ConfigError: ``documents`` holds no documents; nothing was changed.
        """
        self.check_writable()
        new = {one.id: one for one in check_documents(documents)}
        check_types(list(new.values()), self.field_types)
        changed = [
            replace(old, payload=new[old.id].payload, passage=new[old.id].passage, source=new[old.id].source)
            for old in self._get(list(new))
        ]
        if changed:
            self._update(changed)
            self._confirm()

    def count(self, filter: Filter | None = None) -> int:
        """Documents in the collection, or those that match a filter; exact.

        Raises:
            ConfigError: the filter cannot be used.
        """
        self._check_process()
        return self._count(self._condition(filter))

    def optimize(self, *, timeout: float = OPTIMIZE_SECONDS, waiting: Waiting | None = None) -> None:
        """Build the engine's indexes now and wait for them; changes no score. A store without indexes does nothing.

        Args:
            timeout: seconds to wait for a server; an engine in this process is done when the call returns.
            waiting: called while a server is waited for, with what it is doing and the seconds so far.

        Raises:
            ConfigError: ``timeout`` is not above 0.
            StoreError: the server is not done in time, or has failed to build them.
        """
        if real_number("timeout", timeout) <= 0:
            raise ConfigError(f"timeout={timeout!r}: expected seconds above 0")
        self.check_writable()
        self._optimize(timeout, waiting)

    def facts(self) -> Facts:
        """What the engine says about the collection; ``m3_vdb.stores.describe`` has it with counts and sizes."""
        self._check_process()
        return self._facts()

    def note_run(self, run: Mapping[str, Any]) -> None:
        """Note with the collection what the last ingest or sync was, for ``facts``; not where the store refuses.

        Args:
            run: plain JSON values.
        """
        self._check_process()
        if not self._read_only:
            with suppress(StoreError):  # a key may be allowed to write documents alone
                self._note_run(run)

    def sample(self, number: int) -> list[Document]:
        """Some documents, at most ``number``; the same as long as nothing changes."""
        self._check_process()
        return self._sample(whole_number("number", number, least=1))

    def disk_bytes(self) -> int | None:
        """Bytes that the collection takes on disk; None if the store cannot say."""
        self._check_process()
        return self._disk_bytes()

    @abstractmethod
    def _write(self, points: Sequence[Point]) -> None:
        """Store checked points of different ids, in requests that the engine takes."""

    @abstractmethod
    def _get(self, ids: Sequence[str]) -> list[Document]: ...

    @abstractmethod
    def _delete(self, ids: Sequence[str]) -> None: ...

    @abstractmethod
    def _delete_matching(self, condition: Expression) -> None: ...

    @abstractmethod
    def _update(self, documents: Sequence[Document]) -> None:
        """Store the payloads of documents that exist."""

    @abstractmethod
    def _count(self, condition: Expression | None) -> int: ...

    @abstractmethod
    def _documents(self, batch: int, condition: Expression | None) -> Iterator[list[Document]]:
        """All documents that match, each once, at most ``batch`` at a time."""

    @abstractmethod
    def _read(self, ids: Sequence[str]) -> list[tuple[Document, M3Embedding]]:
        """The documents with these ids that exist, with their vectors; ``read_pages`` says how many at a time."""

    def _with_vectors(
        self, parts: Iterable[Sequence[Document]], batch: int
    ) -> Iterator[tuple[list[Document], M3Embeddings]]:
        return read_pages(parts, self._read, batch=batch, width=self.identity.multi_vector_dim)

    def _confirm(self) -> None:
        """Called after each change, before it is acknowledged: whether it counts (``succession.check_place``)."""

    def _optimize(self, timeout: float, waiting: Waiting | None) -> None:
        """Nothing, for a store without indexes."""

    @abstractmethod
    def _facts(self) -> Facts: ...

    def _note_run(self, run: Mapping[str, Any]) -> None:
        """Nothing, for a store that keeps no notes."""

    def _sample(self, number: int) -> list[Document]:
        return next(self._documents(number, None), [])

    def _disk_bytes(self) -> int | None:
        """None, for a store that cannot say."""
        return None

    def _checked(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch
            self._check_process()


def new_identity(identity: ModelIdentity | None, *, create: bool, where: str) -> ModelIdentity:
    """The model of a collection that is about to be made.

    Raises:
        CollectionNotFoundError: it may not be made.
    """
    if identity is None or not create:
        raise CollectionNotFoundError(f"there is no {where}: check the name, or ingest into it first")
    return identity
