"""``python -m onnx_export CHECKPOINT OUT``: the command line of the export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3_vdb.cli.output import EXIT_CODES, exit_codes, say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_CODES)
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint in BGE-M3 layout.")],
    out: Annotated[Path, typer.Argument(help="Bundle directory to create.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8 (int8 matrices, 4-bit embeddings).")] = "fp32",
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the directory's.")] = None,
) -> None:
    """Export an M3 checkpoint to a verified ONNX bundle with three outputs."""
    with exit_codes():
        from onnx_export.export import export  # torch takes seconds to import; --help should not
        from onnx_export.verify import Change

        bundle, errors = export(checkpoint, out, precision=precision, name=name)
        size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
        say(f"{bundle.path}: {bundle.name}, {precision}, {size:.1f} MiB, fingerprint {bundle.fingerprint}")
        for key, value in errors.as_dict().items():
            say(f"  {key:20} {value}")
        if "change" in bundle.config:
            change = Change(**bundle.config["change"])
            prefix, style = ("warning: ", "yellow") if change.lost else ("", None)
            say(prefix + change.summary(precision), style=style)


if __name__ == "__main__":
    app()
