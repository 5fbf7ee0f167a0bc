"""``report.md``: the tables of the page as GitHub shows them, without the charts, to be committed beside the code."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from m3_vdb.evaluation.report.headline import headline
from m3_vdb.evaluation.report.sections import Block, blocks, provenance, summary
from m3_vdb.evaluation.report.tables import Cell, Row, Table
from m3_vdb.evaluation.results import Evaluation

SPECIAL: Final = re.compile(
    r"[\\`*|~$]"
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # a tag, an entity
    r"|\](?=[(\[])"  # a link
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis: inside a word an underscore is none
)
"""What GitHub would read as markup inside a line; no line begins with text of others."""


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The report."""
    lines = ["# Evaluation: " + ", ".join(escape(evaluation.task) for evaluation in evaluations), ""]
    table = summary(evaluations)
    if table is not None:
        lines += ["Mean of the first measure of every task, every group counted once.", "", *_table(table), ""]
    for evaluation in evaluations:
        lines += [] if table is None else [f"## {escape(evaluation.task)}", ""]
        lines += _section(evaluation, "##" if table is None else "###")
    return "\n".join(lines).rstrip() + "\n"


def _section(evaluation: Evaluation, level: str) -> Iterator[str]:
    yield from (escape(headline(evaluation)), "")
    for block in blocks(evaluation):
        yield from _block(block, level)
    about = "; ".join(f"{escape(name)} {_code(value)}" for name, value in provenance(evaluation))
    if about:
        yield from (f"Measured with: {about}.", "")


def _block(block: Block, level: str) -> Iterator[str]:
    yield from (f"{level} {escape(block.title)}", "")
    if block.text:
        yield from (escape(block.text), "")
    if block.table is not None:
        yield from (*_table(block.table), "")
    for table in block.more:
        yield from (f"{escape(table.title)}:", "", *_table(table), "")


def _table(table: Table) -> Iterator[str]:
    """Padded, so that it reads well as plain text too; numbers to the right."""
    heads = [escape(text) for text in (table.corner, *table.columns)]
    lines = [[_name(row), *map(_cell, row.cells)] for row in table.rows]
    widths = [max(3, *(_width(line[i]) for line in (heads, *lines))) for i in range(len(heads))]
    yield _line(heads, widths)
    yield (
        "|" + "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    )
    for line in lines:
        yield _line(line, widths)


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = [" " * (width - _width(text)) for text, width in zip(texts, widths, strict=True)]
    first, *others = zip(texts, padded, strict=True)
    return "| " + " | ".join((first[0] + first[1], *(pad + text for text, pad in others))) + " |"


def _name(row: Row) -> str:
    return f"*{escape(row.name)}*" if row.summary else escape(row.name)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return " ".join(part for part in (f"**{text}**" if cell.best else text, escape(cell.small)) if part)


def _width(text: str) -> int:
    """Columns on a screen: East Asian letters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def escape(text: str) -> str:
    """Text that stays text, on one line."""
    return SPECIAL.sub(lambda match: "\\" + match[0], " ".join(text.split()))


def _code(text: str) -> str:
    """Inline code, fenced by more backticks than it holds."""
    shown = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
