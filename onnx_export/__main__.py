"""``python -m onnx_export CHECKPOINT OUT``: the command line of the export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from m3_vdb.errors import M3Error

console = Console(stderr=True)


def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint in BGE-M3 layout.")],
    out: Annotated[Path, typer.Argument(help="Bundle directory to create.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8 (int8 matrices, 4-bit embeddings).")] = "fp32",
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the directory's.")] = None,
) -> None:
    """Export an M3 checkpoint to a verified ONNX bundle with three outputs."""
    from onnx_export.export import export  # torch takes seconds to import; --help should not

    try:
        bundle, errors = export(checkpoint, out, precision=precision, name=name)
    except M3Error as error:
        _say(f"error: {error}", style="red")
        raise SystemExit(1) from None
    size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
    _say(f"{bundle.path}: {bundle.name}, {precision}, {size:.1f} MiB, fingerprint {bundle.fingerprint}")
    for key, value in errors.as_dict().items():
        _say(f"  {key:20} {value}")


def _say(text: str, *, style: str | None = None) -> None:
    """One line, however long; brackets are text and no markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(export_command)
