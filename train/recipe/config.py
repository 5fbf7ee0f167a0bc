"""Settings of ``python -m train recipe`` and of the step ``export``; no torch here, so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


# Frozen but not slotted: jsonargparse, the library of the command line, cannot read defaults of slotted classes.
@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Run the steps of a recipe; what is finished is skipped, so the same command goes on after an interruption.

    Attributes:
        file: the recipe.
        out: folder of the results, a sub-folder for each step. Delete a step's folder to have it made again.
        until: last step to run; null runs all.
        data: what "$data" in the recipe stands for.
    """

    file: Path
    out: Path
    until: str | None = None
    data: Path = Path("data")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a checkpoint to a verified ONNX bundle: ``python -m onnx_export``.

    Attributes:
        checkpoint: checkpoint in BGE-M3 layout.
        out: bundle directory to create.
        precision: fp32, fp16, or int8 (int8 matrices, 4-bit embeddings).
        name: the model's name; null takes the directory's.
    """

    checkpoint: Path
    out: Path
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    name: str | None = None
