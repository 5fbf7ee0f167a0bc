"""A collection changes its model: its successor is made beside it, compared with it, and put in its place.

The texts come from the collection itself, row by row, passages as they are, or from a corpus. The successor is brought
in line by ``sync`` again and again until nothing differs, so whatever writers did meanwhile is in it, and a killed run
goes on where it was. For the last difference, which takes as long as reading both collections without vectors, no write
is acknowledged; then the place is switched (``m3_vdb.stores.succession``).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import ConfigError
from m3_vdb.ingest.batch import Item
from m3_vdb.ingest.comparing import Judged, ModelComparison, compare_models, read_judged
from m3_vdb.ingest.pipeline import BATCH_DOCUMENTS, awaited
from m3_vdb.ingest.report import Progress
from m3_vdb.ingest.rows import Row
from m3_vdb.ingest.syncing import SyncReport, sync
from m3_vdb.ingest.texts import CorpusTexts
from m3_vdb.inputs import DocumentLike
from m3_vdb.retry import Retry
from m3_vdb.stores import CollectionOptions
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.folder import locked_file
from m3_vdb.stores.succession import Succession, succession

OPEN_PASSES: Final = 5
"""Passes while others may write; after them, or when nothing differs, the place is closed."""
CLOSED_PASSES: Final = 5
"""Writers of other versions, who do not know that it is closed, may make some more necessary."""
_DEFAULT_RETRY: Final = Retry()


@dataclass(slots=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        place: what programs open after the switch.
        old: the collection that was there, by its own name.
        new: its successor.
        documents: rows of the collection when the migration began: documents, or passages of those that were split.
        encoded: rows that were encoded by this run.
        truncated: of them, those that were longer than the new model's maximum.
        passes: comparisons with the collection.
        comparison: both models, where they were compared.
        switched: the place has the new model's collection.
        interrupted: the run was stopped; the next one goes on.
    """

    place: str
    old: str
    new: str
    documents: int = 0
    encoded: int = 0
    truncated: int = 0
    passes: int = 0
    comparison: ModelComparison | None = None
    switched: bool = False
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def migrate(
    store: str,
    embed: Embedder,
    *,
    alias: str | None = None,
    corpus: Iterable[Item | DocumentLike] | None = None,
    old_embed: Embedder | None = None,
    judged: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    switch: bool = True,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    rejected: str | os.PathLike[str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
    api_key: str | None = None,
    timeout: int = 60,
    stop: threading.Event | None = None,
) -> MigrationReport:
    """Encode a collection with another model beside it, and put the result in its place. Run again, it goes on.

    Args:
        store: the collection: a folder, or a server's URL with an alias (or with a collection's own name, and
            ``alias``). It is served as before until the switch, and kept afterwards (``drop_old``).
        embed: the new model.
        alias: the name to open after the switch, for a collection named directly.
        corpus: where titles and texts come from, as for ``ingest``, by the documents' ids: for a collection that keeps
            no texts; the new one keeps them. Documents that it lacks keep what the collection has; what only the
            corpus has is left out.
        old_embed: the old model, to compare; without it only the new one is measured.
        judged: JSON lines {"query": text, "relevant": [ids] or {id: grade}}: the queries to compare with, for nDCG@10;
            None takes titles and first sentences of the collection.
        dry_run: only check that it can be done.
        switch: False ends before the switch; the next run does what has changed, and switches.
        batch_documents: this and the following four as ``ingest``.
        progress: of the rows that are encoded.
        rejected: file for rows that the new model's collection cannot hold; with such rows nothing is switched.
        retry: of failed requests.
        upload_workers: batches stored at the same time.
        long_documents: what becomes of rows of more tokens than the store takes rows.
        api_key: for a server.
        timeout: seconds to wait for a server's answer.
        stop: when set, the run ends soon.

    Returns:
        What was done.

    Raises:
        ConfigError: the store has no place that can be switched, a name is taken, another migration is unfinished,
            documents have no text, or rows cannot be stored; nothing was switched.
        StoreError: the database failed; run again to go on.
    """
    stop = stop or threading.Event()
    queries = None if judged is None else read_judged(judged)
    with ExitStack() as opened:
        heir = opened.enter_context(
            closing(succession(store, embed.identity, alias=alias, api_key=api_key, timeout=timeout))
        )
        report = MigrationReport(heir.place, heir.old, heir.new)
        with heir.open_old() as old:
            made_by, report.documents = old.identity, old.count()
            options = CollectionOptions(**{**old.facts().options, "indexes": old.field_types})
            able = getattr(old, "capabilities", None)
        if heir.finish(embed.identity):
            report.switched = True
            return report
        if made_by.fingerprint == embed.identity.fingerprint:
            raise ConfigError(f"{heir.place} holds vectors of this model ({made_by.name}) already: name another one")
        if old_embed is not None:
            old_embed.identity.require_same(made_by, where=heir.place)
        heir.check(embed.identity)
        texts = None if corpus is None else opened.enter_context(CorpusTexts(corpus))
        if dry_run:
            deque(_rows(heir.open_old(), texts, heir.place) if texts is not None else (), maxlen=0)
            return report
        exact = getattr(able, "exact_candidates", None) or None  # Milvus decides it when a collection is made
        follow = partial(
            sync,
            source=None,
            max_removed="100%",
            batch_documents=batch_documents,
            progress=progress,
            rejected=rejected,
            retry=retry,
            upload_workers=upload_workers,
            long_documents=long_documents,
            stop=stop,
        )
        open_new = partial(heir.open_new, embed.identity, options, exact=exact)
        run = _Migration(heir, embed, texts, report, follow, open_new)
        with _alone(heir), heir.begun(stop):
            report.comparison = run.build(old_embed, queries)
            if switch and not report.interrupted:
                run.switch()
    return report


async def async_migrate(
    store: str,
    embed: Embedder,
    *,
    alias: str | None = None,
    corpus: Iterable[Item | DocumentLike] | None = None,
    old_embed: Embedder | None = None,
    judged: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    switch: bool = True,
    batch_documents: int = BATCH_DOCUMENTS,
    progress: Callable[[Progress], None] | None = None,
    rejected: str | os.PathLike[str] | None = None,
    retry: Retry = _DEFAULT_RETRY,
    upload_workers: int | None = None,
    long_documents: LongDocuments = DEFAULT_POLICY,
    api_key: str | None = None,
    timeout: int = 60,
) -> MigrationReport:
    """``migrate`` in a thread, with its arguments and errors; ``progress`` is called there.

    Cancelling the task ends the run before the switch; the next one goes on.
    """
    stop = threading.Event()
    run = partial(
        migrate,
        store,
        embed,
        alias=alias,
        corpus=corpus,
        old_embed=old_embed,
        judged=judged,
        dry_run=dry_run,
        switch=switch,
        batch_documents=batch_documents,
        progress=progress,
        rejected=rejected,
        retry=retry,
        upload_workers=upload_workers,
        long_documents=long_documents,
        api_key=api_key,
        timeout=timeout,
        stop=stop,
    )
    return await awaited(run, stop)


def drop_old(store: str, *, api_key: str | None = None, timeout: int = 60) -> str | None:
    """Delete the collection that a migration replaced.

    Args:
        store: as ``migrate``, before or after the switch.
        api_key: for a server.
        timeout: seconds to wait for a server's answer.

    Returns:
        Its name; None if there is none.

    Raises:
        StoreError: the database failed, or the folder is open.
    """
    with closing(succession(store, None, api_key=api_key, timeout=timeout)) as heir:
        return heir.drop_old()


def cancel_migration(store: str, *, api_key: str | None = None, timeout: int = 60) -> str | None:
    """Delete what a migration that is not finished has made; the collection is as it was.

    Args:
        store: as ``migrate``.
        api_key: for a server.
        timeout: seconds to wait for a server's answer.

    Returns:
        The name of what was deleted; None if there is none.

    Raises:
        StoreError: the database failed, or the migration runs.
    """
    with closing(succession(store, None, api_key=api_key, timeout=timeout)) as heir, _alone(heir):
        return heir.cancel()


@dataclass(frozen=True, slots=True)
class _Migration:
    """One run.

    Attributes:
        heir: both collections.
        embed: the new model.
        texts: those of a corpus, if it has them.
        report: filled on the way.
        follow: ``sync`` of rows with the new model into a store.
        open_new: the successor.
    """

    heir: Succession
    embed: Embedder
    texts: CorpusTexts | None
    report: MigrationReport
    follow: Callable[..., SyncReport]
    open_new: Callable[[], VectorStore]

    def build(self, old_embed: Embedder | None, queries: Judged | None) -> ModelComparison | None:
        """Make the successor like the collection, which is not closed meanwhile, and compare the two models."""
        with self.open_new() as new:
            for _ in range(OPEN_PASSES):
                if not self._differs(self.heir.open_old(), new) or self.report.interrupted:
                    break
            if self.report.interrupted:
                return None
            if new.is_server:
                new.optimize()
            with self.heir.open_old() as old:
                return compare_models(old, new, old_embed, self.embed, queries)

    def switch(self) -> None:
        """Bring it in line while the collection is closed, and put it in the place."""
        with self.heir.closed() as old:
            with self.open_new() as new:
                for _ in range(CLOSED_PASSES):
                    if not self._differs(nullcontext(old), new) or self.report.interrupted:
                        break
                else:
                    raise ConfigError(
                        f"{self.heir.place} changes again and again, by a writer of another version: end it, then run "
                        f"this again"
                    )
                new.note_run(old.facts().last_run)
            if not self.report.interrupted:
                self.heir.switch()
                self.report.switched = True

    def _differs(self, opening: AbstractContextManager[VectorStore], new: VectorStore) -> bool:
        """Bring the successor in line. Whether anything differed."""
        report = self.report
        done = self.follow(_rows(opening, self.texts, self.heir.place), self.embed, new)
        plan, report.passes = done.plan, report.passes + 1
        report.encoded += done.ingest.documents
        report.truncated += done.ingest.truncated
        report.interrupted = done.interrupted
        bad = plan.rejected + done.ingest.rejected_count
        if bad and not done.interrupted:
            raise ConfigError(
                f"{bad:,} rows of {report.place} cannot be stored with the model {self.embed.identity.name!r}, so "
                f"nothing was switched: the file of rejected rows says why; of rows that are too long, "
                f"--long-documents pool makes less"
            )
        return any((plan.added, plan.changed, plan.moved, plan.updated, plan.removed))


def _rows(opening: AbstractContextManager[VectorStore], texts: CorpusTexts | None, place: str) -> Iterator[Row]:
    """What the collection holds, with the texts of the corpus if there is one; it is open only while it is read."""
    with opening as old:
        held = (document for some in old.documents() for document in some)
        documents = held if texts is None else texts.fill(held, place)
        for number, document in enumerate(documents, 1):
            yield Row(document, place, number)


def _alone(heir: Succession) -> AbstractContextManager[None]:
    """One migration of a place at a time, on this machine; of others the mark on the collection says so."""
    key = blake2b(heir.place.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    user = os.getuid() if hasattr(os, "getuid") else 0

    def busy(process: int | None) -> ConfigError:
        who = "another process" if process is None else f"process {process}"
        return ConfigError(f"{heir.place} is being migrated by {who}: wait for it")

    return locked_file(Path(tempfile.gettempdir()) / f"m3-vdb-migrate-{user}-{key}.lock", busy)
