"""Text in, hits out: an embedding function and a store put together. Everything else is theirs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from types import TracebackType

from m3_vdb.bm25 import bm25_query
from m3_vdb.boosts import Boosts, read_boosts
from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.explain import explain_hits
from m3_vdb.inputs import DocumentLike, read_documents, read_ids, read_query, read_texts, whole_number
from m3_vdb.passages import DocumentPage, stored_ids, whole_documents
from m3_vdb.stores import open_store
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.options import (
    DEFAULT_CANDIDATES,
    DEFAULT_OPTIONS,
    DEFAULT_SOURCE,
    DEFAULT_WEIGHTS,
    CollectionOptions,
    Fusion,
    Source,
)
from m3_vdb.types import Document, Explanation, Filter, Hit, M3Embedding, Payload
from m3_vdb.weights import WeightsLike
from m3_vdb.writer import AddReport, BatchWriter, check_parts, placed


class HybridIndex:
    """A searchable collection of texts: an embedding function and a store.

    ``HybridIndex.open("./notes.qdrant")`` opens both; the constructor takes what is open already.

    Args:
        embed: makes the vectors; stays open when the index is closed.
        store: keeps them; the index closes it.
        long_documents: what ``add`` does with documents of more tokens than the store takes rows. Reading needs no
            plan: documents that were split are found, counted among ``limit`` and returned as one.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
        ConfigError: an argument is something else, or documents are to be split and the embedding function has no
            tokenizer.
    """

    def __init__(self, embed: Embedder, store: VectorStore, *, long_documents: LongDocuments = DEFAULT_POLICY) -> None:
        check_parts(embed, store)
        self._embed = embed
        self._store = store
        self._writer = BatchWriter(embed, store, long_documents)
        self._resources = ExitStack()
        self._resources.callback(store.close)

    @classmethod
    def open(
        cls,
        store: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | Embedder | None = None,
        create: bool = True,
        exact: bool | None = None,
        options: CollectionOptions = DEFAULT_OPTIONS,
        long_documents: LongDocuments = DEFAULT_POLICY,
        api_key: str | None = None,
        prefer_grpc: bool | None = None,
        grpc_port: int | None = None,
        timeout: int = 60,
        read_only: bool = False,
    ) -> HybridIndex:
        """Open a collection and the model for it; ``close`` closes what was opened here.

        Args:
            store: a folder (``./notes.qdrant``, ``./notes.milvus.db``), a server
                (``qdrant://localhost:6333/notes``, ``milvus://localhost:19530/notes``), or ``memory://``; see
                ``open_store``, like all that follow but ``model`` and ``long_documents``.
            model: a bundle's directory, a built-in name, or a hub id for ``M3EmbeddingFunction``; None for the model
                that ships with m3-vdb; or an embedding function, which stays open when the index is closed.
            create: make the collection if there is none.
            exact: pick candidates by a full scan (True), by HNSW (False), or as is natural for the store (None).
            options: how a new collection is made: storage, payload indexes, …
            long_documents: what ``add`` does with documents of more tokens than the store takes rows.
            api_key: for a server; None takes the environment variable ``QDRANT_API_KEY`` or ``MILVUS_TOKEN``.
            prefer_grpc: gRPC for all (True) or nothing (False) of a Qdrant server; None for vectors, if it answers.
            grpc_port: the port for that; None for 6334 beside 6333.
            timeout: seconds to wait for a server's answer.
            read_only: write nothing; of a folder, read a copy of it as it is now.

        Raises:
            BundleError: the model is missing or damaged.
            StoreUrlError: the store has none of these forms.
            CollectionNotFoundError: there is no such collection, and ``create=False``.
            CollectionMismatchError: the collection belongs to another model.
            ConfigError: an option that the store does not have, or an argument of another type.
            MissingExtraError: the store's packages are not installed.
            StoreConnectionError: the server did not answer.
            StoreError: a folder is open already, or cannot be written.
        """
        with ExitStack() as opened:
            if model is None or isinstance(model, str | os.PathLike):
                embed: Embedder = opened.enter_context(M3EmbeddingFunction(model))
            else:
                embed = model
            collection = open_store(
                store,
                embed,
                create=create,
                exact=exact,
                options=options,
                api_key=api_key,
                prefer_grpc=prefer_grpc,
                grpc_port=grpc_port,
                timeout=timeout,
                read_only=read_only,
            )
            opened.callback(collection.close)
            index = cls(embed, collection, long_documents=long_documents)
            index._resources = opened.pop_all()
            return index

    @property
    def store(self) -> VectorStore:
        """The open store, for what an index does not offer, such as ``scroll``, ``rank`` and ``optimize``."""
        return self._store

    @property
    def embed(self) -> Embedder:
        """The embedding function."""
        return self._embed

    def add(self, documents: Iterable[DocumentLike], *, batch_size: int = 64) -> AddReport:
        """Encode documents and store them; what an earlier call stored under an id is replaced.

        An id occurs once in a call: a second document with it is an error, so that none is lost unseen. (Ids are kept
        in memory until the call returns; ``ingest`` keeps them on disk.)

        Batches are stored as they are done: if one fails, nothing of it is stored, and those before it stay. (Of a long
        document that is split into more passages than ``batch_size``, the passages before the failure stay.)

        Args:
            documents: any number, also a generator; read ``batch_size`` at a time. A dict with id, text and, if there
                are any, title and payload is a document too; without a payload, its other fields are the payload.
            batch_size: documents encoded and stored together.

        Returns:
            How many documents were stored, as how many passages, and how many were too long.

        Raises:
            InputError: a text cannot be encoded, a document not stored, or its id repeats an earlier one; ``index``
                is its place in ``documents``.
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` is its place in ``documents``.
            ConfigError: ``documents`` is one document or nothing that holds documents, or ``batch_size`` is below 1.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        remaining = read_documents(documents)
        report, places = AddReport(), dict[str, int]()
        while batch := list(islice(remaining, batch_size)):
            with placed(range(report.documents, report.documents + len(batch))):
                report += self._writer.add(batch, places, batch_size=batch_size)
        return report

    def query(
        self,
        text: str,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        boosts: Boosts = (),
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents for a text, best first; the arguments are those of ``VectorStore.query``.

        A document that was split has the score of its best passage among the candidates, which are passages then;
        ``Hit.passage`` says which one it is, and ``Hit.document`` has its text.

        Raises:
            TextError: ``text`` is not one string.
            ConfigError: as ``VectorStore.query``.
        """
        search = partial(
            self._store.query,
            weights=weights,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=filter,
            boosts=read_boosts(boosts),
            explain=explain,
        )
        page = DocumentPage.read(limit, offset, candidates)
        (query,) = with_words(self._store, [text], self._embed.encode_queries([read_query(text)]))
        search = partial(search, query)
        return page.documents(search(limit=page.first), search)

    def query_many(
        self,
        texts: Iterable[str],
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        boosts: Boosts = (),
        explain: bool = False,
    ) -> list[list[Hit]]:
        """``query`` for many texts: encoded in one pass, asked in one batched request where the store has one.

        Args:
            texts: n queries, any iterable.
            weights: this and all that follow as ``query``, the same for all texts.
            limit: documents per text.
            offset: documents to skip before them.
            candidates: documents, or passages, taken from a list and scored.
            source: the list or lists that they are taken from; "union" is both, "dense" alone is faster.
            fusion: how scores become one.
            ef: effort of an approximate dense search.
            score_threshold: drop hits with a lower score.
            filter: payload conditions that must hold.
            boosts: fields of the payload that add to the score, as ``Boost`` or text such as "modified:0.2:30d".
            explain: also fill ``Hit.parts``.

        Returns:
            n lists of hits, in the order of ``texts``; each is what ``query`` returns.

        Raises:
            TextError: an item is not a usable string; ``index`` names it.
            ConfigError: as ``query``.
        """
        search = partial(
            self._store.query_many,
            weights=weights,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=filter,
            boosts=read_boosts(boosts),
            explain=explain,
        )
        page = DocumentPage.read(limit, offset, candidates)
        read = read_texts(texts)
        queries = with_words(self._store, read, self._embed.encode_queries(read))
        found = search(queries, limit=page.first)
        more = [lambda query=query, **part: search([query], **part)[0] for query in queries]
        return [page.documents(hits, ask) for hits, ask in zip(found, more, strict=True)]

    def explain(self, text: str, hit: Hit) -> Explanation:
        """The score of a hit, token by token: which tokens match, and what each adds.

        Query and document are encoded again. The terms add up to ``Hit.parts`` within 1e-5 if the collection keeps full
        precision and the runtime computes in float32. With bfloat16 (``m3-vdb info`` names it), vectors depend on the
        texts that share a pass: differences up to 2e-4 were measured. ``storage="half"`` and ``"quarter"`` round the
        store's own numbers, and pooled rows change them (``Explanation.notes``).

        Args:
            text: the query.
            hit: a result of it.

        Raises:
            ConfigError: the embedding function has no tokenizer.
            TextError: ``text`` is not one string.
        """
        return explain_hits(self._embed, text, [hit])[0]

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that exist, whole, in the order of ``ids``.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids.
            DocumentError: an id is not a string.
        """
        return whole_documents(self._store, read_ids(ids))

    def update(self, ids: Iterable[str], payload: Payload) -> None:
        """Replace the payload of documents with all their passages; texts and vectors stay, and nothing is encoded.

        Args:
            ids: of documents; unknown ids are ignored.
            payload: what each of them gets in place of the old one: fields that it lacks are gone.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids; nothing was changed.
            DocumentError: an id is not a string, or the payload cannot be stored; nothing was changed.
        """
        self._store.update(stored_ids(self._store, read_ids(ids)), payload)

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> None:
        """Remove documents with all their passages, by their ids or by a filter.

        Args:
            ids: of documents; unknown ids are ignored.
            filter: payload conditions that must hold, at least one, instead of ids.

        Raises:
            ConfigError: not one of the two is given, ``ids`` is one string or nothing that holds ids, or the filter
                cannot be used; nothing was deleted.
            DocumentError: an id is not a string; nothing was deleted.
        """
        self._store.delete(None if ids is None else stored_ids(self._store, read_ids(ids)), filter=filter)

    def count(self, filter: Filter | None = None) -> int:
        """What the collection holds, or what of it matches a filter: documents, and of those that were split passages.

        Raises:
            ConfigError: the filter cannot be used.
        """
        return self._store.count(filter)

    def close(self) -> None:
        """Close the store, and the model if ``open`` opened it; a second call does nothing."""
        self._resources.close()

    def __repr__(self) -> str:
        return f"HybridIndex({self._embed.identity.name}, {self._store!r})"

    def __enter__(self) -> HybridIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def with_words(store: VectorStore, texts: Sequence[str], queries: Iterable[M3Embedding]) -> list[M3Embedding]:
    """Queries with the exact words of their texts, if the store has use for them."""
    if not store.has_bm25:
        return list(queries)
    return [replace(query, bm25=bm25_query(text)) for text, query in zip(texts, queries, strict=True)]
