"""Encoding and storing on many machines: plain Ray actors as third and fourth step of the one pipeline.

Reading, checking, the ledger and the dead letters stay in the driver, so that ids, checkpoint, rejections and report
are those of a run without Ray. The driver gives every encoder two batches, one to tokenize while the other is encoded,
and never more than ``window`` that are not committed; that bounds memory. Vectors go from the encoder to the writer
through Ray's object store, and to the driver only where it is the one that stores.

A worker that dies costs time: another takes its place and its batches. Storing a batch twice leaves what storing it
once leaves, since an id is in one batch only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import ConfigError, EngineError
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.ray_cluster import check_resources, connected, first_line
from m3_vdb.ingest.ray_workers import Done, EncodeWorker, StoreWorker
from m3_vdb.ingest.run import EngineTimings, Work
from m3_vdb.stores.base import VectorStore

MAX_WORKER_DEATHS: Final = 5
"""A batch that kills this many workers ends the run."""
_IN_HAND: Final = 2
"""Batches that a worker has at a time."""
_WRITER_CPUS: Final = 0.5
_TICK: Final = 0.02
_IDLE_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Task:
    """A batch on its way through a stage.

    Attributes:
        batch: as it was prepared.
        data: what the worker gets: the same, or a reference to the encoded one.
        deaths: workers that died while they had it. After one, it gets a worker to itself.
        worker: number of the worker that has it.
        actor: its handle.
        result: reference to what it gives back.
    """

    batch: Batch
    data: Any
    deaths: int = 0
    worker: int = 0
    actor: Any = None
    result: Any = None

    @property
    def slots(self) -> int:
        """Of the batches that a worker may have in hand, how many this one counts for."""
        return _IN_HAND if self.deaths else 1


class _Stage:
    """Workers of one kind, begun when the first batch comes.

    Args:
        verb: what they do, for messages.
        count: how many.
        begin: begins one.
    """

    def __init__(self, verb: str, count: int, begin: Callable[[], Any]) -> None:
        self.queue: deque[_Task] = deque()
        self.busy = [0] * count
        self.actors: list[Any] = []
        self.seconds = 0.0
        self._verb = verb
        self._begin = begin

    def start(self) -> Iterator[tuple[Any, _Task]]:
        """Give queued batches to workers that have room: (reference to the outcome, task)."""
        while self.queue:
            task = self.queue[0]
            task.worker = min(range(len(self.busy)), key=self.busy.__getitem__)
            if self.busy[task.worker] + task.slots > _IN_HAND:
                return
            self.actors = self.actors or [self._begin() for _ in self.busy]
            task.actor = self.actors[task.worker]
            ref, task.result = task.actor.work.options(num_returns=2).remote(task.data)
            self.busy[task.worker] += task.slots
            self.queue.popleft()
            yield ref, task

    def died(self, task: _Task, error: Exception) -> None:
        """Put another worker in the place of a dead one, and the batch into the queue again.

        Raises:
            EngineError: too many workers have died of it.
        """
        if self.actors[task.worker] is task.actor:
            _kill(task.actor)  # which may only be out of reach
            self.actors[task.worker] = self._begin()
        task.deaths += 1
        if task.deaths >= MAX_WORKER_DEATHS:
            first = task.batch.waiting[0].document.id
            raise EngineError(
                f"{task.deaths} workers died while they {self._verb} a batch that begins with document {first!r}: not "
                f"enough memory? Ask for fewer documents in a batch, or for encoders of more CPUs ({first_line(error)})"
            )
        self.queue.appendleft(task)


class _Job:
    """One run: gives batches to workers, and hands on what comes back, until all is done or the run is to end.

    Args:
        work: batches and where they go.
        encoding: the encoders.
        storing: the writers; None where the driver stores.
        window: batches that are not committed, at most.
    """

    def __init__(self, work: Work, encoding: _Stage, storing: _Stage | None, window: int) -> None:
        self._work = work
        self._encoding = encoding
        self._storing = storing
        self._window = window
        self._running: dict[Any, tuple[_Stage, _Task]] = {}
        self._last = -1  # number of the last batch taken, whether or not it had anything to encode
        self._ended = self._halted = False
        self._begun = 0.0
        self.startup: float | None = None

    def run(self) -> None:
        stages = [stage for stage in (self._encoding, self._storing) if stage is not None]
        while True:
            if self._work.halt.is_set():
                self._encoding.queue.clear()  # what is begun is finished
                if not self._halted and self._storing is not None:
                    for actor in self._storing.actors:
                        actor.halt.remote()
                self._ended = self._halted = True
            self._take()
            for stage in stages:
                self._running |= {ref: (stage, task) for ref, task in stage.start()}
            if self._running:
                self._collect()
            elif self._ended and not any(stage.queue for stage in stages):
                return

    def _take(self) -> None:
        """The next prepared batch, if there is room for it."""
        full = self._last + 1 - self._work.committed() >= self._window
        if full and not self._running:
            time.sleep(_TICK)  # until the driver has stored some
        if full or self._ended or self._encoding.queue or min(self._encoding.busy) >= _IN_HAND:
            return
        with suppress(TimeoutError):
            batch = self._work.prepared.get(timeout=_TICK if self._running else _IDLE_SECONDS)
            if batch is None:
                self._ended = True
                return
            self._last = batch.number
            if batch.waiting:
                self._begun = self._begun or time.perf_counter()
                self._encoding.queue.append(_Task(batch, batch))
            else:
                batch.stored = Stored()
                self._work.encoded.put(batch)

    def _collect(self) -> None:
        import ray  # noqa: PLC0415 - optional
        from ray.exceptions import ObjectLostError, RayActorError  # noqa: PLC0415

        ready, _ = ray.wait(list(self._running), timeout=_TICK, fetch_local=False)
        for ref in ready:
            stage, task = self._running.pop(ref)
            stage.busy[task.worker] -= task.slots
            try:
                done: Done = ray.get(ref)
                to_store = stage is self._encoding and self._storing is not None
                batch: Batch | None = None if to_store or done.failure else ray.get(task.result)
            except RayActorError as error:
                stage.died(task, error)
            except ObjectLostError:  # with the machine that had encoded it
                self._encoding.queue.appendleft(_Task(task.batch, task.batch, task.deaths))
            else:
                if done.failure is not None:
                    raise done.failure
                stage.seconds += done.seconds
                self._work.retried(done.retries)
                if self.startup is None:
                    self.startup = max(0.0, time.perf_counter() - self._begun - done.seconds)
                if batch is not None:
                    self._work.encoded.put(batch)
                elif self._storing is not None:
                    self._storing.queue.append(_Task(task.batch, task.result))


def _kill(actor: Any) -> None:  # noqa: ANN401 - Ray's handle
    import ray  # noqa: PLC0415 - optional

    with suppress(ray.exceptions.RayError):
        ray.kill(actor)


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
        """Batches between being prepared and being committed, at most: two per encoder, and as many on other ways."""
        return 4 * self.encoders + 4

    def encode(self, work: Work) -> EngineTimings:
        """Encode what is prepared, and store it where the store is a server; returns when the last batch is handed on.

        Raises:
            StoreError: the store failed.
            EngineError: the cluster or a worker failed.
            ConfigError: the cluster is too small.
        """
        if self._connection is None:
            raise EngineError("the engine is not connected: use it in a with statement")
        import ray  # noqa: PLC0415 - optional

        writers = work.writers if self._open_store is not None else 0
        encoders, gpus = self.encoders, self.gpus
        check_resources(
            self._resources, encoders=encoders, cpus=self._cpus, gpus=gpus, writer_cpus=_WRITER_CPUS * writers
        )
        encoder = ray.remote(EncodeWorker).options(num_cpus=self._cpus, num_gpus=gpus or None, max_concurrency=_IN_HAND)
        writer = ray.remote(StoreWorker).options(num_cpus=_WRITER_CPUS, max_concurrency=_IN_HAND + 1)
        encoding = _Stage("encoded", encoders, lambda: encoder.remote(self._embed, work.identity))
        storing = None
        if writers:
            arguments = self._open_store, work.retry, work.long_documents
            storing = _Stage("stored", writers, lambda: writer.remote(*arguments))
        job = _Job(work, encoding, storing, self.window)
        try:
            job.run()
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray cluster failed: {first_line(error)}") from error
        finally:
            for actor in [*encoding.actors, *(storing.actors if storing else [])]:
                _kill(actor)
        waiting = work.prepared.get_seconds + (job.startup or 0.0)
        return EngineTimings(encoding.seconds / encoders, waiting, storing.seconds / writers if storing else 0.0)
