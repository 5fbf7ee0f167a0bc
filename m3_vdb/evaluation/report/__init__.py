"""The report of one or more evaluations: a page for people, Markdown to be committed. Drawn from ``results`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.report.markdown import to_markdown
from m3_vdb.evaluation.results import Evaluation

__all__ = ["to_html", "to_markdown", "write_report"]


def write_report(evaluations: Sequence[Evaluation], folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a folder, which is made if it does not exist.

    Args:
        evaluations: the tasks, a section each.
        folder: where to write; existing reports are replaced.

    Returns:
        The paths of the page and of the Markdown.

    Raises:
        ConfigError: there is no evaluation.
        MissingExtraError: matplotlib or Jinja is not installed; nothing is written.
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
    """The report as one page that needs nothing else.

    Raises:
        MissingExtraError: matplotlib or Jinja is not installed.
    """
    try:
        from m3_vdb.evaluation.report import html  # noqa: PLC0415 - a second to import, and optional
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing an evaluation report", extra="eval") from error
    return html.to_html(evaluations)
