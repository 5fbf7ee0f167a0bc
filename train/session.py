"""A torch model behind the encoder of serving: what training mines and measures is what a store would hold.

``TorchSession`` gives the outputs of the ONNX graph, and ``embedding_function`` puts the tokenizer, packing and pooling
of ``m3_vdb.encoding`` around it. Legend: B texts, L padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from m3_vdb.types import FloatArray
from onnx_export.checkpoint import read_tokenizer
from train.model import M3Model
from train.retrieval.config import Dtype

ATTENTION: Final = "sdpa"
"""Never holds a matrix of L × L, which at 8192 tokens and 16 heads is 4 GiB a text and layer."""


class TorchSession:
    """A model on any device, used where it is; its modules' modes and its gradients are as before after every call.

    Args:
        model: in training or evaluation mode.
        dtype: "bfloat16" runs the encoder under autocast.
    """

    def __init__(self, model: M3Model, *, dtype: Dtype = "float32") -> None:
        self._model, self._dtype = model, dtype
        self.description = f"torch {torch.__version__}, {self._device.type}, {dtype}"

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """See ``m3_vdb.encoding.sessions.Session.run``; without MCLS: the dense output is that of the first ``<s>``."""
        device = self._device
        with self._inference():
            found = self._model(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))
            tensors = {DENSE: found.dense, SPARSE: found.token_weights, MULTI_VECTOR: found.multi_vector}
            return {name: tensors[name].cpu().numpy() for name in outputs}

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; each module gets its own mode back (a trainer may have frozen a few)."""
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        half = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == "bfloat16")
        try:
            with torch.inference_mode(), half:
                yield
        finally:
            for module, training in modes:
                module.training = training


def embedding_function(
    model: M3Model, tokenizer: Tokenizer, *, dtype: Dtype = "float32", batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> M3EmbeddingFunction:
    """The encoder of serving over a loaded model, which cuts long texts without a warning.

    Its fingerprint is a digest of every parameter as it is now, the tokenizer and the arithmetic: after an optimiser
    step, make another.

    Args:
        model: on any device.
        tokenizer: the checkpoint's.
        dtype: "bfloat16" runs the encoder under autocast.
        batch_tokens: padded tokens of one forward pass.

    Raises:
        ConfigError: ``batch_tokens`` is below 1.
    """
    state = blake2b(f"{tokenizer.to_json()}\0{dtype}".encode(), digest_size=16)
    for name, tensor in model.state_dict().items():
        state.update(name.encode())
        state.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return M3EmbeddingFunction.from_parts(
        tokenizer,
        TorchSession(model, dtype=dtype),
        identity=ModelIdentity("checkpoint", state.hexdigest(), model.dim, model.colbert_dim),
        model_max_length=model.max_length,
        on_truncate="ignore",
        batch_tokens=batch_tokens,
    )


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
