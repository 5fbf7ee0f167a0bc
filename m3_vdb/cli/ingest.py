"""``m3-vdb ingest``: options, progress and summary; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, cast

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from m3_vdb.cli.options import (
    AttemptsOption,
    BatchOption,
    CheckpointOption,
    DropFieldOption,
    GrpcOption,
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
)
from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_REJECTED, err, write_json
from m3_vdb.cli.ray import ENGINES, driver_embed, make_engine
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError, EngineError, StoreError
from m3_vdb.ingest import FORMATS, Corpus, Fields, IngestReport, Progress, Retry, ingest
from m3_vdb.stores import ModelIdentity, VectorStore, open_store
from m3_vdb.stores.names import Folder, Memory, Server, read_name

REJECTED_SHOWN: Final = 10
LINE_SECONDS: Final = 10.0
"""Time between two lines of progress where there is no terminal."""
_SIDES: Final = {
    "encoder": "the encoder is the bottleneck",
    "input": "reading and preparing is the bottleneck",
    "store": "the store is the bottleneck",
}

_DONE: Final[dict[Plan, str]] = {
    "error": "refused",
    "truncate": "the first rows of their multi-vectors were kept",
    "pool": "the rows of their multi-vectors were pooled",
    "split": "each is stored in passages, which count as documents here",
}


def ingest_command(
    corpus: Annotated[
        list[str],
        typer.Argument(help='Files, folders, pipes, or "-": JSONL, CSV, TSV, Parquet (also .gz, .zst), texts, BEIR.'),
    ],
    store: StoreOption,
    grpc: GrpcOption = False,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    max_length: MaxLengthOption = None,
    runtime: RuntimeOption = "auto",
    format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "auto",
    include: Annotated[
        list[str] | None, typer.Option(help='Of folders, only files that fit: "*.html", "guide/*".')
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Of folders, no files that fit.")] = None,
    id_field: Annotated[
        str | None, typer.Option(help="Field of the id. Default: id or _id, or made of the content of tables without.")
    ] = None,
    auto_id: Annotated[bool, typer.Option("--auto-id", help="Make ids of the content for all rows without.")] = False,
    text_field: TextFieldOption = None,
    title_field: TitleFieldOption = "title",
    keep_field: KeepFieldOption = None,
    drop_field: DropFieldOption = None,
    columns: Annotated[str | None, typer.Option(help="Names for CSV or TSV without a header: id,text.")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help='Between the cells of CSV: ";", "|", tab, … Default: by the first line.')
    ] = None,
    resume: ResumeOption = False,
    checkpoint: CheckpointOption = None,
    rejected: RejectedOption = None,
    strict: StrictOption = False,
    again: Annotated[bool, typer.Option("--again", help="Also encode what is stored unchanged.")] = False,
    long_documents: LongDocumentsOption = "error",
    max_rows: MaxRowsOption = None,
    pool_factor: PoolFactorOption = 1.0,
    overlap: OverlapOption = 0,
    batch_documents: BatchOption = 256,
    attempts: AttemptsOption = 10,
    upload_workers: Annotated[
        int | None, typer.Option(help="Batches stored at the same time. Default: 2 for a server, else 1.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="threads (this machine) or ray (a cluster; needs the extra ray).")
    ] = "threads",
    ray_address: Annotated[
        str | None, typer.Option(help="Cluster: auto or HOST:6379. Default: RAY_ADDRESS, or one on this machine.")
    ] = None,
    encoders: Annotated[int | None, typer.Option(help="Ray: how many. Default: by the cluster's GPUs or CPUs.")] = None,
    encoder_cpus: Annotated[float, typer.Option(help="Ray: CPUs, and threads, of an encoder.")] = 1.0,
    encoder_gpus: Annotated[
        float | None, typer.Option(help="Ray: GPUs of an encoder. Default: 1 if there are.")
    ] = None,
    as_json: JsonSummaryOption = False,
) -> None:
    """Encode a corpus and store it; what is stored unchanged is left out. Bad rows are set aside (exit code 3)."""
    fields = Fields(
        id=(id_field,) if id_field else Fields().id,
        text=tuple(text_field or Fields().text),
        title=title_field,
        columns=tuple(name.strip() for name in columns.split(",")) if columns else None,
        keep=tuple(keep_field) if keep_field else None,
        drop=tuple(drop_field or ()),
        auto_id=auto_id,
        delimiter={"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter) if delimiter else None,
    )
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    rows = Corpus(corpus, format=format, fields=fields, include=include or (), exclude=exclude or ())
    said = _say(rows.notices, 0)
    state = checkpoint or Path(f"{kept_place(store).files}.ingest")
    letters = rejected or state.with_name(f"{state.name}.rejected.jsonl")
    check_outputs(state, letters)
    rows.leave_out(state, letters)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if engine == "ray":
        embed = driver_embed(model, max_length=max_length, mcls_every=mcls_every)
    else:
        embed = M3EmbeddingFunction(
            model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
        )
    with ExitStack() as open_here:
        elsewhere = None
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
            elsewhere = open_here.enter_context(made)
        opened = open_here.enter_context(open_target(store, embed.identity, prefer_grpc=grpc))
        if elsewhere is not None:
            err.print(_who_writes(elsewhere.encoders, server=opened.is_server), markup=False, soft_wrap=True)
        stop = open_here.enter_context(stopping(state))
        tell = open_here.enter_context(shown())
        report = ingest(
            rows,
            embed,
            opened,
            batch_documents=batch_documents,
            progress=tell,
            skip_unchanged=not again,
            strict=strict,
            rejected=letters,
            checkpoint=state,
            resume=resume,
            ties={"store": store, "fields": repr(fields), "format": format},
            retry=Retry(attempts=attempts),
            upload_workers=upload_workers,
            engine=elsewhere,
            long_documents=plan,
            stop=stop,
        )
        held = opened.count()
    _say(rows.notices, said)
    summarize(report, letters, f"{store} now holds {held:,}; {embed.session.description}", embed.max_length, plan.plan)
    if report.interrupted:
        err.print(f"stopped; {how_to_resume(state)}", markup=False, soft_wrap=True)
    if as_json:
        write_json(report.as_dict() | {"held": held, "store": store})
    if report.interrupted or report.rejected_count:
        raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)


def _who_writes(encoders: int, *, server: bool) -> str:
    who = "workers write to the server" if server else "a folder has one writer: the vectors come here to be stored"
    return f"Ray: {encoders} encoders; {who}"


def how_to_resume(state: Path) -> str:
    """A hint for the end of an interrupted run."""
    return f"go on with the same command and --resume (checkpoint {state})"


def kept_place(store: str) -> Folder | Server:
    """Where a store is that outlives the command.

    Raises:
        StoreUrlError: the name leads nowhere.
        ConfigError: it does not.
    """
    place = read_name(store)
    if isinstance(place, Memory):
        raise ConfigError(f"{store} is gone when the command ends: name a folder such as ./notes.qdrant, or a server")
    return place


def check_outputs(checkpoint: Path, rejected: Path) -> None:
    """Refuse to write where nothing can be written.

    Raises:
        ConfigError: an output is a folder, or both are one file.
    """
    for path in (checkpoint, rejected):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file")
    if checkpoint.resolve() == rejected.resolve():
        raise ConfigError(f"{checkpoint} cannot be both the checkpoint and the file of bad rows")


@contextmanager
def open_target(store: str, identity: ModelIdentity, *, prefer_grpc: bool = False) -> Iterator[VectorStore]:
    """Open the store that is written to; if it is made here and the run fails before anything is in it, it goes."""
    place = kept_place(store)
    folder = place.path if isinstance(place, Folder) else None
    is_new = folder is not None and not folder.exists()
    is_empty = False
    try:
        with open_store(store, identity=identity, prefer_grpc=prefer_grpc) as opened:
            try:
                yield opened
            except BaseException:
                with suppress(StoreError):
                    is_empty = is_new and opened.count() == 0
                raise
    finally:
        if is_empty and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _say(notices: Mapping[str, str], said: int) -> int:
    """Print what a corpus has to say beyond the first so many notices; the number of all."""
    for notice in list(notices.values())[said:]:
        err.print(Text(notice, style="yellow"), soft_wrap=True)
    return len(notices)


@contextmanager
def stopping(state: Path) -> Iterator[threading.Event]:
    """Ctrl-C (or SIGTERM) once sets the event, a second time it ends the program; how to go on is said in any case."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        err.print("stopping after the batch that is being encoded; Ctrl-C again to leave at once")

    before = {}
    with suppress(ValueError):  # not in the main thread: signals are somebody else's
        before = {one: signal.signal(one, handle) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except (StoreError, EngineError, OSError):
        err.print(how_to_resume(state), markup=False, soft_wrap=True)
        raise
    except KeyboardInterrupt:
        err.print(f"left at once; {how_to_resume(state)}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """A bar over the rows of the corpus on a terminal, elsewhere a line every so often."""
    if not err.is_terminal:
        last = time.monotonic()

        def line(state: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                err.print(", ".join(_parts(state)), markup=False, soft_wrap=True)

        yield line
        return
    # What does not fit is cut off at the end: rows and time come first.
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    with Bar(BarColumn(12), TaskProgressColumn(), words, console=err, expand=True) as bar:
        task = bar.add_task("reading", total=None)

        def advance(state: Progress) -> None:
            bar.update(
                task, completed=state.encoded_rows, total=state.total_rows, description=" · ".join(_parts(state))
            )

        yield advance


def _parts(state: Progress) -> list[str]:
    """How far a run is, the most important first."""
    seconds, total, left = max(state.seconds, 1e-9), state.total_rows, state.seconds_left
    parts = [f"{state.encoded_rows:,}{'' if total is None else f' of {total:,}'} rows"]
    if left is not None:
        parts.append(f"{timedelta(seconds=round(left))} left")
    parts.append(f"{(state.encoded_rows - state.resumed) / seconds:,.1f} rows/s")
    parts.append(f"{state.encoded_tokens / seconds:,.0f} tokens/s")
    if state.rejected:
        parts.append(f"{state.rejected:,} rejected")
    return parts


def summarize(report: IngestReport, letters: Path, end: str, max_length: int, plan: Plan) -> None:
    """What a run did, on standard error."""
    seconds, times = max(report.seconds, 1e-9), report.encoder
    left_out = [f"{report.unchanged:,} unchanged"] if report.unchanged else []
    left_out += [f"{report.resumed:,} rows done before"] if report.resumed else []
    err.print(
        f"{report.documents:,} documents, {report.tokens:,} tokens in {report.seconds:.1f} s "
        f"({report.documents / seconds:,.1f} documents/s, {report.tokens / seconds:,.0f} tokens/s)"
        f"{''.join(f', {one}' for one in left_out)}; {end}",
        markup=False,
        soft_wrap=True,
    )
    waits = f"waiting for input {times.waiting_for_input / seconds:.0%}, for the store"
    waits += f" {times.waiting_for_store / seconds:.0%}: {_SIDES[times.bottleneck]}; {report.retries} retries"
    err.print(f"encoder busy {times.busy / seconds:.0%} of the time, {waits}", soft_wrap=True)
    if report.restarted:
        err.print("the store did not hold what the checkpoint said: every document was asked for again", style="yellow")
    if report.truncated:
        err.print(f"{report.truncated} documents were cut to {max_length} tokens", style="yellow")
    if report.long_documents:
        err.print(f"{report.long_documents:,} long documents: {_DONE[plan]}", style="yellow")
    for one in report.rejected[:REJECTED_SHOWN]:
        err.print(Text(f"not stored: {one.where}: {one.reason}", style="red"), soft_wrap=True)
    if report.rejected_count:
        counted = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.rejections.items()))
        err.print(
            Text(f"{report.rejected_count:,} rows were not stored ({counted}): {letters}", style="red"), soft_wrap=True
        )
    elif letters.is_file() and letters.stat().st_size:
        earlier = f"rows of earlier runs that were not stored are in {letters}; remove it when they are mended"
        err.print(earlier, markup=False, soft_wrap=True)
