"""``python -m onnx_export CHECKPOINT OUT``: the same as ``m3-vdb export``."""

from __future__ import annotations

import typer

from m3_vdb.cli.export import export_command
from m3_vdb.cli.output import EXIT_CODES, exit_codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command("onnx_export", epilog=EXIT_CODES)(exit_codes()(export_command))

if __name__ == "__main__":
    app()
