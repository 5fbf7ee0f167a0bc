"""A collection follows a corpus: what is new is added, what has changed replaced, what has vanished removed.

First both are compared (``Comparison``), then the plan is carried out: rows whose text the collection has encoded
already get its vectors, payloads are updated, the rest is encoded by ``ingest``, and last what has vanished is removed.
After a kill at any moment the next run compares again and does what is left.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments, text_encoding
from m3_vdb.encoding.splitter import make_splitter
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest.batch import Item, read_items, split_rows, text_hash
from m3_vdb.ingest.corpus import Corpus
from m3_vdb.ingest.pipeline import BATCH_DOCUMENTS, awaited, ingest
from m3_vdb.ingest.plan import AT_ONCE, Comparison, SyncPlan, document_of
from m3_vdb.ingest.report import IngestReport, Progress, note_run
from m3_vdb.ingest.rows import Rejected
from m3_vdb.inputs import DocumentLike, read_path
from m3_vdb.retry import Retrier, Retry
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import locked_file
from m3_vdb.types import Document, M3Embeddings
from m3_vdb.writer import Writer, check_parts

MAX_REMOVED: Final = "20%"
ALWAYS_REMOVED: Final = 10
"""Documents that a share never holds back: in a folder of a few files, one is much more than a fifth."""
_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of vectors that are moved together."""
_SHARE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_DEFAULT_RETRY: Final = Retry()


@dataclass(slots=True)
class SyncReport:
    """What a sync did.

    Attributes:
        plan: what was to be done.
        ingest: of the rows that were encoded, and of those that were rejected.
        interrupted: the run was stopped; nothing was removed, and the next run does what is left.
    """

    plan: SyncPlan
    ingest: IngestReport = field(default_factory=IngestReport)
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Counts and rates as plain JSON values."""
        names = ("added", "changed", "moved", "updated", "removed", "unchanged", "kept", "to_encode")
        shown = {name: getattr(self.plan, name) for name in names}
        return {"source": self.plan.source, **self.ingest.as_dict(), **shown, "interrupted": self.interrupted}


def sync(
    items: Iterable[Item | DocumentLike],
    embed: Embedder,
    store: VectorStore,
    *,
    source: str | None,
    max_removed: str | int = MAX_REMOVED,
    dry_run: bool = False,
    planned: Callable[[SyncPlan], None] | None = None,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    strict: bool = False,
    rejected: str | os.PathLike[str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
    stop: threading.Event | None = None,
) -> SyncReport:
    """Make a collection hold what a corpus holds, and nothing else of the same source.

    Documents of other sources, and those that came by ``add`` or ``ingest`` under other ids, are not touched; those
    under ids of the corpus that belong to no source are taken over.

    Args:
        items: the whole corpus, as for ``ingest``; read once.
        embed: makes the vectors.
        store: keeps them.
        source: name of the corpus; its documents carry it in the collection. None: each keeps its own
            ``Document.source``, and the collection then holds nothing but ``items``, as ``migrate`` has it.
        max_removed: documents that may be removed: a number, or a share such as "20%" of those of this source (of few
            documents, ten may go, unless it is "0%").
        dry_run: only compare.
        planned: called with the plan, before anything is changed.
        batch_documents: this and all that follow as ``ingest``.
        progress: of the rows that are encoded.
        strict: change nothing if a row is rejected.
        rejected: file for rejected rows.
        retry: of failed requests.
        upload_workers: batches stored at the same time.
        long_documents: what becomes of long ones.
        stop: when set, the run ends soon.

    Returns:
        The plan, and what became of it.

    Raises:
        ConfigError: more documents would be removed than ``max_removed``, documents belong to another source, the
            source is being synced already, or as ``ingest``; nothing was changed.
        DocumentError: a row is rejected and the run is strict; nothing was changed.
        StoreError: the database failed; run again to do what is left.
    """
    check_parts(embed, store)
    if source is not None and (not isinstance(source, str) or not source):
        raise ConfigError(f"source {source!r}: expected a name, which documents of this corpus carry")
    allowed = read_max_removed(max_removed)
    stop = stop or threading.Event()
    if isinstance(items, Corpus):
        items.leave_out(*(() if rejected is None else (read_path("rejected", rejected),)))
        items.field_types = store.field_types
    with _alone(store, source), closing(Comparison(source)) as comparison:
        retrier = Retrier(retry, stop)
        writer = Writer(store, long_documents=long_documents, encoding=text_encoding(embed), retrier=retrier)
        splitter = make_splitter(embed, long_documents, store.max_rows)
        whole = IngestReport()

        def parts(item: Item) -> list[Item]:
            return [item] if splitter is None else list(split_rows([item], splitter, whole))

        comparison.read_store(store)
        comparison.compare(read_items(items), parts, writer.check)
        plan = comparison.plan
        _check_sources(comparison, source)
        if planned is not None:
            planned(plan)
        report = SyncReport(plan)
        if dry_run:
            return report
        _check_removed(comparison, plan, allowed(plan.stored), max_removed)
        if strict and plan.rejected:
            first = next(item for item, _ in comparison.work("reject") if isinstance(item, Rejected))
            raise DocumentError(f"{first.where}: {first.reason}", index=0)
        left: list[Item] = []
        for some in _batches(comparison.work("reuse")):
            if not stop.is_set():
                left += retrier.call(partial(_reuse, store, writer, some))
        for some in _batches(comparison.work("update")):
            if not stop.is_set():
                retrier.call(store.update_payloads, [writer.check(document_of(item)) for item, _ in some])
        rest = _Rest(comparison, left)
        if rest.total_bytes and not stop.is_set():
            report.ingest = ingest(
                rest,
                embed,
                store,
                batch_documents=batch_documents,
                progress=progress,
                skip_unchanged=False,
                rejected=rejected,
                retry=retry,
                upload_workers=upload_workers,
                long_documents=long_documents,
                stop=stop,
            )
        report.ingest.long_documents += whole.long_documents
        for ids in _batches(comparison.gone()):
            if not stop.is_set():
                retrier.call(store.delete, ids)
        report.interrupted = report.ingest.interrupted or stop.is_set()
        skip = report.interrupted or source is None  # a copy keeps the note of what it copies
        note_run(store, "sync", report.ingest, interrupted=skip, source=source or "")
        return report


async def async_sync(
    items: Iterable[Item | DocumentLike],
    embed: Embedder,
    store: VectorStore,
    *,
    source: str,
    max_removed: str | int = MAX_REMOVED,
    dry_run: bool = False,
    planned: Callable[[SyncPlan], None] | None = None,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    strict: bool = False,
    rejected: str | os.PathLike[str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
) -> SyncReport:
    """``sync`` in a thread, with its arguments and errors; ``planned`` and ``progress`` are called there.

    Cancelling the task ends the run: what is encoded is stored, nothing is removed, and then the task is cancelled.
    """
    stop = threading.Event()
    run = partial(
        sync,
        items,
        embed,
        store,
        source=source,
        max_removed=max_removed,
        dry_run=dry_run,
        planned=planned,
        batch_documents=batch_documents,
        progress=progress,
        strict=strict,
        rejected=rejected,
        retry=retry,
        upload_workers=upload_workers,
        long_documents=long_documents,
        stop=stop,
    )
    return await awaited(run, stop)


def read_max_removed(text: str | int) -> Callable[[int], int]:
    """Documents of a source → how many of them may be removed.

    Raises:
        ConfigError: ``text`` is neither a number nor a share.
    """
    share = _SHARE.fullmatch(str(text).strip())
    if share and float(share[1]) <= 100:
        part = float(share[1]) / 100
        return lambda stored: max(int(part * stored), ALWAYS_REMOVED if part else 0)
    if isinstance(text, bool) or not re.fullmatch(r"[0-9]+", str(text)):
        raise ConfigError(f"max_removed {text!r}: expected a share such as 20%, or a number of documents")
    return lambda _: int(text)


class _Rest:
    """What is left for ``ingest``: rejected rows, those to encode, and those whose stored twin is gone meanwhile."""

    def __init__(self, comparison: Comparison, left: list[Item]) -> None:
        self._comparison = comparison
        self._left = left
        self.total_bytes: int | None = comparison.number("reject", "encode") + len(left)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Item]:
        for item in self._left:
            self.bytes_read += 1
            yield item
        for item, _ in self._comparison.work("reject", "encode"):
            self.bytes_read += 1
            yield item


def _reuse(store: VectorStore, writer: Writer, rows: list[tuple[Item, str]]) -> list[Item]:
    """Store rows with the vectors of stored ones. Returns those whose stored one is no longer what it was."""
    wanted: dict[str, list[tuple[Item, Document]]] = {}
    for item, donor in rows:
        wanted.setdefault(donor, []).append((item, writer.check(document_of(item))))
    done: set[str] = set()

    def put(pages: list[tuple[list[Document], M3Embeddings]]) -> None:
        for found, embeddings in pages:
            twins = [(new, i) for i, one in enumerate(found) for new in same(one)]
            if twins:
                store.upsert([new for new, _ in twins], embeddings[np.array([i for _, i in twins])])
                done.update(new.id for new, _ in twins)

    def same(stored: Document) -> list[Document]:
        return [new for _, new in wanted[stored.id] if text_hash(new) == text_hash(stored)]

    held, size = [], 0
    for page in store.get_with_vectors(list(wanted)):
        held.append(page)
        size += 0 if page[1].multi_vector is None else page[1].multi_vector.nbytes
        if size > _HELD_BYTES:  # else all are read before the first is written over, as where names move up by one
            put(held)
            held, size = [], 0
    put(held)
    return [item for some in wanted.values() for item, new in some if new.id not in done]


def _check_sources(comparison: Comparison, source: str | None) -> None:
    if comparison.others:
        other, number = comparison.others.most_common(1)[0]
        raise ConfigError(
            f"{number:,} ids of this corpus belong to the source {other!r}, and this one is {source!r}: pass the other "
            f"name (m3-vdb sync --source {other!r}) to follow it from here, or use other ids or another collection"
        )


def _check_removed(comparison: Comparison, plan: SyncPlan, allowed: int, given: str | int) -> None:
    lost = comparison.lost
    if lost > allowed:
        share = lost / max(1, plan.stored)
        raise ConfigError(
            f"{lost:,} of {plan.stored:,} documents of {plan.source!r} would be removed ({share:.0%}), more than "
            f"max_removed {given}: check the paths (m3-vdb sync with --dry-run shows the plan, with "
            f"--max-removed {lost} carries it out)"
        )


@contextmanager
def _alone(store: VectorStore, source: str | None) -> Iterator[None]:
    """One sync of a source at a time, on this machine; a folder's own lock lets only one process in."""
    where = repr(store) if store.is_server else f"{os.getpid()} {id(store)}"
    key = blake2b(f"{where}\0{source}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    user = os.getuid() if hasattr(os, "getuid") else 0

    def busy(process: int | None) -> ConfigError:
        who = "another process" if process is None else f"process {process}"
        return ConfigError(f"the source {source!r} of {store!r} is being synced by {who}: wait for it")

    with locked_file(Path(tempfile.gettempdir()) / f"m3-vdb-sync-{user}-{key}.lock", busy):
        yield


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while some := list(islice(items, AT_ONCE)):
        yield some
