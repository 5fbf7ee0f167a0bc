"""Settings of distillation; those that every run has are in ``train.config``.

The command line reads this file, so it does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m3_vdb.errors import ConfigError
from train.config import SHORTEST, Phase, RunConfig


@dataclass(frozen=True)
class DistillConfig(RunConfig):
    """A model learns a teacher's vectors on plain text, with 4-bit weights if it is to be exported so.

    Lines are {"text": …}, or training rows, whose queries and positives are texts.

    Attributes:
        teacher: checkpoint with the same tokenizer and widths; null takes ``model`` itself.
        export_precision: "int4" trains what an export at int4 can hold: its 4-bit blocks and codes stay as they are,
            and the low-rank corrections train, with the heads. "fp32" trains the weights themselves.
        max_length: tokens kept of a text.
        phase: length, learning rates and trained parts; every part of the vectors is learnt, whatever its losses say.
    """

    teacher: Path | None = None
    export_precision: Literal["fp32", "int4"] = "fp32"
    max_length: int = 128
    phase: Phase = field(
        default_factory=lambda: Phase(
            epochs=1.0, train=["encoder", "sparse", "multi_vector"], learning_rate=1e-4, head_learning_rate=1e-4
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is None and self.export_precision == "fp32":
            raise ConfigError("the model would be its own teacher: give teacher, or export_precision int4")
        if self.export_precision == "int4" and "embeddings" in self.phase.train:
            raise ConfigError("at int4 the embeddings stay as they are coded: remove 'embeddings' from phase.train")
        if self.memory == "gradcache":
            raise ConfigError("memory='gradcache' is for contrastive losses; here sub-batches are independent: plain")
        if not self.micro_tokens:
            raise ConfigError("micro_tokens=0: distillation cannot try sizes; give padded tokens of a pass, as 8192")
        if self.max_length < SHORTEST:
            raise ConfigError(f"max_length={self.max_length}: give at least {SHORTEST} tokens, such as 128")
        if self.phase.skipped:
            raise ConfigError("phase has neither steps nor epochs: nothing to train")
