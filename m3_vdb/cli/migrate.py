"""``m3-vdb migrate``: options, the comparison of the two models, and the summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from m3_vdb.cli.options import (
    AttemptsOption,
    BatchOption,
    JsonSummaryOption,
    MaxLengthOption,
    MclsOption,
    RejectedOption,
    RowOptions,
    RuntimeOption,
    StoreOption,
    UploadWorkersOption,
    grouped,
)
from m3_vdb.cli.output import EXIT_INTERRUPTED, err, say, write_json
from m3_vdb.cli.run import run_files, say_notices, shown, stopping
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError
from m3_vdb.ingest import MigrationReport, ModelComparison, Retry, cancel_migration, drop_old, migrate

_HINT = "to resume, run the same command again"


@grouped
def migrate_command(
    store: StoreOption,
    *,
    model: Annotated[str | None, typer.Option("--model", help="The new model: a folder or hub id.")] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", help="Take titles and texts from this corpus: file or folder, as ingest. Repeatable."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Server, collection named directly: the name to open after the switch.")
    ] = None,
    old_model: Annotated[
        str | None, typer.Option("--old-model", help="The model it has now, to compare the two.")
    ] = None,
    judged: Annotated[
        Path | None,
        typer.Option("--eval", help='Queries to compare with, for nDCG@10: lines {"query": …, "relevant": [IDS]}.'),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and say what would be done.")] = False,
    no_switch: Annotated[bool, typer.Option("--no-switch", help="Build and compare; the next run switches.")] = False,
    drop: Annotated[bool, typer.Option("--drop-old", help="Delete the collection that was replaced.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Delete what an unfinished migration has made.")] = False,
    rows: RowOptions,
    mcls_every: MclsOption = None,
    max_length: MaxLengthOption = None,
    runtime: RuntimeOption = "auto",
    rejected: RejectedOption = None,
    long_documents: Annotated[
        str, typer.Option(help="Rows longer than the store's multi-vector limit: error, truncate or pool.")
    ] = "error",
    batch_documents: BatchOption = 256,
    attempts: AttemptsOption = 10,
    upload_workers: UploadWorkersOption = None,
    as_json: JsonSummaryOption = False,
) -> None:
    """Give a collection another model: build its successor beside it, compare, and switch in one step."""
    if (model is not None) + drop + cancel != 1:
        raise ConfigError("migrate: expected --model NEW, or --drop-old or --cancel instead")
    if drop or cancel:
        gone = drop_old(store) if drop else cancel_migration(store)
        say(f"deleted {gone}" if gone else f"{store}: there is nothing to {'drop' if drop else 'give up'}")
        return
    corpus = rows.corpus(sources) if sources else None
    files = run_files(store, "migrate", checkpoint=None, rejected=rejected)
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    old = None if old_model is None else M3EmbeddingFunction(old_model, runtime=runtime, on_truncate="ignore")
    with stopping(_HINT) as stop, shown() as tell:
        report = migrate(
            store,
            embed,
            alias=alias,
            corpus=corpus,
            old_embed=old,
            judged=judged,
            dry_run=dry_run,
            switch=not no_switch,
            batch_documents=batch_documents,
            progress=tell,
            rejected=files.rejected,
            retry=Retry(attempts=attempts),
            upload_workers=upload_workers,
            long_documents=LongDocuments(plan=cast(Plan, long_documents)),
            stop=stop,
        )
    if corpus is not None:
        say_notices(corpus.notices, 0)
    if report.comparison is not None:
        err.print(_table(report.comparison))
        if old is None:
            say("to compare with the old model, name it with --old-model")
    if report.truncated:
        say(f"{report.truncated:,} rows were longer than {embed.max_length:,} tokens and were cut", style="yellow")
    say(f"stopped; {_HINT}" if report.interrupted else _summary(report, embed, dry_run=dry_run))
    if as_json:
        write_json({"store": store, "dry_run": dry_run, **report.as_dict()})
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _summary(report: MigrationReport, embed: M3EmbeddingFunction, *, dry_run: bool) -> str:
    if dry_run:
        return (
            f"would encode {report.documents:,} rows of {report.old} with {embed.identity.name} into {report.new}, "
            f"then switch {report.place}"
        )
    if not report.switched:
        return f"{report.new} holds everything, {report.encoded:,} rows encoded; to switch, run without --no-switch"
    if not report.passes:
        return f"{report.place} has the model {embed.identity.name} already"
    return (
        f"{report.place} is switched to {embed.identity.name}, {report.encoded:,} rows encoded; {report.old} is kept "
        f"until m3-vdb migrate --store {report.place} --drop-old"
    )


def _table(found: ModelComparison) -> Table:
    table = Table(caption=f"{found.queries:,} queries" + _overlap(found.overlap))
    for name in ("model", "encode, ms", "search, ms", "nDCG@10"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for which, one in (("old", found.old), ("new", found.new)):
        if one is not None:
            ndcg = "" if one.ndcg is None else f"{one.ndcg:.3f}"
            table.add_row(f"{which}: {one.name}", f"{one.encode_ms:.1f}", f"{one.search_ms:.1f}", ndcg)
    return table


def _overlap(share: float | None) -> str:
    return "" if share is None else f", {share:.0%} of the best ten in common"
