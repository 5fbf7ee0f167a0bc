"""Text in, hits out: an embedding function and a store put together. Everything else is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Protocol

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.fusion import Weights
from m3_vdb.long_documents import REFUSE, LongDocuments, text_encoding
from m3_vdb.passages import (
    group_hits,
    make_splitter,
    outdated_passages,
    replaced_fault,
    stored_ids,
    whole_documents,
)
from m3_vdb.stores._checks import check_documents
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.identity import ModelIdentity
from m3_vdb.stores.search import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, Fusion, Source
from m3_vdb.types import Document, Filter, Hit, M3Embeddings


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


class HybridIndex:
    """A searchable collection of texts.

    Args:
        embed: makes the vectors; stays open when the index is closed.
        store: keeps them; the index closes it.
        long_documents: what ``add`` does with documents of more tokens than the store takes rows. Reading needs no
            plan: documents that were split are found, counted among ``limit`` and returned as one.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
        ConfigError: documents are to be split and the embedding function has no tokenizer.

    Attributes:
        long_count: documents added so far that were too long, and were pooled, cut or split.
    """

    def __init__(self, embed: Embedder, store: VectorStore, *, long_documents: LongDocuments = REFUSE) -> None:
        embed.identity.require_same(store.identity, where="the store")
        self._embed = embed
        self._store = store
        self._plan = long_documents
        self._encoding = text_encoding(embed)
        self._splitter = make_splitter(embed, long_documents, store.max_rows)
        self.long_count = 0

    def add(self, documents: Iterable[Document], *, batch_size: int = 64) -> int:
        """Encode documents and store them; a known id is replaced. Returns how many were taken from ``documents``.

        Batches are stored as they are done: if one fails, those before it stay.

        Args:
            documents: any number, also a generator; read ``batch_size`` at a time.
            batch_size: documents encoded and stored together.

        Raises:
            InputError: a text cannot be encoded or a document not stored; ``index`` counts within its batch (of
                passages, where documents are split).
            ConfigError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        remaining = iter(documents)
        added = 0
        while batch := list(islice(remaining, batch_size)):
            passages = self._split(check_documents(batch))
            for start in range(0, len(passages), batch_size):
                self._add(passages[start : start + batch_size])
            added += len(batch)
        return added

    def _split(self, batch: list[Document]) -> list[Document]:
        """The documents, long ones as passages where that is the plan."""
        if self._splitter is None:
            return batch
        parts = [self._splitter.split(document, index=i) for i, document in enumerate(batch)]
        others = {passage.id: (i, passage) for i, part in enumerate(parts) for passage in part[1:]}
        for stored in self._store.get(list(others)) if others else ():
            i, passage = others[stored.id]
            if fault := replaced_fault(stored, passage):
                raise DocumentError(f"document {i}: {fault}", index=i)
        self.long_count += sum(len(part) > 1 for part in parts)
        return [passage for part in parts for passage in part]

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
        weights: Weights = DEFAULT_WEIGHTS,
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
        """
        query = self._embed.encode_queries([text])[0]
        if offset < 0 or limit < 1:
            raise ConfigError(f"limit={limit}, offset={offset}: expected at least 1 hit, and 0 or more to skip")

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

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids that exist, whole, in the order of ``ids``."""
        return whole_documents(self._store, ids)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents with all their passages; unknown ids are ignored."""
        self._store.delete(stored_ids(self._store, ids))

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
