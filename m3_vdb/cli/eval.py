"""``m3-vdb eval`` and ``m3-vdb report``: thin, like the rest of the command line (``cli``)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, cast, get_args

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from m3_vdb.cli.options import LongDocumentsOption, MaxRowsOption, OverlapOption, PoolFactorOption
from m3_vdb.cli.output import err, out, printable, say
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import (
    MODES,
    PROTOCOLS,
    Collection,
    Evaluation,
    Mode,
    Protocol,
    evaluate,
    open_collections,
)
from m3_vdb.evaluation.collection import subsample_splits
from m3_vdb.evaluation.datasets import LAYOUTS
from m3_vdb.evaluation.evaluate import RESULTS
from m3_vdb.evaluation.report import write_report
from m3_vdb.evaluation.report.numbers import counted
from m3_vdb.evaluation.runs import Progress
from m3_vdb.weights import PRESETS

MEASURED: Final = "What is measured"
COLLECTIONS: Final = "Collections"
MODEL: Final = "Model"
_DENSE_SPARSE_PRESETS: Final = " or ".join(name for name, weights in PRESETS.items() if not weights.multi_vector)
_ALL_PRESETS: Final = " or ".join(name for name, weights in PRESETS.items() if weights.multi_vector)


def eval_command(
    collection: Annotated[
        list[str],
        typer.Argument(metavar="COLLECTION", help="Folder of a collection, folder of such folders, or a pattern."),
    ],
    store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help='Where the documents go: a folder (./e.qdrant), a server, or memory://. "{collection}" stands for the '
            "name of a collection.",
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="For run files, results and report. The same folder goes on."),
    ] = Path("evaluation"),
    task: Annotated[
        str, typer.Option(metavar="NAME", help="Name in the report. Default: names of the places.", show_default=False)
    ] = "",
    long_documents: LongDocumentsOption = "error",
    max_rows: MaxRowsOption = None,
    pool_factor: PoolFactorOption = 1.0,
    overlap: OverlapOption = 0,
    modes: Annotated[
        str,
        typer.Option(
            metavar="MODE,...",
            help=f"Rankings to measure. Default: {', '.join(MODES)}.",
            show_default=False,
            rich_help_panel=MEASURED,
        ),
    ] = ",".join(MODES),
    bm25: Annotated[
        bool,
        typer.Option("--bm25", help="BM25 on the same documents too; the baseline then.", rich_help_panel=MEASURED),
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Weights and candidates: {', '.join(PROTOCOLS)}.",
            rich_help_panel=MEASURED,
        ),
    ] = "paper",
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,W", help=f"Of the mode all: 1,0.3,1 or {_ALL_PRESETS}.", rich_help_panel=MEASURED),
    ] = None,
    dense_sparse_weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,0",
            help=f"Of the mode dense_sparse: 1,0.3,0 or {_DENSE_SPARSE_PRESETS}.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    tune_weights: Annotated[
        bool,
        typer.Option(
            "--tune-weights",
            help="First find the weights of both modes on other queries over the same documents.",
            rich_help_panel=MEASURED,
        ),
    ] = False,
    dev_split: Annotated[
        str, typer.Option(metavar="NAME", help="The judgements to tune weights on.", rich_help_panel=MEASURED)
    ] = "dev",
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="Also measure what the engine's approximate search loses.", rich_help_panel=MEASURED
        ),
    ] = False,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"How files are laid out: auto, {', '.join(LAYOUTS)}.", rich_help_panel=COLLECTIONS
        ),
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which judgements. Default: what is usually reported of a layout, test or dev.",
            rich_help_panel=COLLECTIONS,
        ),
    ] = None,
    lang: Annotated[
        str | None,
        typer.Option(metavar="LANG,...", help="Only queries in these languages.", rich_help_panel=COLLECTIONS),
    ] = None,
    max_documents: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Thin the corpus to so many documents; judged ones stay.", rich_help_panel=COLLECTIONS
        ),
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(metavar="N", help="Thin the queries to so many a language.", rich_help_panel=COLLECTIONS),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Bundle directory or hub id. Default: the model that comes with m3-vdb.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="auto, onnxruntime or openvino.", rich_help_panel=MODEL)
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Tokens kept of a passage. Default: what the model takes.", rich_help_panel=MODEL
        ),
    ] = None,
    mcls_every: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="MCLS: another <s> every so many tokens; 256 in the paper.", rich_help_panel=MODEL
        ),
    ] = None,
) -> None:
    """Measure retrieval quality: documents into a store, queries as the fused request, figures out.

    nDCG@10, Recall@100 and MRR@10 (or answer recall) of every mode: a table,
    report.html, report.md and TREC run files. After an interruption the same
    command goes on where it stopped.
    """
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    chosen, rankings = _protocol(protocol, weights, dense_sparse_weights), _modes(modes)

    def read(part: str | None) -> list[Collection]:
        langs = lang.split(",") if lang else None
        return [one for place in collection for one in open_collections(place, layout=layout, split=part, lang=langs)]

    test, dev = subsample_splits(
        read(split), read(dev_split) if tune_weights else [], max_documents=max_documents, max_queries=max_queries
    )
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    with _bars() as progress:
        found = evaluate(
            test,
            embed,
            store,
            task=task or ", ".join(_name(place) for place in collection),
            protocol=chosen,
            modes=rankings,
            bm25=bm25,
            dev=dev,
            approximate=approximate,
            long_documents=plan,
            out=folder,
            command=shlex.join(["m3-vdb", *sys.argv[1:]]),
            progress=progress,
        )
    _show(found)
    if rejected := sum(cost.rejected for cost in found.costs.values()):
        say(f"{counted(rejected, 'document')} could not be stored and cannot be found", style="red")
    html, markdown = write_report([found], folder)
    say(f"{html}, {markdown}, {folder / RESULTS}")


def report_command(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help="results.json files, or folders that hold one.")
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For report.html and report.md.")] = Path(
        "evaluation"
    ),
) -> None:
    """Draw one report from several evaluations."""
    paths = [path / RESULTS if path.is_dir() else path for path in results]
    html, markdown = write_report([Evaluation.load(path) for path in paths], folder)
    say(f"{html}, {markdown}")


def _name(place: str) -> str:
    """The last part of a path that is no pattern."""
    parts = [part for part in Path(place).resolve().parts if not any(sign in part for sign in "*?[")]
    return parts[-1]


def _protocol(name: str, weights: str | None, dense_sparse: str | None) -> Protocol:
    if name not in PROTOCOLS:
        raise ConfigError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[name]
    if weights is not None:
        chosen = chosen.with_weights("all", weights)
    if dense_sparse is not None:
        chosen = chosen.with_weights("dense_sparse", dense_sparse)
    return chosen


def _modes(text: str) -> tuple[Mode, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--modes {text}: {unknown[0]!r} is none of {', '.join(MODES)}")
    return tuple(known[name] for name in names)


@contextmanager
def _bars() -> Iterator[Progress]:
    """One line: the collection, what is being done, how much of it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(collection: str, what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{collection}: {what}", completed=done, total=total)

        yield progress


def _show(found: Evaluation) -> None:
    """The headline measure, a line a group."""
    headline = found.measures[0]
    table = Table(title=printable(f"{found.task}: {headline}"), title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("docs", justify="right")
    table.add_column("queries", justify="right")
    for system in found.systems:
        table.add_column(system.replace("_", "\n"), justify="right")  # fits 80 columns
    for group in found.groups:
        values = [f"{group.figures[system][headline].value:.3f}" for system in found.systems]
        table.add_row(printable(group.label), f"{group.documents:,}", f"{group.queries:,}", *values)
    if len(found.groups) > 1:
        table.add_section()
        means = [f"{found.mean[system][headline].value:.3f}" for system in found.systems]
        table.add_row("mean", "", "", *means, style="bold")
    out.print(table)
