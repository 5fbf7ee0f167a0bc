"""The base model as it is, before any training here: e5's prefixes, mean pooling, unit rows, inner products.

multilingual-e5 wants "query: " before a question and "passage: " before a document, averages the states of all tokens
(``<s>`` and ``</s>`` among them), and compares by cosine. A checkpoint of ``python -m train import-base`` holds its
encoder; the two new heads beside it are not used. ``search`` ranks a collection with it, exactly and in memory, in the
form that ``m3_vdb.evaluation`` measures. Legend: n texts, B rows, L padded length, d encoder width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from m3_vdb.encoding.packing import pack
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ModelOutputError
from m3_vdb.evaluation import PROTOCOLS, Collection
from m3_vdb.evaluation.protocol import DEPTH
from m3_vdb.evaluation.results import Cost
from m3_vdb.evaluation.runs import CollectionRuns
from m3_vdb.types import FloatArray
from train.contrastive.anchor import PASSAGE, QUERY, mean_pool
from train.model import M3Model
from train.retrieval.config import Dtype
from train.session import load

NATIVE_BFLOAT16: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Capabilities of a CPU, as torch names them, that multiply bfloat16 faster than float32; the last one is ARM's."""
NAME: Final = "zero-shot"
"""Of the ranking in ``CollectionRuns.runs``."""
BLOCK: Final = 4096
"""Texts that are packed into batches together, and are in memory at a time."""
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


def _native_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in NATIVE_BFLOAT16)


def search(encoder: MeanPooled, collection: Collection, *, max_length: int) -> CollectionRuns:
    """The best ``DEPTH`` documents of every query by cosine, over all documents; equal ones at the end as they come.

    Args:
        encoder: of queries and documents.
        collection: what is searched.
        max_length: tokens kept of a passage; a query has at most the protocol's 512.
    """
    begun = time.perf_counter()
    ids: list[str] = []
    blocks, tokens, truncated = [np.zeros((0, encoder.model.dim), np.float32)], 0, 0
    documents = iter(collection.documents)
    while block := list(islice(documents, BLOCK)):
        ids += [document.id for document in block]
        encoded = encoder.encode([document.content for document in block], prefix=PASSAGE, max_length=max_length)
        blocks.append(encoded.vectors)
        tokens, truncated = tokens + encoded.tokens, truncated + encoded.truncated
    passages, seconds = np.concatenate(blocks), time.perf_counter() - begun
    run = dict(_rank(encoder, collection, ids, passages, min(max_length, PROTOCOLS["paper"].query_max_length)))
    cost = Cost(len(ids), 0, 0, tokens, truncated, seconds, index_bytes=None, encode_ms=None, search_ms={})
    return CollectionRuns(collection, len(ids), {NAME: run}, {}, cost)


def _rank(
    encoder: MeanPooled, collection: Collection, ids: Sequence[str], passages: FloatArray, max_length: int
) -> Iterator[tuple[str, dict[str, float]]]:
    names = iter(collection.queries)
    while block := list(islice(names, BLOCK)):
        texts = [collection.queries[name].text for name in block]
        queries = encoder.encode(texts, prefix=QUERY, max_length=max_length)
        for name, query in zip(block, queries.vectors, strict=True):
            scores = passages @ query
            best = np.argpartition(-scores, DEPTH)[:DEPTH] if len(ids) > DEPTH else range(len(ids))
            yield name, {ids[i]: float(scores[i]) for i in best}
