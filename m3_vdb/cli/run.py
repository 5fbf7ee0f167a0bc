"""Shared by ``m3-vdb ingest`` and ``m3-vdb backfill``: files, signals, progress and summary of a run."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Final

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_REJECTED, err, write_json
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import Plan
from m3_vdb.errors import ConfigError, EngineError, StoreError
from m3_vdb.ingest import IngestReport, Progress
from m3_vdb.notices import counted
from m3_vdb.retry import status
from m3_vdb.stores import CollectionOptions, ModelIdentity, VectorStore, open_store
from m3_vdb.stores.names import Folder, Memory, Server, read_name
from m3_vdb.stores.options import DEFAULT_OPTIONS

REJECTED_SHOWN: Final = 10
LINE_SECONDS: Final = 10.0
"""Time between two lines of progress without a terminal."""
FORBIDDEN: Final = 403
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


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Files of a run.

    Attributes:
        checkpoint: the state from which ``--resume`` continues.
        rejected: rows that were not stored.
    """

    checkpoint: Path
    rejected: Path


def run_files(store: str, command: str, *, checkpoint: Path | None, rejected: Path | None) -> RunFiles:
    """The files of a run, by default beside the store.

    Args:
        store: URL.
        command: "ingest" or "backfill", part of the default names.
        checkpoint: path of the checkpoint; None for the default.
        rejected: path for rejected rows; None for the default.

    Raises:
        StoreUrlError: unrecognised store URL.
        ConfigError: the store is ``memory://``, a path is a folder, or both paths are the same.
    """
    state = checkpoint or Path(f"{kept_place(store).files}.{command}")
    letters = rejected or state.with_name(f"{state.name}.rejected.jsonl")
    for path in (state, letters):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: name a file")
    if state.resolve() == letters.resolve():
        raise ConfigError(f"{state} cannot be both the checkpoint and the file of rejected rows")
    return RunFiles(state, letters)


def say_notices(notices: Mapping[str, str], said: int) -> int:
    """Print the notices of a corpus after the first ``said``; returns the number of all."""
    for notice in list(notices.values())[said:]:
        err.print(Text(notice, style="yellow"), soft_wrap=True)
    return len(notices)


@dataclass(frozen=True, slots=True)
class RunResult:
    """Report of a run, and the number of documents in the store afterwards."""

    report: IngestReport
    held: int

    def finish(
        self, files: RunFiles, embed: M3EmbeddingFunction, plan: Plan, *, about: Mapping[str, object], as_json: bool
    ) -> None:
        """Print the summary, and set the exit code.

        Args:
            files: files of the run.
            embed: the embedding function of the run.
            plan: the plan for long documents.
            about: further fields of the JSON summary; "source" and "points" if a collection was read.
            as_json: print the JSON summary, too.

        Raises:
            typer.Exit: the run was interrupted, or rows were rejected.
        """
        report = self.report
        end = f"{about['store']} now holds {self.held:,}"
        end += f", {about['source']} {about['points']:,}" if "source" in about else ""
        summarize(report, files.rejected, f"{end}; {embed.session.description}", embed.max_length, plan)
        if report.interrupted:
            err.print(f"stopped; {how_to_resume(files.checkpoint)}", markup=False, soft_wrap=True)
        if as_json:
            write_json(report.as_dict() | {"held": self.held, **{k: v for k, v in about.items() if k != "points"}})
        if report.interrupted or report.rejected_count:
            raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)


def run_on(
    run: Callable[..., IngestReport],
    embed: M3EmbeddingFunction,
    store: str,
    files: RunFiles,
    *,
    grpc: bool | None = None,
    options: CollectionOptions = DEFAULT_OPTIONS,
) -> RunResult:
    """Open the store, handle signals, show progress, and run.

    Args:
        run: ``ingest``, still without store, files, progress and stop.
        embed: the embedding function.
        store: URL.
        files: files of the run.
        grpc: ``open_store``'s ``prefer_grpc``.
        options: of a new collection.
    """
    with (
        open_target(store, embed.identity, prefer_grpc=grpc, options=options) as opened,
        stopping(how_to_resume(files.checkpoint)) as stop,
        shown() as tell,
    ):
        report = run(opened, checkpoint=files.checkpoint, rejected=files.rejected, progress=tell, stop=stop)
        return RunResult(report, opened.count())


def how_to_resume(state: Path) -> str:
    """A hint after an interrupted run."""
    return f"to resume, run the same command with --resume (checkpoint {state})"


def kept_place(store: str) -> Folder | Server:
    """The folder or server of a store URL.

    Raises:
        StoreUrlError: unrecognised store URL.
        ConfigError: the store is ``memory://``, which ends with the command.
    """
    place = read_name(store)
    if isinstance(place, Memory):
        raise ConfigError(f"{store} is gone when the command ends: name a folder such as ./notes.qdrant, or a server")
    return place


@contextmanager
def open_target(
    store: str,
    identity: ModelIdentity,
    *,
    prefer_grpc: bool | None = None,
    options: CollectionOptions = DEFAULT_OPTIONS,
) -> Iterator[VectorStore]:
    """Open the store to write to; a folder created here is removed if the run fails before anything is stored."""
    place = kept_place(store)
    folder = place.path if isinstance(place, Folder) else None
    is_new = folder is not None and not folder.exists()
    is_empty = False
    try:
        with open_store(store, identity=identity, prefer_grpc=prefer_grpc, options=options) as opened:
            opened.check_writable()
            try:
                yield opened
            except BaseException:
                with suppress(StoreError):
                    is_empty = is_new and opened.count() == 0
                raise
    finally:
        if is_empty and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stopping(hint: str) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, the second ends the program; prints ``hint``, how to resume."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        err.print("stopping after the current batch; press Ctrl-C again to stop at once")

    before = {}
    with suppress(ValueError):  # not in the main thread, which alone can handle signals
        before = {one: signal.signal(one, handle) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except (StoreError, EngineError, OSError) as error:
        if not (
            isinstance(error, StoreError) and status(error) == FORBIDDEN
        ):  # the same key may not write later either
            err.print(hint, markup=False, soft_wrap=True)
        raise
    except KeyboardInterrupt:
        err.print(f"stopped at once; {hint}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Show progress: a bar on a terminal, otherwise a line every 10 seconds."""
    if not err.is_terminal:
        last = time.monotonic()

        def line(state: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                err.print(", ".join(_parts(state)), markup=False, soft_wrap=True)

        yield line
        return
    # A narrow terminal cuts the end, so rows and time come first.
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    with Bar(BarColumn(12), TaskProgressColumn(), words, console=err, expand=True, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def advance(state: Progress) -> None:
            bar.update(
                task, completed=state.encoded_rows, total=state.total_rows, description=" · ".join(_parts(state))
            )

        yield advance


def _parts(state: Progress) -> list[str]:
    """The numbers of the progress display, most important first."""
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
    """Print the summary of a run on standard error."""
    seconds, times = max(report.seconds, 1e-9), report.encoder
    skipped = [f"{report.unchanged:,} unchanged"] if report.unchanged else []
    skipped += [f"{counted(report.resumed, 'row')} done before"] if report.resumed else []
    rates = f", {report.tokens:,} tokens in {report.seconds:.1f} s "
    rates += f"({report.documents / seconds:,.1f} documents/s, {report.tokens / seconds:,.0f} tokens/s)"
    err.print(
        f"{counted(report.documents, 'document')}{rates if report.documents else ''}"
        f"{''.join(f', {one}' for one in skipped)}; {end}",
        markup=False,
        soft_wrap=True,
    )
    if report.documents:
        waits = f"waiting for input {times.waiting_for_input / seconds:.0%}, for the store"
        waits += f" {times.waiting_for_store / seconds:.0%}: {_SIDES[times.bottleneck]}; {report.retries} retries"
        err.print(f"encoder busy {times.busy / seconds:.0%} of the time, {waits}", soft_wrap=True)
    if report.restarted:
        err.print("the store did not match the checkpoint: every document was checked again", style="yellow")
    if report.truncated:
        err.print(f"{counted(report.truncated, 'document')} cut to {max_length} tokens", style="yellow")
    if report.long_documents:
        err.print(f"{counted(report.long_documents, 'long document')}: {_DONE[plan]}", style="yellow")
    for one in report.rejected[:REJECTED_SHOWN]:
        err.print(Text(f"not stored: {one.where}: {one.reason}", style="red"), soft_wrap=True)
    if report.rejected_count:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.rejections.items()))
        refused = f"{counted(report.rejected_count, 'row')} not stored ({kinds}): {letters}"
        err.print(Text(refused, style="red"), soft_wrap=True)
    elif letters.is_file() and letters.stat().st_size:
        earlier = f"rows that earlier runs did not store are in {letters}; remove the file once they are fixed"
        err.print(earlier, markup=False, soft_wrap=True)
