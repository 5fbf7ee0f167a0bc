"""``AsyncHybridIndex``: ``HybridIndex`` for asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Final, TypeVar

from m3_vdb.boosts import Boosts, read_boosts
from m3_vdb.encoding.coalesce import Coalescer
from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import StoreError
from m3_vdb.index import HybridIndex, with_words
from m3_vdb.inputs import DocumentLike, many_documents, read_documents, read_query, whole_number
from m3_vdb.passages import DocumentPage
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
from m3_vdb.writer import AddReport, placed

T = TypeVar("T")
_REQUESTS: Final = 8
"""Maximum concurrent requests to a server; a folder or memory gets one at a time."""


class AsyncHybridIndex:
    """A searchable collection of texts, with the methods of ``HybridIndex`` for asyncio.

    The event loop is never blocked: one worker thread encodes texts, one call after the other, and other threads send
    requests to the store, several at a time if it is a server. Queries at the same time share forward passes if the
    embedding function is a ``Coalescer``. Cancelling an await does not stop a call that has started.

    Args:
        index: an open index; ``close`` closes it.
    """

    def __init__(self, index: HybridIndex) -> None:
        self._index = index
        self._closed = False
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="m3-vdb-encode")
        requests = _REQUESTS if index.store.is_server else 1
        self._requests = ThreadPoolExecutor(requests, thread_name_prefix="m3-vdb-store")

    @classmethod
    async def open(
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
    ) -> AsyncHybridIndex:
        """Open a collection and the model for it; ``close`` closes both.

        Args:
            store: a folder, a server URL, or ``memory://``.
            model: a bundle's directory, a built-in name or a hub id; None for the model that ships with m3-vdb; or an
                embedding function, which stays open.
            create: create the collection if it does not exist.
            exact: choose candidates by a full scan (True), by HNSW (False), or by the store's default (None).
            options: options of a new collection.
            long_documents: what ``add`` does with documents longer than the store's multi-vector limit.
            api_key: key of a server; None reads ``QDRANT_API_KEY`` or ``MILVUS_TOKEN``.
            prefer_grpc: gRPC for all (True) or nothing (False) of a Qdrant server; None for vectors, if it answers.
            grpc_port: port for gRPC; None for 6334 beside 6333.
            timeout: seconds to wait for a server's answer.
            read_only: write nothing; of a folder, read a copy of it as it is now.

        Returns:
            The open index.

        Raises:
            M3Error: as ``HybridIndex.open``.
        """
        opening = partial(
            HybridIndex.open,
            store,
            model=model,
            create=create,
            exact=exact,
            options=options,
            long_documents=long_documents,
            api_key=api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=timeout,
            read_only=read_only,
        )
        return cls(await _in_thread(opening))

    async def add(
        self, documents: Iterable[DocumentLike] | AsyncIterable[DocumentLike], *, batch_size: int = 64
    ) -> AddReport:
        """Encode and store documents; a known id is replaced. Queries are encoded between two batches.

        Args:
            documents: documents or dicts, any iterable or asynchronous iterable, read ``batch_size`` at a time.
            batch_size: documents encoded and stored together.

        Returns:
            How many documents were stored, as how many passages, and how many were too long.

        Raises:
            InputError, ModelOutputError, ConfigError: as ``HybridIndex.add``; ``index`` counts all documents.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        report, places = AddReport(), dict[str, int]()
        async for batch in _batches(documents, batch_size):
            with placed(range(report.documents, report.documents + len(batch))):
                given = list(read_documents(batch))
                add = partial(self._index._writer.add, given, places, batch_size=batch_size)
                report += await self._run(self._encoder, add)
        return report

    async def query(
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
        """The best documents for a text, best first.

        Args:
            text: the query.
            weights: ``Weights``, the name of a preset, or three numbers.
            limit: documents to return.
            offset: documents to skip before them.
            candidates: documents (or passages) to score.
            source: where candidates come from: "dense", "sparse" or "union".
            fusion: "weighted_sum" (the M3 score), "rrf" or "dbsf".
            ef: effort of an approximate dense search.
            score_threshold: drop hits with a lower score.
            filter: payload conditions that must hold.
            boosts: fields of the payload that add to the score, as ``Boost`` or text such as "modified:0.2:30d".
            explain: also fill ``Hit.parts``.

        Returns:
            At most ``limit`` hits.

        Raises:
            TextError, ConfigError: as ``HybridIndex.query``.
        """
        search = partial(
            self._index.store.query,
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
        (query,) = with_words(self._index.store, [text], [await self._encode_query(read_query(text))])
        search = partial(search, query)
        return await self._run(self._requests, lambda: page.documents(search(limit=page.first), search))

    async def query_many(
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
        """``query`` for many texts, encoded together and sent as one batched request if the store supports it.

        Args:
            texts: n queries, any iterable.
            weights: this and the following arguments as ``query``, the same for all texts.
            limit: documents to return per text.
            offset: documents to skip before them.
            candidates: documents (or passages) to score.
            source: where candidates come from.
            fusion: how scores are combined.
            ef: effort of an approximate dense search.
            score_threshold: drop hits with a lower score.
            filter: payload conditions that must hold.
            boosts: fields of the payload that add to the score, as ``Boost`` or text such as "modified:0.2:30d".
            explain: also fill ``Hit.parts``.

        Returns:
            n lists of hits, in the order of ``texts``.

        Raises:
            TextError, ConfigError: as ``HybridIndex.query_many``.
        """
        ask = partial(
            self._index.query_many,
            texts,
            weights=weights,
            limit=limit,
            offset=offset,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=filter,
            boosts=read_boosts(boosts),
            explain=explain,
        )
        return await self._run(self._encoder, ask)

    async def explain(self, text: str, hit: Hit) -> Explanation:
        """The score of a hit, token by token.

        Raises:
            TextError, ConfigError: as ``HybridIndex.explain``.
        """
        return await self._run(self._encoder, partial(self._index.explain, text, hit))

    async def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that exist, whole, in the order of ``ids``.

        Raises:
            ConfigError, DocumentError: as ``HybridIndex.get``.
        """
        return await self._run(self._requests, partial(self._index.get, ids))

    async def update(self, ids: Iterable[str], payload: Payload) -> None:
        """Replace the payload of documents without encoding them; unknown ids are ignored.

        Raises:
            ConfigError, DocumentError: as ``HybridIndex.update``; nothing was changed.
        """
        await self._run(self._requests, partial(self._index.update, ids, payload))

    async def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete documents by their ids or by a filter; unknown ids are ignored.

        Raises:
            ConfigError, DocumentError: as ``HybridIndex.delete``; nothing was deleted.
        """
        await self._run(self._requests, partial(self._index.delete, ids, filter=filter))

    async def count(self, filter: Filter | None = None) -> int:
        """Number of stored documents that match a filter, or of all; a split document counts once per passage.

        Raises:
            ConfigError: the filter cannot be used.
        """
        return await self._run(self._requests, partial(self._index.count, filter))

    async def close(self) -> None:
        """Wait for running calls, then close the index; a second call does nothing."""
        self._closed = True
        for finish in (self._encoder.shutdown, self._requests.shutdown, self._index.close):
            await _in_thread(finish)

    def __repr__(self) -> str:
        return f"Async{self._index!r}"

    async def __aenter__(self) -> AsyncHybridIndex:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _encode_query(self, text: str) -> M3Embedding:
        embed = self._index.embed
        if isinstance(embed, Coalescer):  # several queries share a pass, and no thread waits for it
            import asyncio  # noqa: PLC0415 - as below

            return (await asyncio.wrap_future(embed.submit([text])))[0]
        return (await self._run(self._encoder, partial(embed.encode_queries, [text])))[0]

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError(f"{self!r} is closed: open it again")
        return await _in_thread(call, pool)


async def _in_thread(call: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
    import asyncio  # noqa: PLC0415 - a quarter of the time that importing m3_vdb would take

    return await asyncio.get_running_loop().run_in_executor(pool, call)


async def _batches(
    documents: Iterable[DocumentLike] | AsyncIterable[DocumentLike], size: int
) -> AsyncIterator[list[DocumentLike]]:
    """Batches of up to ``size`` documents."""
    if not isinstance(documents, AsyncIterable):
        items = many_documents(documents)
        while batch := list(islice(items, size)):
            yield batch
        return
    batch = []
    async for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
