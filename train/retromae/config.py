"""Settings of the RetroMAE stage; those that every run has are in ``train.config``.

The command line reads this file, so it does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from m3_vdb.errors import ConfigError
from train.config import SHORTEST, Phase, RunConfig
from train.edit_config import Positions


# Without slots: jsonargparse reads the defaults from the class, where a slotted dataclass has descriptors instead.
@dataclass(frozen=True)
class RetroMAESettings:
    """What is masked, and how long a text may be.

    The paper of M3-Embedding states no ratios; the defaults are those of RetroMAE's public recipe.

    Attributes:
        encoder_mask: share of a text's tokens that the encoder has to predict (MLM), between 0 and 1.
        decoder_mask: share of a text's tokens that each row of the decoder cannot see, from 0 to below 1.
        decoder_masks: distinct random hidden sets per text; each row of the decoder uses one of them.
        whole_words: mask and hide whole words; false takes single tokens.
        max_length: tokens kept of a text, ``<s>`` and ``</s>`` included; the encoder is extended to this length.
        positions: how new position rows begin: the present ones repeated, or linearly interpolated between.
    """

    encoder_mask: float = 0.3
    decoder_mask: float = 0.5
    decoder_masks: int = 128
    whole_words: bool = True
    max_length: int = 8192
    positions: Positions = "repeat"

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a setting is out of range.
        """
        if not 0 < self.encoder_mask < 1:
            raise ConfigError(f"encoder_mask={self.encoder_mask}: give a share above 0 and below 1, such as 0.3")
        if not 0 <= self.decoder_mask < 1:
            raise ConfigError(f"decoder_mask={self.decoder_mask}: give a share from 0 to below 1, such as 0.5")
        if self.decoder_masks < 1:
            raise ConfigError(f"decoder_masks={self.decoder_masks}: give at least 1, such as 128")
        if self.max_length < SHORTEST:
            raise ConfigError(f"max_length={self.max_length}: give at least {SHORTEST} tokens, such as 8192")
        if self.positions not in get_args(Positions):
            raise ConfigError(f"positions={self.positions!r}: give one of {', '.join(get_args(Positions))}")


@dataclass(frozen=True)
class RetroMAEConfig(RunConfig):
    """Stage 0: masked auto-encoding of plain text {"text": …} by encoder and a weak decoder, after extending positions.

    Attributes:
        retromae: masks and positions.
        phase: length, learning rate and frozen parts; what concerns heads has no meaning here.
    """

    retromae: RetroMAESettings = field(default_factory=RetroMAESettings)
    phase: Phase = field(
        default_factory=lambda: Phase(epochs=1.0, losses=["dense"], train=["embeddings", "encoder"], learning_rate=7e-5)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory == "gradcache":
            raise ConfigError(
                "memory='gradcache' is for contrastive losses; here sub-batches are independent, use plain"
            )
        if not self.micro_tokens:
            raise ConfigError(
                "micro_tokens=0: RetroMAE cannot try sizes; give padded tokens of a forward pass, as 8192"
            )
        if self.phase.skipped:
            raise ConfigError("phase has neither steps nor epochs: nothing to train")
