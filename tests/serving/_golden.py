"""The golden file of FlagEmbedding 1.4 and the same weights in our own model; see ``tests/golden/weights.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3_vdb.encoding import pooling
from m3_vdb.types import M3Embedding, SparseVector
from tests.golden import weights as golden

FILE = Path(__file__).parents[1] / "golden" / "flagembedding_1_4.npz"
WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Golden:
    """The arrays of the file, and the word rows that its texts use."""

    arrays: Mapping[str, np.ndarray]
    used: np.ndarray  # [rows of the small word table] original token ids, ascending, 0 … 3 first

    @classmethod
    def read(cls) -> Golden:
        with np.load(FILE) as file:
            arrays = dict(file)
        return cls(arrays, np.unique(np.concatenate([np.arange(4), arrays["input_ids"]])))

    def part(self, name: str, offsets: str, text: int) -> np.ndarray:
        begin, end = self.arrays[offsets][text : text + 2]
        return self.arrays[name][begin:end]

    def sparse(self, text: int) -> dict[int, float]:
        ids, values = (self.part(name, "sparse_offsets", text) for name in ("sparse_ids", "sparse_weights"))
        return dict(zip(ids.tolist(), values.tolist(), strict=True))

    def batch(self, texts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(input_ids of the small table, mask, lengths), padded on the right."""
        rows = [np.searchsorted(self.used, self.part("input_ids", "input_offsets", text)) for text in texts]
        lengths = np.array([len(row) for row in rows], np.int32)
        input_ids = np.full((len(rows), lengths.max()), 1, np.int64)
        for padded, row in zip(input_ids, rows, strict=True):
            padded[: len(row)] = row
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return input_ids, mask, lengths


def build_model(file: Golden):
    """Our torch model with the golden weights; its word table holds the used rows alone."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    from train.model import M3Model

    config = XLMRobertaConfig(**golden.golden_config() | {"vocab_size": len(file.used)})
    with torch.device("meta"):
        model = M3Model(XLMRobertaModel(config, add_pooling_layer=False))
    model = model.to_empty(device="cpu")
    state = {f"encoder.{name}": golden.golden_tensor(name) for name in golden.ENCODER_TENSORS if name != WORDS}
    state |= {name: golden.golden_tensor(name) for name in golden.HEAD_TENSORS}
    state[f"encoder.{WORDS}"] = golden.golden_rows(WORDS, file.used)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    for name, buffer in model.named_buffers():  # to_empty leaves them undefined
        count = torch.arange(buffer.shape[-1]).expand_as(buffer)
        buffer.copy_(count if name.endswith("position_ids") else torch.zeros_like(buffer))
    return model.eval()


def unpack(
    file: Golden, raw: Mapping[str, np.ndarray], input_ids: np.ndarray, lengths: np.ndarray
) -> list[M3Embedding]:
    """Raw outputs of one batch → one embedding a text, with the original token ids."""
    sparse = pooling.pool_sparse(input_ids, raw[pooling.SPARSE])
    rows = pooling.pool_multi_vector(raw[pooling.MULTI_VECTOR], lengths)
    embeddings = []
    for i, dense in enumerate(raw[pooling.DENSE]):
        own = slice(sparse.offsets[i], sparse.offsets[i + 1])
        vector = SparseVector(file.used[sparse.ids[own]].astype(np.int32), sparse.values[own])
        embeddings.append(M3Embedding(dense, vector, rows.values[rows.offsets[i] : rows.offsets[i + 1]]))
    return embeddings
