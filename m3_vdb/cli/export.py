"""``m3-vdb export``, and ``python -m onnx_export``: a checkpoint becomes a bundle; the work is ``onnx_export``'s."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from m3_vdb.cli.output import say
from m3_vdb.encoding.hub import conversion_bar, fetch, is_hub_id
from m3_vdb.errors import MissingExtraError


def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder or hub id of a checkpoint in BGE-M3 layout, or of a LoRA adapter of one.")
    ],
    out: Annotated[Path, typer.Argument(help="Bundle directory to create.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8 (4-bit embeddings) or int4.")] = "fp32",
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the directory's.")] = None,
) -> None:
    """Convert a checkpoint (BAAI/bge-m3, a fine-tune, a LoRA adapter) to a verified ONNX bundle, without torch."""
    if find_spec("onnx") is None or find_spec("onnx_export") is None:
        raise MissingExtraError("m3-vdb export", extra="export")
    from onnx_export.export import convert  # noqa: PLC0415 - an extra
    from onnx_export.verify import Change  # noqa: PLC0415 - an extra

    folder = fetch(checkpoint) if not Path(checkpoint).exists() and is_hub_id(checkpoint) else Path(checkpoint)
    with conversion_bar(f"converting {checkpoint}") as progress:
        bundle = convert(folder, out, precision=precision, name=name, fetch=fetch, progress=progress)
    size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
    say(f"{bundle.path}: {bundle.name}, {precision}, {size:.1f} MiB, fingerprint {bundle.fingerprint}")
    for key, value in bundle.config["errors"].items():
        say(f"  {key:20} {value}")
    if "change" in bundle.config:
        change = Change(**bundle.config["change"])
        say("warning: " * change.lost + change.summary(precision), style="yellow" if change.lost else None)
