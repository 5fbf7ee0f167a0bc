"""A checkpoint in BGE-M3 layout as it lies on a disk or on the Hugging Face hub: the one place that knows its files.

Each file is a foreign one: damaged, half downloaded, of another model, or with Python objects inside. None of that
reaches a user as a traceback of a library, nothing in a file is run, and no weight is ever made up. Neither torch nor
transformers is needed: weights are NumPy arrays, read from the files when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.bundle import CONFIG as BUNDLE_CONFIG
from m3_vdb.encoding.model_files import check_file, damaged, read_json, read_text_file
from m3_vdb.encoding.tokenizer import PAD, TOKENIZER, Tokenizer
from m3_vdb.errors import BundleError
from onnx_export import lora
from onnx_export.tensors import Tensor, Tensors, plain_name, read_tensors
from onnx_export.tokenizer import SENTENCEPIECE, read_sentencepiece

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
BASIS: Final = "embedding_basis.npy"
"""Optional: the basis of the embedding table's codes at int4 (``weights.table_basis``), as distillation found it."""
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
Fetch: TypeAlias = Callable[[str], Path]
"""Hub id → the folder of its files here."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of an encoder: names and, where a ``config.json`` lacks one, values are those of transformers."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @property
    def max_length(self) -> int:
        """Tokens that a text may have, ``<s>`` and ``</s>`` included."""
        return self.max_position_embeddings - POSITION_OFFSET

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the encoder by name, and its shape."""
        width, inner = self.hidden_size, self.intermediate_size
        norm = {"LayerNorm.weight": (width,), "LayerNorm.bias": (width,)}
        found: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, width),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, width),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, width),
            **{f"embeddings.{name}": shape for name, shape in norm.items()},
        }
        linear = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {"attention.output.dense": (width, width)}
        linear |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
        for prefix in (f"encoder.layer.{number}." for number in range(self.num_hidden_layers)):
            for name, shape in linear.items():
                found |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
            for block in ("attention.output.", "output."):
                found |= {f"{prefix}{block}{name}": shape for name, shape in norm.items()}
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are all there and fit each other.

    Attributes:
        shape: of the encoder.
        tensors: all that the model computes with, named as in ``M3Model`` without the encoder's prefix ``encoder.``.
        config: the content of ``config.json``.
        tokenizer: ``tokenizer.json`` or ``sentencepiece.bpe.model``.
        basis: float16 [d + 1, d], of the embedding table's codes at int4, if the checkpoint has one.
    """

    shape: Shape
    tensors: Tensors
    config: Mapping[str, Any]
    tokenizer: Path
    basis: NDArray[np.float16] | None = None

    def read_tokenizer(self) -> str:
        """The content of a ``tokenizer.json`` that fits the encoder.

        Raises:
            BundleError: it is damaged, of another kind of model, or has ids that the encoder has not.
            MissingExtraError: as ``read_sentencepiece``.
        """
        read = read_sentencepiece if self.tokenizer.name == SENTENCEPIECE else read_text_file
        content = read(self.tokenizer)
        if (ids := Tokenizer(content, name=str(self.tokenizer)).vocab_size) > self.shape.vocab_size:
            raise BundleError(
                f"{self.tokenizer} has {ids:,} ids, but the embedding table of its {CONFIG} has "
                f"{self.shape.vocab_size:,} rows: give the tokenizer of this model, or resize its embeddings"
            )
        return content


def read_checkpoint(path: Path, *, fetch: Fetch | None = None) -> Checkpoint:
    """Open a checkpoint directory in BGE-M3 layout, or a LoRA adapter of one (PEFT's ``adapter_config.json``).

    Args:
        path: directory with config.json, encoder, ``sparse_linear.pt``, ``colbert_linear.pt`` and tokenizer. An adapter
            needs none of these; what it has replaces its base model's.
        fetch: finds the base model of an adapter that names it by its hub id; None finds folders only.

    Raises:
        BundleError: a file is missing, damaged or of another model.
    """
    adapter = lora.read_config(path) if path.is_dir() and not _encoder_index(path) else None
    folders = [path] if adapter is None else [path, lora.find_base(path, adapter, fetch)]
    base = folders[-1]
    check_folder(base)
    content = read_json(base / CONFIG)
    shape = read_shape(base / CONFIG, content)
    stored: dict[str, Tensor] = {}
    for file in _encoder_files(base):
        stored |= {plain_name(name): tensor for name, tensor in read_tensors(file).items()}
    tensors = _fitting(base, shape, stored)
    for head, rows in ((SPARSE_FILE, 1), (COLBERT_FILE, None)):
        state = read_head(_find(folders, head), width=shape.hidden_size, rows=rows)
        tensors |= {f"{head.removesuffix('.pt')}.{name}": tensor for name, tensor in state.items()}
    if adapter is not None:
        tensors = lora.merge(path, adapter, tensors)
    tokenizer = next(path for path in (_find(folders, TOKENIZER), _find(folders, SENTENCEPIECE)) if path.is_file())
    return Checkpoint(shape, Tensors(tensors), content, tokenizer, _read_basis(base / BASIS, shape.hidden_size))


def _read_basis(path: Path, width: int) -> NDArray[np.float16] | None:
    if not path.is_file():
        return None
    check_file(path)
    try:
        basis = np.load(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if (basis.dtype, basis.shape) != (np.float16, (width + 1, width)):
        raise damaged(path, f"expected float16 [{width + 1}, {width}], found {basis.dtype} {list(basis.shape)}")
    found: NDArray[np.float16] = basis
    return found


def read_tokenizer(checkpoint: Path) -> str:
    """The content of a ``tokenizer.json`` that fits the encoder; errors as ``read_checkpoint``."""
    return read_checkpoint(checkpoint).read_tokenizer()


def read_shape(path: Path, content: Mapping[str, Any]) -> Shape:
    """The shape of the encoder.

    Args:
        path: of the ``config.json``, for messages.
        content: of it.

    Raises:
        BundleError: it is damaged, or that of another kind of model.
    """
    for name, expected in XLM_ROBERTA.items():
        if (value := content.get(name, expected)) != expected:
            raise BundleError(
                f"{path} has {name} {json.dumps(value)}, expected {json.dumps(expected)}: give an M3 model"
            )
    shape = Shape(**{field.name: content[field.name] for field in fields(Shape) if field.name in content})
    for field in fields(Shape):
        value = getattr(shape, field.name)
        whole = field.name != "layer_norm_eps"
        if type(value) not in ((int,) if whole else (int, float)) or value < whole:
            raise damaged(path, f"{field.name} is {value!r}")
    if shape.hidden_size % shape.num_attention_heads or shape.max_length < 1:
        heads, rows = shape.num_attention_heads, shape.max_position_embeddings
        raise damaged(path, f"{heads} heads in a width of {shape.hidden_size}, {rows} positions")
    return shape


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
    if other := _something_else(checkpoint):
        raise BundleError(f"{checkpoint} {other}")
    for name in (CONFIG, SPARSE_FILE, COLBERT_FILE):
        if not (checkpoint / name).is_file():
            raise BundleError(f"{checkpoint} has no {name}: expected a checkpoint in BGE-M3 layout, with {LAYOUT}")
        check_file(checkpoint / name)
    tokenizers = [checkpoint / name for name in (TOKENIZER, SENTENCEPIECE) if (checkpoint / name).is_file()]
    if not tokenizers:
        raise BundleError(f"{checkpoint} has no {TOKENIZER}: expected a checkpoint in BGE-M3 layout, with {LAYOUT}")
    for file in (tokenizers[0], *_encoder_files(checkpoint)):
        check_file(file)


def _something_else(folder: Path) -> str | None:
    """What a folder is that is no checkpoint of M3, and what to do with it; None where it may be one."""
    has = {name for name in (BUNDLE_CONFIG, CONFIG, SPARSE_FILE, COLBERT_FILE) if (folder / name).is_file()}
    if BUNDLE_CONFIG in has:
        return f"is a bundle: make a checkpoint of it with python -m train import-bundle --bundle {folder} --out FOLDER"
    if has == {CONFIG}:
        kind = read_json(folder / CONFIG).get("model_type")
        if kind == XLM_ROBERTA["model_type"]:
            return (
                f"is an XLM-RoBERTa encoder without M3's heads ({SPARSE_FILE}, {COLBERT_FILE}): it makes dense vectors "
                f"at most; give an M3 model, such as BAAI/bge-m3 or a fine-tune of it"
            )
        named = f"a model of type {kind!r}" if isinstance(kind, str) else "a model of another kind"
        return f"is {named}, not an M3 model: give BAAI/bge-m3 or a fine-tune of it, with {LAYOUT}"
    if not has:
        inner = sorted(path.parent.name for path in folder.glob(f"*/{SPARSE_FILE}"))
        if inner:
            return f"holds checkpoints, and is none itself: give one of them, such as {folder / inner[-1]}"
        if any(folder.rglob("*.onnx")):
            return f"holds an ONNX file alone, which lacks M3's heads or their weights: give the folder with {LAYOUT}"
    return None


def read_head(path: Path, *, width: int, rows: int | None = None) -> dict[str, Tensor]:
    """Weight and bias of a linear layer.

    Args:
        path: a state dict, written by ``torch.save``.
        width: of the encoder.
        rows: outputs of the layer; None takes any number.

    Raises:
        BundleError: as ``read_tensors``, or the tensors are others or of another shape.
    """
    state = read_tensors(path)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    good = set(shapes) == {"weight", "bias"} and shapes["weight"] == (*shapes["bias"], width)
    if not good or rows not in (None, shapes["weight"][0]):
        n = rows or "*"
        raise BundleError(f"{path} holds {shapes}, expected weight [{n}, {width}] and bias [{n}]")
    return state


def _fitting(folder: Path, shape: Shape, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors out of all that its files hold (a pooler, a language model's head).

    Raises:
        BundleError: one is missing, or of another shape, or there are more layers.
    """
    expected = shape.tensors()
    for name in sorted(expected.keys() & stored.keys()):
        if (found := stored[name].shape) != expected[name]:
            raise BundleError(
                f"{folder} has {name} {list(found)}, but its {CONFIG} says {list(expected[name])}: they are of two "
                f"models"
            )
    if more := sorted(name for name in stored.keys() - expected.keys() if name.startswith("encoder.layer.")):
        raise BundleError(
            f"{folder} has {more[0]}, but its {CONFIG} says {shape.num_hidden_layers} layers: they are of two models"
        )
    if missing := sorted(expected.keys() - stored.keys()):
        names = ", ".join(missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
        raise BundleError(f"the encoder in {folder} lacks {names}: is it an XLM-RoBERTa checkpoint?")
    return {name: stored[name] for name in expected}


def _find(folders: list[Path], name: str) -> Path:
    """Where a file is, the first of the folders that has it; the last one where none has."""
    return next((folder / name for folder in folders if (folder / name).is_file()), folders[-1] / name)


def _encoder_index(checkpoint: Path) -> Path | None:
    return next((checkpoint / name for name in ENCODER if (checkpoint / name).is_file()), None)


def _encoder_files(checkpoint: Path) -> list[Path]:
    """The file of the encoder, or the parts that its index names.

    Raises:
        BundleError: there is none, the index is damaged, or a part is missing.
    """
    found = _encoder_index(checkpoint)
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
