"""Texts → ``M3Embeddings`` with a torch model on any device.

Legend: n texts, B rows of a forward pass, L padded length. Pooling is that of serving (``encoding.pooling``): what is
mined and measured here is what a store would hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from m3_vdb.encoding import pooling
from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS, pack
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ModelOutputError
from m3_vdb.evaluation.protocol import PARTS, Part
from m3_vdb.types import FloatArray, M3Embeddings
from train.model import M3Model
from train.retrieval.options import Dtype

OUTPUTS: Final[dict[Part, str]] = {
    "dense": pooling.DENSE,
    "sparse": pooling.SPARSE,
    "multi_vector": pooling.MULTI_VECTOR,
}


def encode(
    model: M3Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    parts: Collection[Part] = PARTS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    dtype: Dtype = "float32",
) -> M3Embeddings:
    """Encode texts without gradients; the model's modes are as before afterwards.

    Args:
        model: on any device.
        tokenizer: the checkpoint's.
        texts: n strings.
        max_length: tokens kept of a text; the model's own maximum if that is less.
        parts: representations to return, at least one; the others are None.
        batch_tokens: padded tokens of one forward pass.
        dtype: "bfloat16" runs the encoder under autocast.

    Returns:
        Embeddings in the order of ``texts``, float32.

    Raises:
        TextError: an item is no usable string.
        ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
        ConfigError: ``max_length`` or ``batch_tokens`` is too small.
    """
    tokens = tokenizer.encode(texts, max_length=min(max_length, model.max_length))
    lengths = tokens.lengths
    batches = pack(lengths, batch_tokens=batch_tokens)
    names = [OUTPUTS[part] for part in PARTS if part in parts]
    ragged = {name: [_nothing(model, name)] for name in names}
    padded = 0
    with _inference(model, dtype):
        for rows in batches:
            input_ids, mask = tokens.padded(rows)
            padded += input_ids.size
            raw = _forward(model, input_ids, mask, names)
            _check_finite(raw, tokens.lengths[rows], rows)
            for name, part in pooling.pool(raw, input_ids, lengths[rows]).items():
                ragged[name].append(part)
    return pooling.assemble(tokens, batches, ragged, padded_tokens=padded)


@contextmanager
def _inference(model: M3Model, dtype: Dtype) -> Iterator[None]:
    """Evaluation mode without gradients; each module gets its own mode back (a trainer may have frozen a few)."""
    device = next(model.parameters()).device.type
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _forward(
    model: M3Model, input_ids: NDArray[np.int64], mask: NDArray[np.int64], names: Sequence[str]
) -> dict[str, FloatArray]:
    device = next(model.parameters()).device
    output = model(torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device))
    tensors = {
        pooling.DENSE: output.dense,
        pooling.SPARSE: output.token_weights,
        pooling.MULTI_VECTOR: output.multi_vector,
    }
    return {name: tensors[name].cpu().numpy() for name in names}


def _check_finite(raw: dict[str, FloatArray], lengths: NDArray[np.int32], rows: NDArray[np.intp]) -> None:
    bad = pooling.first_not_finite(raw, lengths)
    if bad is not None:
        index = int(rows[bad])
        raise ModelOutputError(
            f"the model returned NaN or infinity for item {index} ({lengths[bad]} tokens): has its training diverged, "
            f"or does it need dtype='float32'?",
            index=index,
        )


def _nothing(model: M3Model, name: str) -> pooling.Packed:
    """No texts of this output: gives an empty result its width."""
    widths = {pooling.DENSE: (0, model.dim), pooling.MULTI_VECTOR: (0, model.colbert_dim)}
    ids = np.zeros(0, np.int32) if name == pooling.SPARSE else None
    return pooling.Packed(np.zeros(widths.get(name, (0,)), np.float32), np.zeros(1, np.int64), ids)
