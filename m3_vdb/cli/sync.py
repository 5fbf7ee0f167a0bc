"""``m3-vdb sync`` and ``m3-vdb watch``: options, the plan and the summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from m3_vdb import streams
from m3_vdb.cli.options import (
    AttemptsOption,
    AutoIdOption,
    BatchOption,
    Bm25Option,
    ColumnsOption,
    CorpusArgument,
    DelimiterOption,
    DropFieldOption,
    ExcludeOption,
    FormatOption,
    GrpcOption,
    IdFieldOption,
    IncludeOption,
    JsonSummaryOption,
    KeepFieldOption,
    LongDocumentsOption,
    MaxLengthOption,
    MaxRowsOption,
    MclsOption,
    ModelOption,
    OverlapOption,
    PoolFactorOption,
    RejectedOption,
    RuntimeOption,
    StoreOption,
    StrictOption,
    TextFieldOption,
    TitleFieldOption,
    UploadWorkersOption,
)
from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_REJECTED, say, write_json
from m3_vdb.cli.run import kept_place, open_target, read_fields, run_files, say_notices, shown, stopping, summarize
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
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


def _make_command(*, watching: bool) -> Callable[..., None]:
    """The function of ``sync``, or of ``watch``, which has the same options."""

    def command(
        corpus: CorpusArgument,
        store: StoreOption,
        source: Annotated[
            str | None, typer.Option(help="Name of the corpus in the collection. Default: its absolute paths.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
        max_removed: Annotated[
            str, typer.Option(help="Change nothing if more documents vanished: 20% of this source, or a number.")
        ] = MAX_REMOVED,
        quiet: Annotated[float, typer.Option(help="watch: seconds without a change before a sync.")] = QUIET,
        bm25: Bm25Option = False,
        grpc: GrpcOption = None,
        model: ModelOption = None,
        mcls_every: MclsOption = None,
        max_length: MaxLengthOption = None,
        runtime: RuntimeOption = "auto",
        format: FormatOption = "auto",
        include: IncludeOption = None,
        exclude: ExcludeOption = None,
        id_field: IdFieldOption = None,
        auto_id: AutoIdOption = False,
        text_field: TextFieldOption = None,
        title_field: TitleFieldOption = "title",
        keep_field: KeepFieldOption = None,
        drop_field: DropFieldOption = None,
        columns: ColumnsOption = None,
        delimiter: DelimiterOption = None,
        rejected: RejectedOption = None,
        strict: StrictOption = False,
        long_documents: LongDocumentsOption = "error",
        max_rows: MaxRowsOption = None,
        pool_factor: PoolFactorOption = 1.0,
        overlap: OverlapOption = 0,
        batch_documents: BatchOption = 256,
        attempts: AttemptsOption = 10,
        upload_workers: UploadWorkersOption = None,
        as_json: JsonSummaryOption = False,
    ) -> None:
        if watching and (dry_run or streams.STDIN in corpus):
            raise ConfigError(
                f"watch: {'--dry-run is for m3-vdb sync' if dry_run else 'standard input has no changes'}"
            )
        if source is None and streams.STDIN in corpus:
            raise ConfigError(
                "standard input has no name: --source NAME says which documents of the collection are its"
            )
        read_max_removed(max_removed)
        fields = read_fields(
            id_field, text_field, title_field, columns, keep_field, drop_field, auto_id=auto_id, delimiter=delimiter
        )
        plan = LongDocuments(
            plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap
        )
        opened = partial(Corpus, corpus, format=format, fields=fields, include=include or (), exclude=exclude or ())
        first = opened()  # what cannot be read is said before the model is opened
        follower = Follower(
            corpus=opened if watching else lambda: first,
            embed=M3EmbeddingFunction(
                model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
            ),
            store=store,
            grpc=grpc,
            bm25=bm25,
            rejected=run_files(store, "sync", checkpoint=None, rejected=rejected).rejected,
            run=partial(
                sync,
                source=source or ", ".join(str(Path(path).resolve()) for path in corpus),
                max_removed=max_removed,
                batch_documents=batch_documents,
                strict=strict,
                retry=Retry(attempts=attempts),
                upload_workers=upload_workers,
                long_documents=plan,
            ),
            plan=plan.plan,
            as_json=as_json,
        )
        with stopping(_HINT) as stop:
            if watching:
                _watch(follower, corpus, stop, quiet)
                return
            report = follower.sync(stop, dry_run=dry_run)
        if report.interrupted:
            say(f"stopped; {_HINT}")
        if report.interrupted or report.plan.rejected or report.ingest.rejected_count:
            raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)

    return command


sync_command: Final = _make_command(watching=False)
watch_command: Final = _make_command(watching=True)


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
