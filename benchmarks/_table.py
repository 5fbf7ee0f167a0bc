"""Rows of text as a table, for the terminal and for Markdown; the first column is left-aligned, the others right."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
"""The first one is the head; all of one length."""


def text_table(rows: Rows) -> str:
    """Columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Rows) -> str:
    """The same as Markdown, without a line break at the end."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
