"""``m3-vdb ingest``: options, progress and summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Annotated, cast

import typer

from m3_vdb.cli.options import (
    AttemptsOption,
    AutoIdOption,
    BatchOption,
    Bm25Option,
    CheckpointOption,
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
    ResumeOption,
    RuntimeOption,
    StoreOption,
    StrictOption,
    TextFieldOption,
    TitleFieldOption,
    UploadWorkersOption,
)
from m3_vdb.cli.output import err
from m3_vdb.cli.ray import ENGINES, driver_embed, make_engine
from m3_vdb.cli.run import kept_place, read_fields, run_files, run_on, say_notices
from m3_vdb.cli.sync import sync_command
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError
from m3_vdb.ingest import Corpus, Retry, ingest
from m3_vdb.stores import CollectionOptions
from m3_vdb.stores.names import Server


def ingest_command(
    corpus: CorpusArgument,
    store: StoreOption,
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
    resume: ResumeOption = False,
    checkpoint: CheckpointOption = None,
    rejected: RejectedOption = None,
    strict: StrictOption = False,
    again: Annotated[bool, typer.Option("--again", help="Also encode unchanged documents.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what this corpus no longer has: m3-vdb sync.")
    ] = False,
    long_documents: LongDocumentsOption = "error",
    max_rows: MaxRowsOption = None,
    pool_factor: PoolFactorOption = 1.0,
    overlap: OverlapOption = 0,
    batch_documents: BatchOption = 256,
    attempts: AttemptsOption = 10,
    upload_workers: UploadWorkersOption = None,
    engine: Annotated[
        str, typer.Option("--engine", help="threads (this machine) or ray (a cluster; needs the extra ray).")
    ] = "threads",
    ray_address: Annotated[
        str | None, typer.Option(help="Ray: auto or HOST:6379. Default: RAY_ADDRESS, or a new local cluster.")
    ] = None,
    encoders: Annotated[int | None, typer.Option(help="Ray: how many. Default: by the cluster's GPUs or CPUs.")] = None,
    encoder_cpus: Annotated[float, typer.Option(help="Ray: CPUs, and threads, per encoder.")] = 1.0,
    encoder_gpus: Annotated[
        float | None, typer.Option(help="Ray: GPUs per encoder. Default: 1 if the cluster has any.")
    ] = None,
    as_json: JsonSummaryOption = False,
) -> None:
    """Encode a corpus and store it; unchanged documents are skipped. Bad rows are set aside (exit code 3)."""
    if prune:
        if resume or again or checkpoint or engine != "threads":
            raise ConfigError("--prune: a sync has no --resume, --again, --checkpoint or --engine: leave them out")
        sync_command(
            corpus,
            store,
            grpc=grpc,
            model=model,
            mcls_every=mcls_every,
            max_length=max_length,
            runtime=runtime,
            format=format,
            include=include,
            exclude=exclude,
            id_field=id_field,
            auto_id=auto_id,
            text_field=text_field,
            title_field=title_field,
            keep_field=keep_field,
            drop_field=drop_field,
            columns=columns,
            delimiter=delimiter,
            rejected=rejected,
            strict=strict,
            long_documents=long_documents,
            max_rows=max_rows,
            pool_factor=pool_factor,
            overlap=overlap,
            batch_documents=batch_documents,
            attempts=attempts,
            upload_workers=upload_workers,
            as_json=as_json,
        )
        return
    fields = read_fields(
        id_field, text_field, title_field, columns, keep_field, drop_field, auto_id=auto_id, delimiter=delimiter
    )
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    rows = Corpus(corpus, format=format, fields=fields, include=include or (), exclude=exclude or ())
    said = say_notices(rows.notices, 0)
    files = run_files(store, "ingest", checkpoint=checkpoint, rejected=rejected)
    rows.leave_out(files.checkpoint, files.rejected)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if engine == "ray":
        embed = driver_embed(model, max_length=max_length, mcls_every=mcls_every)
    else:
        embed = M3EmbeddingFunction(
            model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
        )
    run = partial(
        ingest,
        rows,
        embed,
        batch_documents=batch_documents,
        skip_unchanged=not again,
        strict=strict,
        resume=resume,
        run_key={"store": store, "fields": repr(fields), "format": format},
        retry=Retry(attempts=attempts),
        upload_workers=upload_workers,
        long_documents=plan,
    )
    with ExitStack() as open_here:
        if engine == "ray":
            made = make_engine(
                embed,
                store,
                grpc=grpc,
                model=model,
                runtime=runtime,
                address=ray_address,
                encoders=encoders,
                cpus=encoder_cpus,
                gpus=encoder_gpus,
            )
            cluster = open_here.enter_context(made)
            _print_writers(cluster.encoders, server=isinstance(kept_place(store), Server))
            run = partial(run, engine=cluster)
        result = run_on(run, embed, store, files, grpc=grpc, options=CollectionOptions(bm25=bm25))
    say_notices(rows.notices, said)
    result.finish(files, embed, plan.plan, about={"store": store}, as_json=as_json)


def _print_writers(encoders: int, *, server: bool) -> None:
    who = "workers write to the server" if server else "a folder has one writer: the vectors come here to be stored"
    err.print(f"Ray: {encoders} encoders; {who}", markup=False, soft_wrap=True)
