"""A trained checkpoint in other libraries: the same vectors there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from train.contrastive.representations import pack_output
from train.model import M3Model

pytestmark = pytest.mark.integration
TEXTS = ["the vector search", "ein Wort und die Suche", "数据库的向量检索", "как поиск слово", ""]


@pytest.fixture(scope="module")
def checkpoint(trained) -> Path:
    return trained[0] / "out" / "step-000008"


@pytest.fixture(scope="module")
def ours(checkpoint: Path):
    batch = Tokenizer.from_file(checkpoint / "tokenizer.json").encode(TEXTS, max_length=64)
    ids, mask = map(torch.from_numpy, batch.padded(np.arange(len(TEXTS))))
    with torch.inference_mode():
        return pack_output(M3Model.load(checkpoint)(ids, mask), ids, mask, ("dense", "sparse", "multi_vector"))


def test_sentence_transformers_loads_the_dense_model(checkpoint, ours):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu")
    assert model.max_seq_length == 64
    found = model.encode(TEXTS)
    np.testing.assert_allclose(found, ours.dense.numpy(), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_flagembedding_loads_all_heads(checkpoint, ours):
    """Not part of the test install: it pins old versions of much else."""
    flag = pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is not installed (pip install FlagEmbedding)")
    model = flag.BGEM3FlagModel(str(checkpoint), use_fp16=False, devices="cpu", colbert_dim=16)
    texts = TEXTS[:-1]  # it computes the empty text as well, but drops its only row
    found = model.encode(texts, return_dense=True, return_sparse=True, return_colbert_vecs=True, max_length=64)
    np.testing.assert_allclose(found["dense_vecs"], ours.dense.numpy()[:-1], atol=1e-6)
    rows = ours.rows.split(ours.row_counts.tolist())
    weights = zip(ours.ids.split(ours.id_counts.tolist()), ours.weights.split(ours.id_counts.tolist()), strict=True)
    for i, (ids, values) in enumerate(list(weights)[:-1]):
        np.testing.assert_allclose(found["colbert_vecs"][i], rows[i].numpy(), atol=1e-6)
        expected: dict[str, float] = {}
        for token, value in zip(ids.tolist(), values.tolist(), strict=True):
            expected[str(token)] = max(expected.get(str(token), 0.0), value)
        expected = {token: value for token, value in expected.items() if value > 0}
        assert {k: float(v) for k, v in found["lexical_weights"][i].items()} == pytest.approx(expected, abs=1e-5)
