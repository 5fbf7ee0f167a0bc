"""LoRA adapters of PEFT (``adapter_config.json`` beside ``adapter_model.safetensors``), merged into their base model.

W + scale · B·A, with scale α/r, or α/√r with ``use_rslora``. Tensors that an adapter holds whole (``modules_to_save``,
biases) replace the base's. Whatever else changes what a layer computes is refused by name: half an adapter is another
model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from m3_vdb.encoding.model_files import damaged, read_json
from m3_vdb.errors import BundleError
from onnx_export.tensors import Float32, Tensor, plain_name, read_tensors

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
UNSUPPORTED: Final = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "velora_config", "monteclora_config", "arrow_config",
    "kasa_config",
)  # fmt: skip
"""Options with which a layer computes something else than W + scale · B·A."""
CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` that also change the base model's weights, which an adapter then lacks."""
_FACTOR: Final = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings of the adapter in a folder; None where there is none.

    Raises:
        BundleError: they are damaged, or not such as can be merged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    config = read_json(path)
    if (kind := config.get("peft_type")) != "LORA":
        raise BundleError(
            f"{path} has peft_type {kind!r}: only LORA can be merged here; merge it with PEFT and save that"
        )
    used = [name for name in UNSUPPORTED if config.get(name)]
    start = str(config.get("init_lora_weights"))
    used += [f"init_lora_weights={start!r}"] * start.startswith(CHANGES_BASE)
    if used:
        raise BundleError(f"{path} has {', '.join(used)}, which cannot be merged here: use PEFT's merge_and_unload")
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    numbers = [alpha, *patterns.values()] if isinstance(patterns, dict) else [None]
    if not all(type(number) in (int, float) for number in numbers):
        raise damaged(path, f"lora_alpha is {alpha!r}, alpha_pattern {patterns!r}")
    return config


def find_base(folder: Path, config: Mapping[str, Any], fetch: Callable[[str], Path] | None) -> Path:
    """The folder of the adapter's base model.

    Raises:
        BundleError: it is not a folder here, and there is no way to fetch it.
    """
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise BundleError(f"{folder / CONFIG} names no base model: set base_model_name_or_path to its folder or hub id")
    for place in (Path(name), folder / name):
        if place.is_dir() and place.resolve() != folder.resolve():
            return place
    if fetch is not None:
        return fetch(name)
    raise BundleError(
        f"{folder} is a LoRA adapter of {name}, which is not a folder here: download it (hf download {name} "
        f"--local-dir FOLDER) and set base_model_name_or_path in {CONFIG} to that folder"
    )


def merge(folder: Path, config: Mapping[str, Any], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base model's tensors with the adapter in them; each is computed when it is read.

    Raises:
        BundleError: the adapter's weights are missing or damaged, or do not fit the base model.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    factors: dict[str, dict[str, Tensor]] = {}
    merged = dict(base)
    for stored, tensor in read_tensors(path).items():
        name = plain_name(re.sub(r"\.(modules_to_save|base_layer|default)(?=\.|$)", "", stored))
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(f"{found[1]}.weight", {})[f"{found[2] or ''}{found[3]}"] = tensor
        elif name in base and (tensor.shape == base[name].shape or name.startswith("colbert_linear.")):
            merged[name] = tensor
        else:
            raise _unfit(path, stored, tensor)
    for name, parts in factors.items():
        a, b = (parts.get(f"embedding_{x}", parts.get(x)) for x in "AB")
        shape = base[name].shape if name in base else ()
        turned = "embedding_A" in parts  # PEFT's embeddings have A [r, V] and B [d, r], their table is [V, d]
        if a is None or b is None or (b.shape[:1] + a.shape[1:] != (shape[::-1] if turned else shape)):
            raise _unfit(path, f"a LoRA of {name}", a or b or base[next(iter(base))])
        rank = a.shape[0]
        if b.shape[1:] != (rank,) or rank == 0:
            raise _unfit(path, f"a LoRA of {name}", b)
        scale = _alpha(config, name.removesuffix(".weight")) / (rank**0.5 if config.get("use_rslora") else rank)
        merged[name] = Tensor(shape, partial(_merged, merged[name], a, b, scale, turned=turned))
    return merged


def _merged(base: Tensor, a: Tensor, b: Tensor, scale: float, *, turned: bool) -> Float32:
    # ``fan_in_fan_out`` is for layers of other models that hold W turned; PEFT itself sets it back for linear layers.
    change = np.float32(scale) * (b.read() @ a.read())
    merged: Float32 = base.read() + (change.T if turned else change)
    return merged


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """α of a module: that of the first pattern which its name ends with."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    default = float(config["lora_alpha"])
    return next((a for pattern, a in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)


def _unfit(path: Path, name: str, tensor: Tensor) -> BundleError:
    return BundleError(
        f"{path} has {name} {list(tensor.shape)}, which its base model has not: is base_model_name_or_path right?"
    )
