"""LoRA on the encoder (peft): adapters train in place of the encoder's weights, checkpoints hold the merged ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor

from m3_vdb.errors import ConfigError
from train.config import LoRA
from train.model import M3Model, read_state

ADAPTER_FILE: Final = "adapter.safetensors"
NAME: Final = "default"


def add_adapters(model: M3Model, config: LoRA) -> None:
    """Put adapters into the encoder; they start as no change at all.

    Raises:
        ConfigError: no layer has one of the names.
    """
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=config.modules
    )
    try:
        inject_adapter_in_model(settings, model.encoder)
    except ValueError as error:
        raise ConfigError(f"lora.modules={config.modules}: {error}") from error


def merged(state: Mapping[str, Tensor], config: LoRA) -> dict[str, Tensor]:
    """A state dict with adapters as one without: W + (alpha / rank) · B·A, names as before ``add_adapters``."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            a, b = (state[f"{layer}.lora_{x}.{NAME}.weight"] for x in "AB")
            plain[f"{layer}.weight"] = tensor + config.alpha / config.rank * (b @ a)
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    return plain


def save_adapter(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write the adapters and the heads: what, with the model that the run began with, gives the training's state."""
    kept = {n: t.contiguous() for n, t in state.items() if ".lora_" in n or not n.startswith("encoder.")}
    save_file(kept, path / ADAPTER_FILE)


def load_adapter(path: Path, model: M3Model) -> None:
    """Put back what ``save_adapter`` wrote."""
    model.load_state_dict(read_state(path / ADAPTER_FILE), strict=False)
