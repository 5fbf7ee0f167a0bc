"""``m3-vdb ingest``: options, progress and summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Annotated

import typer

from m3_vdb.cli.options import (
    Bm25Option,
    CheckpointOption,
    CorpusArgument,
    EncodingOptions,
    GrpcOption,
    LongOptions,
    PayloadOptions,
    ResumeOption,
    RowOptions,
    StoreOption,
    WritingOptions,
    grouped,
)
from m3_vdb.cli.output import err
from m3_vdb.cli.ray import ENGINES, driver_embed, make_engine
from m3_vdb.cli.run import kept_place, run_files, run_on, say_notices
from m3_vdb.cli.sync import FollowOptions, follow
from m3_vdb.errors import ConfigError
from m3_vdb.ingest import Retry, ingest
from m3_vdb.stores import CollectionOptions
from m3_vdb.stores.names import Server


@grouped
def ingest_command(
    corpus: CorpusArgument,
    store: StoreOption,
    *,
    bm25: Bm25Option = False,
    grpc: GrpcOption = None,
    encoding: EncodingOptions,
    rows: RowOptions,
    payload: PayloadOptions,
    resume: ResumeOption = False,
    checkpoint: CheckpointOption = None,
    again: Annotated[bool, typer.Option("--again", help="Also encode unchanged documents.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what this corpus no longer has: m3-vdb sync.")
    ] = False,
    long: LongOptions,
    writing: WritingOptions,
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
) -> None:
    """Encode a corpus and store it; unchanged documents are skipped. Bad rows are set aside (exit code 3)."""
    if prune:
        if resume or again or checkpoint or engine != "threads":
            raise ConfigError("--prune: a sync has no --resume, --again, --checkpoint or --engine: leave them out")
        follow(corpus, store, FollowOptions(bm25=bm25, grpc=grpc), encoding, rows, payload, long, writing)
        return
    plan, read = long.plan, rows.corpus(corpus, payload)
    said = say_notices(read.notices, 0)
    files = run_files(store, "ingest", checkpoint=checkpoint, rejected=writing.rejected)
    read.leave_out(files.checkpoint, files.rejected)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if engine == "ray":
        embed = driver_embed(encoding.model, max_length=encoding.max_length, mcls_every=encoding.mcls_every)
    else:
        embed = encoding.open()
    run = partial(
        ingest,
        read,
        embed,
        batch_documents=writing.batch_documents,
        skip_unchanged=not again,
        strict=writing.strict,
        resume=resume,
        run_key={"store": store, "fields": repr(rows.fields(payload)), "format": rows.format},
        retry=Retry(attempts=writing.attempts),
        upload_workers=writing.upload_workers,
        long_documents=plan,
    )
    with ExitStack() as open_here:
        if engine == "ray":
            made = make_engine(
                embed,
                store,
                grpc=grpc,
                model=encoding.model,
                runtime=encoding.runtime,
                address=ray_address,
                encoders=encoders,
                cpus=encoder_cpus,
                gpus=encoder_gpus,
            )
            cluster = open_here.enter_context(made)
            _print_writers(cluster.encoders, server=isinstance(kept_place(store), Server))
            run = partial(run, engine=cluster)
        result = run_on(run, embed, store, files, grpc=grpc, options=CollectionOptions(bm25=bm25))
    say_notices(read.notices, said)
    result.finish(files, embed, plan.plan, about={"store": store}, as_json=writing.as_json)


def _print_writers(encoders: int, *, server: bool) -> None:
    who = "workers write to the server" if server else "a folder has one writer: the vectors come here to be stored"
    err.print(f"Ray: {encoders} encoders; {who}", markup=False, soft_wrap=True)
