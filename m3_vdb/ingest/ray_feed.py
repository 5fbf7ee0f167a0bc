"""How batches get into a Ray Data job: a small actor that the driver fills, and a data source that empties it.

A corpus has no known length, and its rows are checked in one place; so the job has one read task, which asks the actor
for batch after batch. The actor holds only what is under way, and gives the same batch for the same number however
often it is asked: a read task that Ray begins again yields what it yielded before.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

if TYPE_CHECKING:
    from ray.actor import ActorHandle

NUMBER: Final = "number"
DATA: Final = "data"
GONE: Final = b""
"""Instead of a batch that is done already."""
_POLL_SECONDS: Final = 0.5


def message(number: int, data: bytes) -> pa.Table:
    """One row: what all stages of the job take and give."""
    return pa.table({NUMBER: [number], DATA: pa.array([data], pa.large_binary())})


class Feed:
    """The actor. What it holds is the driver's, who gives it again if the actor was lost and restarted."""

    def __init__(self) -> None:
        self._born = uuid.uuid4().hex
        self._held: dict[int, bytes] = {}
        self._first = 0
        self._end: int | None = None
        self._halted = False
        self._begun: Counter[tuple[str, int]] = Counter()
        self._changed = asyncio.Condition()

    async def sync(self, fresh: Mapping[int, bytes], first: int, end: int | None, halted: bool) -> str:
        """Take further batches, forget those before ``first``; a name that is another one after a restart.

        Args:
            fresh: number → batch.
            first: the first number that is not done.
            end: number of batches in all, once it is known.
            halted: whether the run is to end: no more batches are given out.
        """
        async with self._changed:
            self._held.update(fresh)
            self._first, self._end, self._halted = first, end, halted
            self._held = {number: data for number, data in self._held.items() if number >= first}
            self._begun = Counter({key: times for key, times in self._begun.items() if key[1] >= first})
            self._changed.notify_all()
        return self._born

    async def take(self, number: int) -> bytes | None:
        """A batch, as soon as it is there; ``GONE`` if it is done, None if there are no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._known(number))
        if self._halted or (self._end is not None and number >= self._end):
            return None
        return self._held.get(number, GONE)

    async def halted(self) -> bool:
        """Whether the run is to end."""
        return self._halted

    async def begin(self, stage: str, number: int) -> int:
        """A stage begins a batch: how often it has begun it now. 0 if the run is to end."""
        if self._halted:
            return 0
        self._begun[stage, number] += 1
        return self._begun[stage, number]

    def _known(self, number: int) -> bool:
        ended = self._end is not None and number >= self._end
        return self._halted or ended or number < self._first or number in self._held


class FeedSource(Datasource):  # type: ignore[misc]  # Ray is not typed for us
    """What the driver gives, as a data source.

    Args:
        feed: handle of the actor.
    """

    def __init__(self, feed: ActorHandle[Any]) -> None:
        super().__init__()
        self._feed = feed

    def get_name(self) -> str:
        """Name of the stage."""
        return "Corpus"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: object | None = None,
    ) -> list[ReadTask]:
        """One task, whatever the parallelism."""
        feed = self._feed

        def read() -> Iterator[pa.Table]:
            number = 0
            while (data := ray.get(feed.take.remote(number))) is not None:
                yield message(number, data)
                number += 1

        return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]


class Halted:
    """The driver's wish to end, seen from a worker; ends the waiting between two requests to a store.

    Args:
        feed: handle of the actor.
    """

    def __init__(self, feed: ActorHandle[Any]) -> None:
        self._feed = feed

    def is_set(self) -> bool:
        """Whether the run is to end."""
        return bool(ray.get(self._feed.halted.remote()))

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds, or less if the run is to end: then True."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            if self.is_set():
                return True
            time.sleep(min(left, _POLL_SECONDS))
        return self.is_set()
