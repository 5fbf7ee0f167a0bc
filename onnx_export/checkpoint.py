"""Reads the files of a checkpoint in BGE-M3 layout.

A file may be damaged, half downloaded, of another model, or hold Python objects. Each case is a ``BundleError`` in one
line. Only tensors are unpickled, and missing weights are an error; they are never filled with random numbers.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel
from transformers.utils import logging

from m3_vdb.encoding.bundle import CONFIG as BUNDLE_CONFIG
from m3_vdb.encoding.model_files import AGAIN, check_file, damaged, read_json, read_text_file
from m3_vdb.encoding.tokenizer import PAD, TOKENIZER, Tokenizer
from m3_vdb.errors import BundleError

CONFIG: Final = "config.json"
SPARSE_FILE: Final = "sparse_linear.pt"
COLBERT_FILE: Final = "colbert_linear.pt"
ENCODER: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the encoder may be, in the order in which it is looked for."""
LAYOUT: Final = f"{CONFIG}, {ENCODER[0]} or {ENCODER[2]}, {SPARSE_FILE}, {COLBERT_FILE} and {TOKENIZER}"
XLM_ROBERTA: Final[Mapping[str, Any]] = {
    "model_type": "xlm-roberta",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "pad_token_id": PAD,
    "quantization_config": None,
}
"""Required values of ``config.json``; a missing one counts as these."""
POSITION_OFFSET: Final = 2
"""Position rows below padding id + 1 = 2 are never used, so a text may have ``max_position_embeddings − 2`` tokens."""
FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class TorchModel(Protocol):
    """A torch model that can be exported: XLM-R's ``encoder``, and all tensors named as in ``M3Model``."""

    @property
    def encoder(self) -> XLMRobertaModel: ...  # noqa: D102

    def state_dict(self) -> Mapping[str, Tensor]:
        """``encoder.…``, ``sparse_linear.…`` and ``colbert_linear.…``."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A ``TorchModel`` as its files hold it, in float32.

    Attributes:
        encoder: without pooling layer, in evaluation mode.
        sparse: weight [1, d] and bias [1] of the lexical head.
        colbert: weight [m, d] and bias [m] of the multi-vector head.
    """

    encoder: XLMRobertaModel
    sparse: Mapping[str, Tensor]
    colbert: Mapping[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, named as in ``M3Model``."""
        parts = {"encoder": self.encoder.state_dict(), "sparse_linear": self.sparse, "colbert_linear": self.colbert}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def read_checkpoint(path: Path, *, attention: str = "eager") -> Checkpoint:
    """Read a checkpoint directory in BGE-M3 layout.

    Args:
        path: directory with config.json, encoder weights, ``sparse_linear.pt`` and ``colbert_linear.pt``.
        attention: transformers' attention implementation; "eager" trains fastest on CPUs (docs/log.md).

    Raises:
        BundleError: a file is missing, damaged or of another model.
    """
    encoder = read_encoder(path, attention=attention)
    width = encoder.config.hidden_size
    colbert = read_head(path / COLBERT_FILE, width=width)
    return Checkpoint(encoder.eval(), read_head(path / SPARSE_FILE, width=width, rows=1), colbert)


def read_config(checkpoint: Path) -> XLMRobertaConfig:
    """The shape of the encoder.

    Raises:
        BundleError: there is no checkpoint, or its ``config.json`` is damaged or that of another kind of model.
    """
    check_folder(checkpoint)
    path = checkpoint / CONFIG
    content = read_json(path)
    for name, expected in XLM_ROBERTA.items():
        if (value := content.get(name, expected)) != expected:
            raise BundleError(
                f"{path} has {name} {json.dumps(value)}, expected {json.dumps(expected)}: give an M3 model"
            )
    try:
        config = XLMRobertaConfig.from_dict(content)
        with torch.device("meta"):  # no memory; refuses what does not fit together
            XLMRobertaModel(config, add_pooling_layer=False)
    except Exception as error:  # whatever transformers makes of a value of the wrong type
        raise damaged(path, error) from error
    return config


def check_folder(checkpoint: Path) -> None:
    """Check that all files of a checkpoint are there.

    Raises:
        BundleError: the path is not a folder, or a file is missing, or is a Git LFS pointer or a web page.
    """
    if not checkpoint.is_dir():
        what = "is a file" if checkpoint.exists() else "does not exist"
        raise BundleError(
            f"{checkpoint} {what}: expected the folder of a checkpoint, with {LAYOUT}; a model on the Hugging Face hub "
            f"must be downloaded first (hf download ORG/NAME --local-dir FOLDER)"
        )
    if (checkpoint / BUNDLE_CONFIG).exists():
        raise BundleError(
            f"{checkpoint} is a bundle: make a checkpoint of it with python -m train import-bundle --bundle "
            f"{checkpoint} --out FOLDER"
        )
    for name in (CONFIG, SPARSE_FILE, COLBERT_FILE, TOKENIZER):
        if not (checkpoint / name).is_file():
            raise BundleError(f"{checkpoint} has no {name}: expected a checkpoint in BGE-M3 layout, with {LAYOUT}")
        check_file(checkpoint / name)
    for file in _encoder_files(checkpoint):
        check_file(file)


def read_tokenizer(checkpoint: Path) -> str:
    """The content of a ``tokenizer.json`` that fits the encoder.

    Raises:
        BundleError: as ``read_config``; or the tokenizer is damaged, of another kind of model, or has more ids than
            the encoder.
    """
    config, path = read_config(checkpoint), checkpoint / TOKENIZER
    content = read_text_file(path)
    if (ids := Tokenizer(content, name=str(path)).vocab_size) > config.vocab_size:
        raise BundleError(
            f"{path} has {ids:,} ids, but the embedding table of {checkpoint / CONFIG} has {config.vocab_size:,} rows: "
            f"give the tokenizer of this model, or resize its embeddings"
        )
    return content


def read_encoder(checkpoint: Path, *, attention: str) -> XLMRobertaModel:
    """The encoder in float32, whole: transformers would fill missing tensors with random numbers and only warn.

    Raises:
        BundleError: as ``read_config``; or the weights are damaged or do not fit the configuration.
    """
    config = read_config(checkpoint)
    tensors: dict[str, Tensor] = {}
    for file in _encoder_files(checkpoint):
        tensors |= read_tensors(file)
    with quiet():
        loaded: Any = XLMRobertaModel.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            attn_implementation=attention,
            add_pooling_layer=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    encoder: XLMRobertaModel = loaded[0]
    for name, found, expected in sorted(loaded[1]["mismatched_keys"]):
        raise BundleError(
            f"{checkpoint} has {name} {list(found)}, but its {CONFIG} says {list(expected)}: they are of two models"
        )
    if unused := sorted(name for name in loaded[1]["unexpected_keys"] if "encoder.layer." in name):
        raise BundleError(
            f"{checkpoint} has {unused[0]}, but its {CONFIG} says {config.num_hidden_layers} layers: they are of two "
            f"models"
        )
    if missing := sorted(loaded[1]["missing_keys"]):
        names = ", ".join(missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
        raise BundleError(f"the encoder in {checkpoint} lacks {names}: is it an XLM-RoBERTa checkpoint?")
    return encoder


def read_head(path: Path, *, width: int, rows: int | None = None) -> dict[str, Tensor]:
    """Weight and bias of a linear layer, in float32.

    Args:
        path: a state dict, written by ``torch.save``.
        width: of the encoder.
        rows: outputs of the layer; None takes any number.

    Raises:
        BundleError: as ``read_tensors``, or the tensors are others or of another shape.
    """
    state = read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    good = set(shapes) == {"weight", "bias"} and shapes["weight"] == (*shapes["bias"], width)
    if not good or rows not in (None, shapes["weight"][0]):
        n = rows or "*"
        raise BundleError(f"{path} holds {shapes}, expected weight [{n}, {width}] and bias [{n}]")
    return {name: tensor.float() for name, tensor in state.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The finite floating-point tensors of a ``.safetensors``, ``.bin`` or ``.pt`` file by name; nothing else is read.

    Raises:
        BundleError: the file is missing or damaged, holds anything but tensors by name, or a value that is not finite.
    """
    check_file(path)
    whole = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle's version
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not whole:
            raise damaged(path, "not a file of torch.save, or not the whole of it") from error
        raise _not_tensors(path, "Python objects") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(path, error) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise _not_tensors(path, f"a {type(state).__name__}")
    # Older files also hold position numbers: integers, not weights.
    state = {name: tensor for name, tensor in state.items() if not name.endswith(("position_ids", "token_type_ids"))}
    for name, tensor in state.items():
        if tensor.dtype not in FLOATS:
            raise BundleError(f"{path}: {name} is {tensor.dtype}, expected floats: give the model as it was trained")
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{path}: {name} has NaN or infinity: {AGAIN}, or take an earlier one of its training")
    return state


def _not_tensors(path: Path, what: str) -> BundleError:
    return BundleError(
        f"{path} holds {what}, expected tensors by name: write it with torch.save(module.state_dict(), …)"
    )


def _encoder_files(checkpoint: Path) -> list[Path]:
    """The file of the encoder, or the parts that its index names.

    Raises:
        BundleError: there is none, the index is damaged, or a part is missing.
    """
    found = next((checkpoint / name for name in ENCODER if (checkpoint / name).is_file()), None)
    if found is None:
        raise BundleError(f"{checkpoint} has no {ENCODER[0]}: expected a checkpoint in BGE-M3 layout, with {LAYOUT}")
    if found.suffix != ".json":
        return [found]
    parts = read_json(found).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise damaged(found, "no weight_map")
    files = [checkpoint / Path(part).name for part in sorted(set(parts.values()))]
    for file in files:
        if not file.is_file():
            raise BundleError(f"{file} is missing, {found.name} names it: copy the whole checkpoint")
    return files


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off transformers' progress bars and warnings; what they warn of raises an error here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
