"""The report of one or more evaluations, drawn from ``results`` alone: an HTML page, and Markdown with its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.report import charts
from m3_vdb.evaluation.report.overview import headline, provenance, tiles
from m3_vdb.evaluation.report.tables import Block, blocks, summary, system_name
from m3_vdb.evaluation.report.writing import Table, aligned, written
from m3_vdb.evaluation.results import Evaluation

__all__ = ["to_html", "to_markdown", "write_report"]

PANEL_CAPTION: Final = "All from 0; a thin line is a 95 % confidence interval."
TASKS_NOTE: Final = "Mean of the first measure of every task, every group counted once."
BESIDE: Final[dict[str, Callable[..., list[charts.Chart]]]] = {
    "groups": charts.dots,
    "weights": charts.curves,
    "latency": charts.latency,
}
"""Block → the chart beside its table."""
TOGETHER: Final = re.compile(r"\[[^\]]*\]|p [<=] [\d.]+")
SPECIAL: Final = re.compile(
    r"[\\`*|~$]"
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # a tag, an entity
    r"|\](?=[(\[])"  # a link
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis: inside a word an underscore is none
)
"""What GitHub would read as markup inside a line; no line begins with text of others."""


def write_report(evaluations: Sequence[Evaluation], folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a folder, which is made if it does not exist.

    Args:
        evaluations: the tasks, a section each.
        folder: where to write; existing reports are replaced.

    Returns:
        The paths of the page and of the Markdown.

    Raises:
        ConfigError: there is no evaluation.
        MissingExtraError: Jinja is not installed; nothing is written.
    """
    if not evaluations:
        raise ConfigError("there is no evaluation to report on: expected at least one")
    contents = {"report.html": to_html(evaluations), "report.md": to_markdown(evaluations)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        # A file name that is not UTF-8 reaches a command line as lone surrogates, which UTF-8 cannot hold.
        (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace", newline="\n")
    return folder / "report.html", folder / "report.md"


def to_html(evaluations: Sequence[Evaluation]) -> str:
    """The report as one page that needs nothing else; whatever it is given stays text.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing an evaluation report", extra="eval") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # No line ends inside an interval or a p-value.
    environment.filters["unbroken"] = lambda text: TOGETHER.sub(lambda match: match[0].replace(" ", "\u00a0"), text)
    environment.globals["written"] = written
    styles = charts.palette(name for e in evaluations for name in (*e.systems, *(curve.weight for curve in e.curves)))
    return environment.get_template("report.html.jinja").render(
        title=", ".join(evaluation.task for evaluation in evaluations),
        tasks_note=TASKS_NOTE,
        panel_caption=PANEL_CAPTION,
        summary=summary(evaluations),
        styles=charts.STYLES,
        sections=[
            {
                "anchor": f"task-{i}",
                "title": evaluation.task,
                "headline": headline(evaluation),
                "tiles": tiles(evaluation),
                "parts": [_with_charts(evaluation, block, styles) for block in blocks(evaluation)],
                "provenance": provenance(evaluation),
            }
            for i, evaluation in enumerate(evaluations, start=1)
        ],
    )


def _with_charts(evaluation: Evaluation, block: Block, styles: dict[str, charts.Style]) -> dict[str, Any]:
    """A block, the chart beside its table with what the colours mean, and the panels below it."""
    beside = BESIDE[block.key](evaluation, styles) if block.key in BESIDE else []
    below = block.key == ("groups" if len(evaluation.groups) > 1 else "systems")
    named = {"groups": evaluation.systems, "weights": [curve.weight for curve in evaluation.curves]}
    legend = [(styles[system], system_name(system)) for system in named.get(block.key, ()) if beside]
    return {
        "block": block,
        "beside": beside,
        "legend": legend,
        "panels": charts.bars(evaluation, styles) if below else [],
    }


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The tables of the page as GitHub shows them, without the charts, to be committed beside the code."""
    lines = ["# Evaluation: " + ", ".join(escape(evaluation.task) for evaluation in evaluations), ""]
    table = summary(evaluations)
    if table is not None:
        lines += [TASKS_NOTE, "", *_table(table), ""]
    for evaluation in evaluations:
        lines += [] if table is None else [f"## {escape(evaluation.task)}", ""]
        lines += [escape(headline(evaluation)), ""]
        for block in blocks(evaluation):
            lines += [f"{'##' if table is None else '###'} {escape(block.title)}", ""]
            lines += [escape(block.text), ""] if block.text else []
            lines += [*_table(block.table), ""] if block.table is not None else []
            for one in block.more:
                lines += [f"{escape(one.title)}:", "", *_table(one), ""]
        about = "; ".join(f"{escape(name)} {_code(value)}" for name, value in provenance(evaluation))
        lines += [f"Measured with: {about}.", ""] if about else []
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> Iterator[str]:
    """Padded, so that it reads well as plain text too; numbers to the right."""
    headings, rows = written(table)
    lines = [[escape(text) for text in headings]]
    for row, cells in rows:
        line = [f"*{escape(row.name)}*" if row.summary else escape(row.name)]
        for cell in cells:
            text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
            line.append(f"{text} {escape(cell.small)}".rstrip())
        lines.append(line)
    for i, line in enumerate(aligned(lines, least=3)):
        yield "| " + " | ".join(line) + " |"
        if i == 0:
            first, *others = map(len, line)
            yield "|" + "|".join(["-" * (first + 2), *("-" * (width + 1) + ":" for width in others)]) + "|"


def escape(text: str) -> str:
    """Text that stays text in Markdown, on one line."""
    return SPECIAL.sub(lambda match: "\\" + match[0], " ".join(text.split()))


def _code(text: str) -> str:
    """Inline code, fenced by more backticks than it holds."""
    shown = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
