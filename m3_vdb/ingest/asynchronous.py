"""``ingest`` for programs that run an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as WaitedEnough
from typing import Any, Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.ingest.batch import Item
from m3_vdb.ingest.pipeline import ingest
from m3_vdb.ingest.report import IngestReport, Progress
from m3_vdb.stores.base import VectorStore

_TICK: Final = 0.1
_END: Final = object()


async def async_ingest(
    items: Iterable[Item] | AsyncIterable[Item],
    embed: Embedder,
    store: VectorStore,
    *,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,  # noqa: ANN401 - those of ``ingest``
) -> IngestReport:
    """``ingest`` in a thread; the event loop stays free.

    Cancelling the task ends the run like Ctrl-C: what is encoded is stored, the checkpoint is written, and only then
    the cancellation goes on.

    Args:
        items: as ``ingest``, or an asynchronous iterable, which is read in the event loop.
        embed: makes the vectors.
        store: keeps them.
        progress: called in the event loop.
        options: the other arguments of ``ingest``, but ``stop``.

    Raises:
        M3Error: as ``ingest``.
        OSError: as ``ingest``.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    source = _bridge(aiter(items), loop, stop) if isinstance(items, AsyncIterable) else items

    def tell(state: Progress) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, state)

    def run() -> IngestReport:
        return ingest(source, embed, store, progress=tell, stop=stop, **options)

    task = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        raise


def _bridge(items: AsyncIterator[Item], loop: asyncio.AbstractEventLoop, stop: threading.Event) -> Iterator[Item]:
    """An asynchronous iterator, read from another thread."""

    async def following() -> object:
        return await anext(items, _END)

    while not stop.is_set():
        future = asyncio.run_coroutine_threadsafe(following(), loop)
        while True:
            try:
                item = future.result(timeout=_TICK)
                break
            except WaitedEnough:
                if future.done():  # the source itself raised a TimeoutError
                    raise
                if stop.is_set():
                    future.cancel()
                    return
        if item is _END:
            return
        yield item  # type: ignore[misc]  # following() gives items or _END
