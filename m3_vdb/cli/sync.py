"""``m3-vdb sync`` and ``m3-vdb watch``: options, the plan and the summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from m3_vdb import streams
from m3_vdb.cli.options import (
    Bm25Option,
    CorpusArgument,
    EncodingOptions,
    GrpcOption,
    LongOptions,
    PayloadOptions,
    RowOptions,
    StoreOption,
    WritingOptions,
    grouped,
)
from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_REJECTED, say, write_json
from m3_vdb.cli.run import kept_place, open_target, run_files, say_notices, shown, stopping, summarize
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import Plan
from m3_vdb.errors import CollectionNotFoundError, ConfigError, M3Error
from m3_vdb.ingest import Corpus, Retry, SyncPlan, SyncReport, sync
from m3_vdb.ingest.folder import is_output
from m3_vdb.ingest.syncing import MAX_REMOVED, read_max_removed
from m3_vdb.ingest.watching import QUIET, changes
from m3_vdb.stores import CollectionOptions, MemoryStore, VectorStore, open_store
from m3_vdb.stores.names import Folder

AGAIN: Final = 30.0
"""Seconds after which a sync that failed is tried again, if no file changes before."""
_HINT: Final = "to resume, run the same command again"


@dataclass(frozen=True, slots=True)
class Follower:
    """What every sync of a command has in common.

    Attributes:
        corpus: opens it as it is now.
        embed: the embedding function.
        store: URL.
        grpc: ``open_store``'s ``prefer_grpc``.
        bm25: also keep exact words.
        rejected: file for rejected rows.
        run: ``sync``, still without corpus, store, progress and stop.
        plan: for long documents.
        as_json: print summaries as JSON.
    """

    corpus: Callable[[], Corpus]
    embed: M3EmbeddingFunction
    store: str
    grpc: bool | None
    bm25: bool
    rejected: Path
    run: Callable[..., SyncReport]
    plan: Plan
    as_json: bool

    def sync(self, stop: threading.Event | None, *, dry_run: bool = False) -> SyncReport:
        """One sync, with its plan and summary."""
        corpus = self.corpus()
        said = say_notices(corpus.notices, 0)
        opening = (
            self._readable()
            if dry_run
            else open_target(
                self.store, self.embed.identity, prefer_grpc=self.grpc, options=CollectionOptions(bm25=self.bm25)
            )
        )
        with opening as opened, shown() as tell:
            report = self.run(
                corpus,
                self.embed,
                opened,
                rejected=self.rejected,
                progress=tell,
                stop=stop,
                dry_run=dry_run,
                planned=partial(self._say, dry_run=dry_run),
            )
            held = opened.count()
        say_notices(corpus.notices, said)
        if report.ingest.documents or report.ingest.rejected_count:
            end = f"{self.store} now holds {held:,}; {self.embed.session.description}"
            summarize(report.ingest, self.rejected, end, self.embed.max_length, self.plan)
        if self.as_json:
            samples = {"dry_run": True, "samples": report.plan.samples} if dry_run else {}
            write_json({"store": self.store, **report.as_dict(), "held": held, **samples})
        return report

    @contextmanager
    def _readable(self) -> Iterator[VectorStore]:
        try:
            opened = open_store(self.store, identity=self.embed.identity, create=False, prefer_grpc=self.grpc)
        except CollectionNotFoundError:
            opened = MemoryStore(self.embed.identity)
        with opened:
            yield opened

    def _say(self, plan: SyncPlan, *, dry_run: bool) -> None:
        say(f"{'would be: ' if dry_run else ''}{plan}")
        for name, ids in plan.samples.items() if dry_run else ():
            more = getattr(plan, name) - len(ids)
            say(f"  {name}: {', '.join(ids)}{f', and {more:,} more' if more else ''}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowOptions:
    """Which documents of the collection follow the corpus, and how."""

    source: Annotated[
        str | None, typer.Option(help="Name of the corpus in the collection. Default: its absolute paths.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False
    max_removed: Annotated[
        str, typer.Option(help="Change nothing if more documents vanished: 20% of this source, or a number.")
    ] = MAX_REMOVED
    quiet: Annotated[float, typer.Option(help="watch: seconds without a change before a sync.")] = QUIET
    bm25: Bm25Option = False
    grpc: GrpcOption = None


@grouped
def sync_command(
    corpus: CorpusArgument,
    store: StoreOption,
    *,
    following: FollowOptions,
    encoding: EncodingOptions,
    rows: RowOptions,
    payload: PayloadOptions,
    long: LongOptions,
    writing: WritingOptions,
) -> None:
    """Make a collection follow a corpus: add, replace, move and remove what has changed."""
    follow(corpus, store, following, encoding, rows, payload, long, writing)


@grouped
def watch_command(
    corpus: CorpusArgument,
    store: StoreOption,
    *,
    following: FollowOptions,
    encoding: EncodingOptions,
    rows: RowOptions,
    payload: PayloadOptions,
    long: LongOptions,
    writing: WritingOptions,
) -> None:
    """Sync whenever files change, until Ctrl-C (needs the extra watch)."""
    if following.dry_run or streams.STDIN in corpus:
        reason = "--dry-run is for m3-vdb sync" if following.dry_run else "standard input has no changes"
        raise ConfigError(f"watch: {reason}")
    follow(corpus, store, following, encoding, rows, payload, long, writing, watching=True)


def follow(
    paths: list[str],
    store: str,
    following: FollowOptions,
    encoding: EncodingOptions,
    rows: RowOptions,
    payload: PayloadOptions,
    long: LongOptions,
    writing: WritingOptions,
    *,
    watching: bool = False,
) -> None:
    """One sync, or one after each burst of changes.

    Raises:
        typer.Exit: the sync was interrupted, or rows were rejected.
    """
    if following.source is None and streams.STDIN in paths:
        raise ConfigError(
            "standard input has no name: m3-vdb sync --source NAME says which documents of the collection are its"
        )
    read_max_removed(following.max_removed)
    plan, opened = long.plan, partial(rows.corpus, paths, payload)
    first = opened()  # what cannot be read is said before the model is opened
    follower = Follower(
        corpus=opened if watching else lambda: first,
        embed=encoding.open(),
        store=store,
        grpc=following.grpc,
        bm25=following.bm25,
        rejected=run_files(store, "sync", checkpoint=None, rejected=writing.rejected).rejected,
        run=partial(
            sync,
            source=following.source or ", ".join(str(Path(path).resolve()) for path in paths),
            max_removed=following.max_removed,
            batch_documents=writing.batch_documents,
            strict=writing.strict,
            retry=Retry(attempts=writing.attempts),
            upload_workers=writing.upload_workers,
            long_documents=plan,
        ),
        plan=plan.plan,
        as_json=writing.as_json,
    )
    with stopping(_HINT) as stop:
        if watching:
            _watch(follower, paths, stop, following.quiet)
            return
        report = follower.sync(stop, dry_run=following.dry_run)
    if report.interrupted:
        say(f"stopped; {_HINT}")
    if report.interrupted or report.plan.rejected or report.ingest.rejected_count:
        raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)


def _watch(follower: Follower, paths: list[str], stop: threading.Event, quiet: float) -> None:
    """Sync at the beginning and after each burst of changes; an error is said, and tried again later."""
    place = kept_place(follower.store)
    ours = [follower.rejected.resolve(), *([place.path.resolve()] if isinstance(place, Folder) else [])]

    def leave(path: Path) -> bool:
        return any(path.is_relative_to(one) for one in ours) or is_output(path)

    due: float | None = 0.0
    for number in changes(paths, leave=leave, stop=stop, quiet=quiet):
        if not number and (due is None or time.monotonic() < due):
            continue
        try:
            follower.sync(stop)
            due = None
        except (M3Error, OSError) as error:
            say(f"error: {error}; it is tried again when files change, or in {AGAIN:.0f} s", style="red")
            due = time.monotonic() + AGAIN
    say("stopped watching")
