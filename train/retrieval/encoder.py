"""A model as retrieval sees it: something that encodes texts and can say whether it has changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

import torch

from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import Part
from m3_vdb.types import M3Embeddings
from onnx_export.checkpoint import read_tokenizer
from train.model import M3Model
from train.retrieval.encode import encode
from train.retrieval.options import Dtype

ATTENTION: Final = "sdpa"
"""Never holds a matrix of L × L, which at 8192 tokens and 16 heads is 4 GiB a text and layer."""


class Encoder(Protocol):
    """What search, mining and evaluation need of a model."""

    def encode(self, texts: Sequence[str], *, max_length: int, parts: Collection[Part]) -> M3Embeddings:
        """Encode texts, see ``encode``."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever an embedding could."""
        ...


class TorchEncoder:
    """A loaded model and its tokenizer, used where the model is and as it is.

    Args:
        model: on any device, in training or evaluation mode.
        tokenizer: the checkpoint's.
        dtype: "bfloat16" runs the encoder under autocast.
        batch_tokens: padded tokens of one forward pass.
    """

    def __init__(
        self,
        model: M3Model,
        tokenizer: Tokenizer,
        *,
        dtype: Dtype = "float32",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._dtype, self._batch_tokens = dtype, batch_tokens

    def encode(self, texts: Sequence[str], *, max_length: int, parts: Collection[Part]) -> M3Embeddings:
        """Encode texts, see ``encode``."""
        return encode(
            self._model,
            self._tokenizer,
            texts,
            max_length=max_length,
            parts=parts,
            dtype=self._dtype,
            batch_tokens=self._batch_tokens,
        )

    def fingerprint(self) -> str:
        """A digest of every parameter, the tokenizer and the arithmetic."""
        state = blake2b(f"{self._tokenizer.to_json()}\0{self._dtype}".encode(), digest_size=16)
        for name, tensor in self._model.state_dict().items():
            state.update(name.encode())
            state.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()


def load(checkpoint: Path, *, device: str) -> tuple[M3Model, Tokenizer]:
    """A checkpoint for inference, on its device; "auto" is a GPU if there is one.

    Raises:
        BundleError: the checkpoint is incomplete.
        ConfigError: there is no such device.
    """
    model = M3Model.load(checkpoint, attention=ATTENTION)
    tokenizer = Tokenizer(read_tokenizer(checkpoint))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device={device!r} cannot be used: {error}; device='cpu' always can") from error
