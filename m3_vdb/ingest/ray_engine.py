"""Encoding and storing on many machines, as a Ray Data job: corpus → encoders → writers → outcomes.

Reading, checking, the ledger and the dead letters stay in the driver, so that ids, checkpoint, rejections and report
are those of a run without Ray. The job is given batches one by one and never more than ``window`` that are not settled;
that, and not the size of an object store, is what bounds memory.

A worker that dies costs time: Ray starts it again and gives it its batches again. Storing a batch twice leaves what
storing it once leaves, since an id is in one batch only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import ConfigError, EngineError, M3Error
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.engine import Spent, Work
from m3_vdb.ingest.ray_cluster import check_resources, connected, first_line
from m3_vdb.ingest.rows import reject
from m3_vdb.stores.base import VectorStore

if TYPE_CHECKING:
    from ray.data import Dataset

    from m3_vdb.ingest.ray_workers import Outcome

_WRITER_CPUS: Final = 0.5
_TICK: Final = 0.02
_SYNC_SECONDS: Final = 0.5


class RayEngine:
    """Encodes on a Ray cluster; a context manager.

    Args:
        embed: makes the embedding function, on every encoder. Must be picklable, and its module installed there.
        open_store: opens the store, on every writer; only for servers. None: the driver writes.
        address: of a cluster ("auto", "HOST:6379"); None: what ``RAY_ADDRESS`` names, else one on this machine.
        encoders: how many; None: one for each GPU of the cluster, or else as many as its CPUs allow.
        cpus: CPUs that each encoder takes.
        gpus: GPUs that each encoder takes; None: one, if the cluster has any.
        local_cpus: CPUs of a cluster on this machine; None: all. More than there are is allowed.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        embed: Callable[[], Embedder],
        *,
        open_store: Callable[[], VectorStore] | None = None,
        address: str | None = None,
        encoders: int | None = None,
        cpus: float = 1.0,
        gpus: float | None = None,
        local_cpus: int | None = None,
    ) -> None:
        if (encoders is not None and encoders < 1) or cpus < 0 or (gpus or 0) < 0 or not (cpus or gpus):
            raise ConfigError(
                f"encoders={encoders}, cpus={cpus}, gpus={gpus}: expected one encoder or more, each of some"
            )
        self._embed = embed
        self._open_store = open_store
        self._address = address
        self._wanted = encoders
        self._cpus = cpus
        self._gpus = gpus
        self._local_cpus = local_cpus
        self._connection: Any = None
        self._resources: dict[str, float] = {}

    def __enter__(self) -> RayEngine:
        """Join the cluster, or begin one.

        Raises:
            MissingExtraError: Ray is not installed.
            EngineError: there is no cluster at the address.
        """
        self._connection = connected(self._address, cpus=self._local_cpus)
        self._resources = self._connection.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.__exit__(None, None, None)

    @property
    def gpus(self) -> float:
        """GPUs of each encoder."""
        return (1.0 if self._resources.get("GPU") else 0.0) if self._gpus is None else self._gpus

    @property
    def encoders(self) -> int:
        """How many."""
        if self._wanted is not None:
            return self._wanted
        if self.gpus:
            return max(1, int(self._resources.get("GPU", 0.0) / self.gpus))
        return max(1, int((self._resources.get("CPU", 0.0) - 2 * _WRITER_CPUS) / self._cpus))

    @property
    def window(self) -> int:
        """Batches under way: each encoder has one at work and one waiting, and as many again are on other ways."""
        return 4 * self.encoders + 4

    def encode(self, work: Work) -> Spent:
        """Run the job; see ``Engine``.

        Raises:
            StoreError: the store failed.
            EngineError: the cluster or a worker failed.
            ConfigError: the cluster is too small.
        """
        if self._connection is None:
            raise EngineError("the engine is not connected: use it in a with statement")
        writers = work.writers if self._open_store is not None else 0
        encoders, gpus = self.encoders, self.gpus
        check_resources(
            self._resources, encoders=encoders, cpus=self._cpus, gpus=gpus, writer_cpus=_WRITER_CPUS * writers
        )
        with _feed() as feed:
            job = _Job(work, feed, self.window)
            return job.run(self._dataset(work, feed, encoders, gpus, writers), encoders=encoders, writers=writers)

    def _dataset(self, work: Work, feed: Any, encoders: int, gpus: float, writers: int) -> Dataset:  # noqa: ANN401
        import ray.data  # noqa: PLC0415 - optional

        from m3_vdb.ingest.ray_feed import FeedSource  # noqa: PLC0415
        from m3_vdb.ingest.ray_workers import EncodeStage, StoreStage  # noqa: PLC0415

        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = 1  # else small batches would wait for others to fill a block of 128 MiB
        context.execution_no_progress_timeout_s = -1  # standard input may be silent for hours
        with ray.data.DataContext.current(context):
            dataset = ray.data.read_datasource(FeedSource(feed), override_num_blocks=1, num_cpus=0)
            dataset = dataset.map_batches(
                EncodeStage,
                fn_constructor_args=(self._embed, work.identity, feed),
                fn_constructor_kwargs={"keep": bool(writers)},
                compute=ray.data.ActorPoolStrategy(
                    size=encoders,
                    max_tasks_in_flight_per_actor=2,
                    max_concurrent_calls_per_actor=2,
                    enable_true_multi_threading=True,
                ),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=self._cpus,
                num_gpus=gpus or None,
            )
            if writers:
                dataset = dataset.map_batches(
                    StoreStage,
                    fn_constructor_args=(self._open_store, feed, work.retry, work.long_documents),
                    compute=ray.data.ActorPoolStrategy(size=writers, max_tasks_in_flight_per_actor=2),
                    batch_size=1,
                    batch_format="pyarrow",
                    num_cpus=_WRITER_CPUS,
                )
            return dataset


class _Job:
    """One run of the job: a thread collects outcomes while the caller's thread gives batches.

    Args:
        work: batches and where they go.
        feed: handle of the feed.
        window: batches that are not settled, at most.
    """

    def __init__(self, work: Work, feed: Any, window: int) -> None:  # noqa: ANN401 - Ray's handle
        self._work = work
        self._feed = feed
        self._window = window
        self._sent: dict[int, Batch] = {}
        self._data: dict[int, bytes] = {}
        self._next = 0
        self._end: int | None = None
        self._born = ""
        self._told: tuple[int | None, bool] | None = None
        self._synced = 0.0
        self._done = threading.Event()
        self._failure: BaseException | None = None
        self._begun: float | None = None
        self._startup: float | None = None
        self._encoding = self._storing = 0.0

    def run(self, dataset: Dataset, *, encoders: int, writers: int) -> Spent:
        try:
            self._give(dataset)
        except Exception as error:
            raise EngineError(f"the Ray cluster failed: {first_line(error)}") from error
        if self._failure is not None:
            raise self._failure
        if self._sent and not self._work.halt.is_set():
            raise EngineError(f"the Ray job ended with {len(self._sent)} batches unanswered: resume the run")
        waiting = self._work.prepared.get_seconds + (self._startup or 0.0)
        return Spent(self._encoding / encoders, waiting, self._storing / max(1, writers))

    def _give(self, dataset: Dataset) -> None:
        """Give batches while there is room; tell the feed what is settled, and give all again if it was restarted."""
        last = -1  # number of the last batch taken, whether or not it had anything to encode
        while not self._done.is_set():
            fresh: dict[int, bytes] = {}
            if self._end is None and self._work.halt.is_set():
                self._end = self._next
            elif self._end is None and last + 1 - self._work.settled() < self._window:
                with suppress(TimeoutError):
                    batch = self._work.prepared.get(timeout=_SYNC_SECONDS)
                    if batch is None:
                        self._end = self._next
                    else:
                        last = batch.number
                        fresh = self._take(batch)
            else:
                self._done.wait(_TICK)
            self._sync(fresh)
            if self._end == 0:
                return  # there was nothing to encode, and no worker was begun
            if fresh and self._begun is None:
                self._begun = time.perf_counter()
                threading.Thread(target=self._collect, args=(dataset,), daemon=True).start()

    def _take(self, batch: Batch) -> dict[int, bytes]:
        from m3_vdb.ingest.ray_workers import pack  # noqa: PLC0415 - needs Ray

        if not batch.waiting:
            batch.stored = Stored()
            self._work.encoded.put(batch)
            return {}
        number, self._next = self._next, self._next + 1
        self._sent[number], self._data[number] = batch, pack(batch)
        return {number: self._data[number]}

    def _sync(self, fresh: dict[int, bytes]) -> None:
        import ray  # noqa: PLC0415 - optional

        state = self._end, self._work.halt.is_set()
        if not fresh and state == self._told and time.perf_counter() - self._synced < _SYNC_SECONDS:
            return
        held = dict(self._data)
        first = min(held, default=self._next)
        born = ray.get(self._feed.sync.remote(fresh, first, *state))
        if born != self._born:  # begun, or begun again and empty
            self._born = born
            ray.get(self._feed.sync.remote(held, first, *state))
        self._told, self._synced = state, time.perf_counter()

    def _collect(self, dataset: Dataset) -> None:
        from m3_vdb.ingest.ray_workers import unpack  # noqa: PLC0415 - needs Ray

        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in range(table.num_rows):
                    number, outcome = unpack(table.slice(row, 1))
                    batch = self._sent.get(number)
                    if outcome is None or batch is None:
                        continue
                    if outcome.failure is not None:
                        raise outcome.failure.error()
                    if not outcome.skipped:
                        self._note(outcome)
                        _fill(batch, outcome)
                        del self._sent[number], self._data[number]
                        if not self._work.encoded.put(batch):
                            return
        except Exception as error:
            ours = isinstance(error, M3Error)
            self._failure = error if ours else EngineError(f"the Ray job failed: {first_line(error)}")
        finally:
            self._done.set()

    def _note(self, outcome: Outcome) -> None:
        self._encoding += outcome.encoding
        self._storing += outcome.storing
        self._work.retried(outcome.retries)
        if self._startup is None and self._begun is not None:
            self._startup = max(0.0, time.perf_counter() - self._begun - outcome.encoding - outcome.storing)


def _fill(batch: Batch, outcome: Outcome) -> None:
    """Write an outcome into its batch, which still has the rows as they were read."""
    refused = {place: (kind, reason) for place, kind, reason in outcome.rejected}
    for row in batch.waiting:
        if row.place in refused:
            batch.rejected.append((row.place, reject(row.source, *refused[row.place])))
    batch.waiting = [row for row in batch.waiting if row.place not in refused]
    batch.embeddings, batch.stored = outcome.embeddings, outcome.stored


@contextmanager
def _feed() -> Iterator[Any]:
    """A feed on the driver's machine, gone at the end, and with it what still asks it."""
    import ray  # noqa: PLC0415 - optional
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    from m3_vdb.ingest.ray_feed import Feed  # noqa: PLC0415

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    made = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Feed)
    feed = made.options(scheduling_strategy=here).remote()
    try:
        yield feed
    finally:
        ray.kill(feed)
