"""``m3-vdb eval`` and ``m3-vdb report``: thin, like the rest of the command line (``cli``)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from m3_vdb.embedding_function import M3EmbeddingFunction
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
from m3_vdb.evaluation.measuring import Progress
from m3_vdb.evaluation.readers import LAYOUTS
from m3_vdb.evaluation.report import write_report
from m3_vdb.evaluation.run import RESULTS
from m3_vdb.evaluation.splits import thin_splits
from m3_vdb.fusion import Weights

out = Console()
err = Console(stderr=True, highlight=False)


def eval_command(
    collection: Annotated[
        list[str], typer.Argument(help="Folder of a collection, folder of such folders, or a glob pattern.")
    ],
    store: Annotated[
        str, typer.Option(help='Where documents go; "{collection}" stands for the name. memory:// keeps nothing.')
    ],
    model: Annotated[str | None, typer.Option(help="Bundle directory or hub id. Default: the built-in model.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    modes: Annotated[str, typer.Option(help="Rankings to measure, separated by commas.")] = ",".join(MODES),
    bm25: Annotated[bool, typer.Option(help="BM25 on the same documents, as the baseline.")] = False,
    protocol: Annotated[str, typer.Option(help=f"{', '.join(PROTOCOLS)}.")] = "paper",
    weights: Annotated[str | None, typer.Option(help="Of the mode all: 1,0.3,1 or a preset.")] = None,
    dense_sparse_weights: Annotated[str | None, typer.Option(help="Of dense_sparse: 1,0.3,0 or a preset.")] = None,
    tune_weights: Annotated[bool, typer.Option(help="Find both weights on the dev split first.")] = False,
    approximate: Annotated[bool, typer.Option(help="Also measure what approximate search costs.")] = False,
    layout: Annotated[str, typer.Option(help=f"auto, {', '.join(LAYOUTS)}.")] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Which judgements. Default: what the layout usually reports.")
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Only these languages, separated by commas.")] = None,
    max_documents: Annotated[int | None, typer.Option(help="Thin the corpus; judged documents stay.")] = None,
    max_queries: Annotated[int | None, typer.Option(help="Thin the queries of each language.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens kept of a passage.")] = None,
    mcls_every: Annotated[int | None, typer.Option(help="MCLS: another <s> every so many tokens (paper: 256).")] = None,
    task: Annotated[str, typer.Option(help="Name in the report.")] = "",
    folder: Annotated[Path, typer.Option("--out", help="Runs, results and report; the same folder resumes.")] = Path(
        "evaluation"
    ),
) -> None:
    """Measure retrieval quality through a store: nDCG@10, Recall@100, MRR@10 in every mode, with a report."""
    chosen = _protocol(protocol, weights, dense_sparse_weights, max_length)

    def read(part: str | None) -> list[Collection]:
        langs = lang.split(",") if lang else None
        return [one for place in collection for one in open_collections(place, layout=layout, split=part, lang=langs)]

    test, dev = thin_splits(
        read(split), read("dev") if tune_weights else [], max_documents=max_documents, max_queries=max_queries
    )
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    with _bars() as progress:
        found = evaluate(
            test,
            embed,
            store,
            task=task or ", ".join(Path(place).name for place in collection),
            protocol=chosen,
            modes=_modes(modes),
            bm25=bm25,
            dev=dev,
            approximate=approximate,
            out=folder,
            command=shlex.join(["m3-vdb", *sys.argv[1:]]),
            progress=progress,
        )
    _show(found)
    html, markdown = write_report([found], folder)
    err.print(f"{html}, {markdown}, {folder / RESULTS}", markup=False, soft_wrap=True)


def report_command(
    results: Annotated[list[Path], typer.Argument(help="results.json files, or folders that hold one.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.md.")] = Path("evaluation"),
) -> None:
    """Draw one report from several evaluations."""
    paths = [path / RESULTS if path.is_dir() else path for path in results]
    html, markdown = write_report([Evaluation.load(path) for path in paths], folder)
    err.print(f"{html}, {markdown}", markup=False, soft_wrap=True)


def _protocol(name: str, weights: str | None, dense_sparse: str | None, max_length: int | None) -> Protocol:
    if name not in PROTOCOLS:
        raise ConfigError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[name]
    if weights is not None:
        chosen = chosen.with_weights("all", Weights.parse(weights))
    if dense_sparse is not None:
        chosen = chosen.with_weights("dense_sparse", Weights.parse(dense_sparse))
    return chosen if max_length is None else replace(chosen, passage_max_length=max_length)


def _modes(text: str) -> tuple[Mode, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--modes {text}: {unknown[0]!r} is none of {', '.join(MODES)}")
    return tuple(known[name] for name in names)


@contextmanager
def _bars() -> Iterator[Progress]:
    """One line: the collection, what is being done, how much of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(collection: str, what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{collection}: {what}", completed=done, total=total)

        yield progress


def _show(found: Evaluation) -> None:
    """The headline measure, a line a group."""
    headline = found.measures[0]
    table = Table(title=f"{found.task}: {headline}", title_justify="left")
    table.add_column("")
    table.add_column("documents", justify="right")
    table.add_column("queries", justify="right")
    for system in found.systems:
        table.add_column(system, justify="right")
    for group in found.groups:
        values = [f"{group.figures[system][headline].value:.3f}" for system in found.systems]
        table.add_row(group.label, f"{group.documents:,}", f"{group.queries:,}", *values)
    if len(found.groups) > 1:
        _add_mean(table, "mean", found, headline)
    out.print(table)


def _add_mean(table: Table, name: str, found: Evaluation, headline: str) -> None:
    values: Sequence[str] = [f"{found.mean[system][headline].value:.3f}" for system in found.systems]
    table.add_section()
    table.add_row(name, "", "", *values, style="bold")
