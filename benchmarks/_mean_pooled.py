"""The base model as it is, before any training here: e5's prefixes, mean pooling, unit rows, inner products.

multilingual-e5 wants "query: " before a question and "passage: " before a document, averages the states of all tokens
(``<s>`` and ``</s>`` among them), and compares by cosine. A checkpoint of ``python -m train import-base`` holds its
encoder; the two new heads beside it are not used. Legend: n texts, B rows, L padded length, d encoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3_vdb.encoding.packing import pack
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ModelOutputError
from m3_vdb.types import FloatArray
from train.model import M3Model
from train.retrieval.encoder import load
from train.retrieval.options import Dtype

QUERY: Final = "query: "
PASSAGE: Final = "passage: "
"""The prefixes that e5 was trained with (arXiv 2402.05672)."""
NATIVE_BFLOAT16: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Capabilities of a CPU, as torch names them, that multiply bfloat16 faster than float32; the last one is ARM's."""
Choice: TypeAlias = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """n texts.

    Attributes:
        vectors: float32 [n, d], unit rows.
        tokens: tokens that were computed.
        truncated: texts that were cut.
    """

    vectors: FloatArray
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True)
class MeanPooled:
    """An encoder without heads.

    Attributes:
        model: the checkpoint, of which only the encoder runs.
        tokenizer: the checkpoint's.
        dtype: "bfloat16" runs the encoder under autocast.
    """

    model: M3Model
    tokenizer: Tokenizer
    dtype: Dtype

    @classmethod
    def load(cls, checkpoint: Path, *, device: str = "cpu", dtype: Choice = "auto") -> MeanPooled:
        """A checkpoint on a device; "auto" is bfloat16 where the processor multiplies it natively.

        Raises:
            BundleError: the checkpoint is incomplete.
            ConfigError: there is no such device.
        """
        model, tokenizer = load(checkpoint, device=device)
        native: Dtype = "bfloat16" if _native_bfloat16(device) else "float32"
        return cls(model, tokenizer, native if dtype == "auto" else dtype)

    def encode(self, texts: Sequence[str], *, prefix: str, max_length: int) -> Encoded:
        """Encode texts with a prefix before each, in their order.

        Args:
            texts: n strings.
            prefix: ``QUERY`` or ``PASSAGE``; counts as part of the text.
            max_length: tokens kept of a text; the model's own maximum if that is less.

        Raises:
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
            TextError: an item is no usable string.
        """
        limit = min(max_length, self.model.max_length)
        tokens = self.tokenizer.encode([prefix + text for text in texts], max_length=limit)
        vectors = np.empty((len(texts), self.model.dim), dtype=np.float32)
        for rows in pack(tokens.lengths):
            input_ids, mask = (torch.from_numpy(one).to(self.model.encoder.device) for one in tokens.padded(rows))
            vectors[rows] = self._pooled(input_ids, mask).cpu().numpy()
        if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            raise ModelOutputError(
                f"the encoder returned NaN or infinity for item {bad[0]}: does it need dtype='float32'?",
                index=int(bad[0]),
            )
        return Encoded(vectors, len(tokens.ids), int(tokens.truncated.sum()))

    def _pooled(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        is_half = self.dtype == "bfloat16"
        with torch.inference_mode(), torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=is_half):
            hidden = self.model.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return mean_pool(hidden, mask)


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean state of every text's tokens as a unit row, in float32.

    Args:
        hidden: [B, L, d].
        mask: int64 [B, L], 1 for tokens and 0 for padding, which does not count.

    Returns:
        float32 [B, d].
    """
    weights = mask.unsqueeze(-1).float()
    return functional.normalize((hidden.float() * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)


def _native_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in NATIVE_BFLOAT16)
