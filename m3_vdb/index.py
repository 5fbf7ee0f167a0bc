"""Text in, hits out: an embedding function and a store put together. Everything else is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Protocol

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments, text_encoding
from m3_vdb.errors import ConfigError, DocumentError, ItemError
from m3_vdb.inputs import DocumentLike, read_documents, read_ids, read_query, whole_number
from m3_vdb.passages import (
    group_hits,
    make_splitter,
    outdated_passages,
    replaced_fault,
    stored_ids,
    whole_documents,
)
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.checks import check_documents
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, Fusion, Source
from m3_vdb.types import Document, Filter, Hit, M3Embeddings
from m3_vdb.weights import WeightsLike


class Embedder(Protocol):
    """What an index needs of an embedding function; ``M3EmbeddingFunction`` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """The model behind it."""
        ...

    def encode_documents(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n passages, all three parts."""
        ...

    def encode_queries(self, texts: list[str], /) -> M3Embeddings:
        """Embeddings of n queries, all three parts."""
        ...


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


class HybridIndex:
    """A searchable collection of texts.

    Args:
        embed: makes the vectors; stays open when the index is closed.
        store: keeps them; the index closes it.
        long_documents: what ``add`` does with documents of more tokens than the store takes rows. Reading needs no
            plan: documents that were split are found, counted among ``limit`` and returned as one.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
        ConfigError: an argument is something else, or documents are to be split and the embedding function has no
            tokenizer.

    Attributes:
        long_count: documents added so far that were too long, and were pooled, cut or split.
    """

    def __init__(self, embed: Embedder, store: VectorStore, *, long_documents: LongDocuments = REFUSE) -> None:
        check_parts(embed, store)
        self._embed = embed
        self._store = store
        self._plan = long_documents
        self._encoding = text_encoding(embed)
        self._splitter = make_splitter(embed, long_documents, store.max_rows)
        self.long_count = 0

    def add(self, documents: Iterable[DocumentLike], *, batch_size: int = 64) -> int:
        """Encode documents and store them; a known id is replaced. Returns how many were taken from ``documents``.

        Batches are stored as they are done: if one fails, those before it stay.

        Args:
            documents: any number, also a generator; read ``batch_size`` at a time. A dict with id, text and, if there
                are any, title and payload is a document too; without a payload, its other fields are the payload.
            batch_size: documents encoded and stored together.

        Raises:
            InputError: a text cannot be encoded or a document not stored; ``index`` is its place in ``documents``.
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` is its place in ``documents``.
            ConfigError: ``documents`` is one document or nothing that holds documents, or ``batch_size`` is below 1.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        remaining = read_documents(documents)
        added = 0
        while batch := list(islice(remaining, batch_size)):
            with _placed(range(added, added + len(batch))):
                checked = check_documents(batch)
            # Of an id that occurs twice the last one wins, with its passages and no others.
            kept = sorted({document.id: i for i, document in enumerate(checked)}.values())
            with _placed([added + i for i in kept]):
                parts = self._split([checked[i] for i in kept])
            passages = [passage for part in parts for passage in part]
            places = [added + i for i, part in zip(kept, parts, strict=True) for _ in part]
            for start in range(0, len(passages), batch_size):
                with _placed(places[start:]):
                    self._add(passages[start : start + batch_size])
            added += len(batch)
        return added

    def _split(self, batch: list[Document]) -> list[list[Document]]:
        """The passages of each document, where that is the plan for long ones; else the documents themselves."""
        if self._splitter is None:
            return [[document] for document in batch]
        parts = [self._splitter.split(document, index=i) for i, document in enumerate(batch)]
        others = {passage.id: (i, passage) for i, part in enumerate(parts) for passage in part[1:]}
        for stored in self._store.get(list(others)) if others else ():
            i, passage = others[stored.id]
            if fault := replaced_fault(stored, passage):
                raise DocumentError(f"document {i}: {fault}", index=i)
        self.long_count += sum(len(part) > 1 for part in parts)
        return parts

    def _add(self, batch: list[Document]) -> None:
        embeddings = self._embed.encode_documents([document.content for document in batch])
        embeddings, long = self._plan.fit(batch, embeddings, self._store.max_rows)
        documents = [self._plan.marked(one, self._store.max_rows, text=self._encoding) for one in batch]
        known = {document.id: document for document in documents}
        outdated = outdated_passages(self._store, self._store.get(list(known)), known)
        if outdated:  # before the first passage is replaced, which says how many there are
            self._store.delete([name for names in outdated.values() for name in names])
        self._store.upsert(documents, embeddings)
        self.long_count += int(long.sum())

    def query(
        self,
        text: str,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        fusion: Fusion = "exact",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents for a text, best first; the arguments are those of ``VectorStore.query``.

        A document that was split has the score of its best passage among the candidates, which are passages then;
        ``Hit.passage`` says which one it is, and ``Hit.document`` has its text.

        Raises:
            TextError: ``text`` is not one string.
            ConfigError: as ``VectorStore.query``.
        """
        limit, offset = whole_number("limit", limit, least=1), whole_number("offset", offset, least=0)
        candidates = whole_number("candidates", candidates, least=1)
        query = self._embed.encode_queries([read_query(text)])[0]

        def search(start: int, count: int) -> list[Hit]:
            return self._store.query(
                query,
                weights=weights,
                limit=count,
                offset=start,
                candidates=candidates,
                source=source,
                fusion=fusion,
                ef=ef,
                score_threshold=score_threshold,
                filter=filter,
                explain=explain,
            )

        return group_hits(search, offset + limit, most=max(limit, candidates))[offset:]

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that exist, whole, in the order of ``ids``.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids.
            DocumentError: an id is not a string.
        """
        return whole_documents(self._store, read_ids(ids))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents with all their passages; unknown ids are ignored.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids; nothing was deleted.
            DocumentError: an id is not a string; nothing was deleted.
        """
        self._store.delete(stored_ids(self._store, read_ids(ids)))

    def count(self) -> int:
        """What the collection holds: documents, and of those that were split the passages."""
        return self._store.count()

    def close(self) -> None:
        """Close the store; a second call does nothing."""
        self._store.close()

    def __enter__(self) -> HybridIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _placed(places: Sequence[int]) -> Iterator[None]:
    """Errors about an item of a batch name its place in all that was given.

    Args:
        places: of the batch's items.
    """
    try:
        yield
    except ItemError as error:
        raise error.at(places[error.index]) from error.__cause__
