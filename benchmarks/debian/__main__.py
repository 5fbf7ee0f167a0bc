"""``python -m benchmarks.debian``: build the collections and the training rows."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .build import build
from .fetch import FetchError
from .records import LANGUAGES


def main(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("data/debian"),
    cache: Annotated[Path, typer.Option(help="Folder for fetched packages; kept between runs.")] = Path("data/cache"),
    languages: Annotated[str, typer.Option(help="Language tags, separated by commas.")] = ",".join(LANGUAGES),
) -> None:
    """Build a multilingual retrieval benchmark and training rows from text that Debian ships."""
    start = time.monotonic()

    def report(line: str) -> None:
        typer.echo(f"{time.monotonic() - start:6.0f} s  {line}")

    try:
        build(out, cache, [lang.strip() for lang in languages.split(",") if lang.strip()], report=report)
    except FetchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    report(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
