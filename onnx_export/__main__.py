"""``python -m onnx_export CHECKPOINT OUT``: the command line of the export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3_vdb.errors import M3Error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted (Ctrl-C).")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint in BGE-M3 layout.")],
    out: Annotated[Path, typer.Argument(help="Bundle directory to create.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8 (int8 matrices, 4-bit embeddings).")] = "fp32",
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the directory's.")] = None,
) -> None:
    """Export an M3 checkpoint to a verified ONNX bundle with three outputs."""
    try:
        _export(checkpoint, out, precision, name)
    except (M3Error, OSError) as error:
        say(f"error: {error}", colour=typer.colors.RED)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None


def _export(checkpoint: Path, out: Path, precision: str, name: str | None) -> None:
    from onnx_export.export import export  # torch takes seconds to import; --help should not
    from onnx_export.verify import Change

    bundle, errors = export(checkpoint, out, precision=precision, name=name)
    size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
    say(f"{bundle.path}: {bundle.name}, {precision}, {size:.1f} MiB, fingerprint {bundle.fingerprint}")
    for key, value in errors.as_dict().items():
        say(f"  {key:20} {value}")
    if "change" in bundle.config:
        change = Change(**bundle.config["change"])
        prefix, colour = ("warning: ", typer.colors.YELLOW) if change.lost else ("", None)
        say(prefix + change.summary(precision), colour=colour)


def say(text: str, *, colour: str | None = None) -> None:
    """Write one line for people to standard error; what would steer a terminal is escaped."""
    line = " ".join(text.splitlines())
    typer.secho("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), fg=colour, err=True)


if __name__ == "__main__":
    app()
