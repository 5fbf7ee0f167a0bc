"""Token ids → ``M3Embeddings``: run the forward passes, drop padding, and restore the order of the texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding import pooling
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.sessions import Session
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import ConfigError, ModelOutputError
from m3_vdb.types import M3Embeddings


def output_names(*, dense: bool = True, sparse: bool = True, multi_vector: bool = True) -> list[str]:
    """The graph's outputs for the requested parts.

    Raises:
        ConfigError: no part is requested.
    """
    wanted = {pooling.DENSE: dense, pooling.SPARSE: sparse, pooling.MULTI_VECTOR: multi_vector}
    outputs = [name for name, want in wanted.items() if want]
    if not outputs:
        raise ConfigError("nothing to compute: ask for dense, sparse or multi_vector")
    return outputs


def run_batches(
    session: Session,
    identity: ModelIdentity,
    tokens: TokenBatch,
    batches: Sequence[NDArray[np.intp]],
    outputs: Sequence[str],
    *,
    raising: bool = True,
    passed: Callable[[int, int], None] | None = None,
) -> tuple[M3Embeddings, NDArray[np.bool_]]:
    """Encode n texts.

    Args:
        session: the model.
        identity: gives the widths of an empty result.
        tokens: the texts.
        batches: numbers of the texts in each forward pass (``packing.pack``).
        outputs: the graph's outputs to compute.
        raising: raise an error at the first text for which the model returns NaN or infinity; False goes on.
        passed: called after each forward pass with its numbers of texts and tokens.

    Returns:
        Embeddings in the order of ``tokens``, and bool [n], True for texts whose vectors hold NaN or infinity.

    Raises:
        ModelOutputError: ``raising``, and a text failed; ``index`` names it.
    """
    lengths = tokens.lengths
    failed = np.zeros(len(tokens), np.bool_)
    parts = {name: [_nothing(name, identity)] for name in outputs}
    padded = 0
    for rows in batches:
        input_ids, mask = tokens.padded(rows)
        padded += input_ids.size
        raw = session.run(outputs, input_ids, mask)
        failed[rows] = pooling.not_finite(raw, lengths[rows])
        if raising and failed.any():
            index = int(failed.argmax())
            raise not_finite_error(index, int(lengths[index]))
        for name, part in pooling.pool(raw, input_ids, lengths[rows]).items():
            parts[name].append(part)
        if passed is not None:
            passed(len(rows), int(lengths[rows].sum()))
    return pooling.assemble(tokens, batches, parts, padded_tokens=padded), failed


def not_finite_error(index: int, tokens: int) -> ModelOutputError:
    """The error about a text of ``tokens`` tokens for which the model returned NaN or infinity."""
    return ModelOutputError(
        f"the model returned NaN or infinity for item {index} ({tokens} tokens): leave the text out, or use a bundle "
        f"of higher precision",
        index=index,
    )


def _nothing(name: str, identity: ModelIdentity) -> pooling.Packed:
    """The output of no texts, so that an empty result has its width."""
    widths = {pooling.DENSE: (0, identity.dense_dim), pooling.MULTI_VECTOR: (0, identity.multi_vector_dim)}
    ids = np.zeros(0, np.int32) if name == pooling.SPARSE else None
    return pooling.Packed(np.zeros(widths.get(name, (0,)), np.float32), np.zeros(1, np.int64), ids)
