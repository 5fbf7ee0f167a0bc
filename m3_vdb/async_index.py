"""``AsyncHybridIndex``: ``HybridIndex`` for asyncio. It shares everything but the awaits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Final, TypeVar

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import StoreError
from m3_vdb.index import HybridIndex
from m3_vdb.inputs import DocumentLike, many_documents, read_query, whole_number
from m3_vdb.passages import DocumentPage
from m3_vdb.stores.options import (
    DEFAULT_CANDIDATES,
    DEFAULT_OPTIONS,
    DEFAULT_WEIGHTS,
    CollectionOptions,
    Fusion,
    Source,
)
from m3_vdb.types import Document, Filter, Hit, Payload
from m3_vdb.weights import WeightsLike
from m3_vdb.writer import AddReport, placed

T = TypeVar("T")
_REQUESTS: Final = 8
"""Requests to a server at the same time; a folder and memory take one after the other."""


class AsyncHybridIndex:
    """A searchable collection of texts, for asyncio: the methods of ``HybridIndex``, awaited.

    The event loop never waits: texts are encoded in one worker thread, which uses all cores for one text after the
    other, and requests to the store run in threads of their own, several at a time if it is a server. Cancelling an
    await does not stop what has begun.

    Args:
        index: an open index; closed by ``close``.
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
        prefer_grpc: bool = False,
        grpc_port: int = 6334,
        timeout: int = 60,
    ) -> AsyncHybridIndex:
        """``HybridIndex.open`` in a thread, with its arguments and errors."""
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
        )
        return cls(await _in_thread(opening))

    async def add(
        self, documents: Iterable[DocumentLike] | AsyncIterable[DocumentLike], *, batch_size: int = 64
    ) -> AddReport:
        """``HybridIndex.add``; ``documents`` may be asynchronous. Queries are encoded between its batches."""
        batch_size = whole_number("batch_size", batch_size, least=1)
        report = AddReport()
        async for batch in _batches(documents, batch_size):
            with placed(range(report.documents, report.documents + len(batch))):
                report += await self._run(self._encoder, partial(self._index.add, batch, batch_size=batch_size))
        return report

    async def query(
        self,
        text: str,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """``HybridIndex.query``, with its arguments and errors."""
        search = partial(
            self._index.store.query,
            weights=weights,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=filter,
            explain=explain,
        )
        page = DocumentPage.read(limit, offset, candidates)
        encode = partial(self._index.embed.encode_queries, [read_query(text)])
        search = partial(search, (await self._run(self._encoder, encode))[0])
        return await self._run(self._requests, lambda: page.documents(search(limit=page.first), search))

    async def query_many(
        self,
        texts: Iterable[str],
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[list[Hit]]:
        """``HybridIndex.query_many``, with its arguments and errors; all of it in the thread that encodes."""
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
            explain=explain,
        )
        return await self._run(self._encoder, ask)

    async def get(self, ids: Iterable[str]) -> list[Document]:
        """``HybridIndex.get``."""
        return await self._run(self._requests, partial(self._index.get, ids))

    async def update(self, ids: Iterable[str], payload: Payload) -> None:
        """``HybridIndex.update``."""
        await self._run(self._requests, partial(self._index.update, ids, payload))

    async def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> None:
        """``HybridIndex.delete``."""
        await self._run(self._requests, partial(self._index.delete, ids, filter=filter))

    async def count(self, filter: Filter | None = None) -> int:
        """``HybridIndex.count``."""
        return await self._run(self._requests, partial(self._index.count, filter))

    async def close(self) -> None:
        """Wait for what has begun, then close the index; a second call does nothing."""
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
    """Up to ``size`` documents at a time."""
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
