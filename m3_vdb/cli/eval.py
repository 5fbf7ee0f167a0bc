"""``m3-vdb eval`` and ``m3-vdb report``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast, get_args

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
from m3_vdb.evaluation.evaluate import RESULTS
from m3_vdb.evaluation.layouts import LAYOUTS
from m3_vdb.evaluation.report import write_report
from m3_vdb.evaluation.runs import Progress
from m3_vdb.notices import counted
from m3_vdb.weights import PRESETS

_DENSE_SPARSE_PRESETS: Final = " or ".join(name for name, weights in PRESETS.items() if not weights.multi_vector)
_ALL_PRESETS: Final = " or ".join(name for name, weights in PRESETS.items() if weights.multi_vector)


def _option(panel: str, metavar: str, help: str, *names: str, show_default: bool = True) -> Any:  # noqa: ANN401
    return typer.Option(*names, metavar=metavar or None, help=help, rich_help_panel=panel, show_default=show_default)


_measured = partial(_option, "What is measured")
_collections = partial(_option, "Collections")
_model = partial(_option, "Model")


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
        typer.Option("--out", metavar="FOLDER", help="For run files, results and report. Reuse it to resume."),
    ] = Path("evaluation"),
    task: Annotated[
        str, typer.Option(metavar="NAME", help="Name in the report. Default: names of the places.", show_default=False)
    ] = "",
    long_documents: LongDocumentsOption = "error",
    max_rows: MaxRowsOption = None,
    pool_factor: PoolFactorOption = 1.0,
    overlap: OverlapOption = 0,
    modes: Annotated[
        str, _measured("MODE,...", f"Rankings to measure. Default: {', '.join(MODES)}.", show_default=False)
    ] = ",".join(MODES),
    bm25: Annotated[bool, _measured("", "Also run BM25 on the same documents, as the baseline.", "--bm25")] = False,
    protocol: Annotated[str, _measured("NAME", f"Weights and candidates: {', '.join(PROTOCOLS)}.")] = "paper",
    weights: Annotated[str | None, _measured("W,W,W", f"Weights of the mode all: 1,0.3,1 or {_ALL_PRESETS}.")] = None,
    dense_sparse_weights: Annotated[
        str | None, _measured("W,W,0", f"Weights of the mode dense_sparse: 1,0.3,0 or {_DENSE_SPARSE_PRESETS}.")
    ] = None,
    tune_weights: Annotated[
        bool,
        _measured(
            "", "First tune the weights of both modes on other queries over the same documents.", "--tune-weights"
        ),
    ] = False,
    dev_split: Annotated[str, _measured("NAME", "The judgements to tune weights on.")] = "dev",
    approximate: Annotated[
        bool, _measured("", "Also measure the loss by the engine's approximate search.", "--approximate")
    ] = False,
    layout: Annotated[str, _collections("NAME", f"How files are laid out: auto, {', '.join(LAYOUTS)}.")] = "auto",
    split: Annotated[
        str | None,
        _collections("NAME", "Which judgements. Default: what is usually reported for a layout, test or dev."),
    ] = None,
    lang: Annotated[str | None, _collections("LANG,...", "Only queries in these languages.")] = None,
    max_documents: Annotated[
        int | None, _collections("N", "Subsample the corpus to N documents; judged ones stay.")
    ] = None,
    max_queries: Annotated[int | None, _collections("N", "Subsample to N queries per language.")] = None,
    model: Annotated[
        str | None, _model("MODEL", "Bundle directory or hub id. Default: the model that comes with m3-vdb.")
    ] = None,
    runtime: Annotated[str, _model("NAME", "auto, onnxruntime or openvino.")] = "auto",
    max_length: Annotated[int | None, _model("N", "Tokens kept of a passage. Default: what the model takes.")] = None,
    mcls_every: Annotated[int | None, _model("N", "MCLS: insert <s> every N tokens; 256 in the paper.")] = None,
) -> None:
    """Load a test collection, run its queries, report nDCG, recall and MRR.

    nDCG@10, Recall@100 and MRR@10 (or answer recall) of every mode: a table,
    report.html, report.md and TREC run files. An interrupted run resumes when
    the same command is given again.
    """
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    chosen, rankings = _protocol(protocol, weights, dense_sparse_weights), _modes(modes)
    parts = [[part for part in Path(place).resolve().parts if not set("*?[") & set(part)] for place in collection]
    names = [of_place[-1] for of_place in parts]  # the last part that is not a pattern

    def read(part: str | None) -> list[Collection]:
        langs = lang.split(",") if lang else None
        return open_collections(collection, layout=layout, split=part, lang=langs)

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
            task=task or ", ".join(names),
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
        raise ConfigError(f"--modes {text}: {unknown[0]!r} is not one of {', '.join(MODES)}")
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
    """The headline measure, a line per group."""
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
