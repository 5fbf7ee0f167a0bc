"""A trained checkpoint in other libraries: the same vectors there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.scoring import multi_vector_score
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


@pytest.fixture(scope="module")
def sparse(checkpoint):
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(checkpoint / "sparse_encoder"), device="cpu", trust_remote_code=True)


@pytest.fixture(scope="module")
def multi_vector(checkpoint):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(checkpoint / "multi_vector_encoder"), device="cpu", trust_remote_code=True)


def same_weights(found: torch.Tensor, ours) -> None:
    """The same weight for every token id, so above the tolerance the same ids.

    Theirs attends with sdpa and ours eagerly: weights of up to 0.5, sums that nothing normalises, differ by 1.2e-6.
    """
    assert found.shape == (len(TEXTS), 231)
    each = zip(found, ours.ids.split(ours.id_counts.tolist()), ours.weights.split(ours.id_counts.tolist()), strict=True)
    for row, ids, values in each:
        expected = torch.zeros(231).scatter_reduce(0, ids, values, "amax")
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def same_rows(found: list[torch.Tensor], ours) -> None:
    for one, expected in zip(found, ours.rows.split(ours.row_counts.tolist()), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)


def test_sentence_transformers_loads_the_sparse_model(sparse, ours, tmp_path):
    same_weights(sparse.encode(TEXTS).to_dense(), ours)
    assert sparse.get_embedding_dimension() == 231
    assert sparse.encode([""]).to_dense().count_nonzero() == 0

    sparse.save_pretrained(str(tmp_path / "again"))
    loaded = type(sparse)(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    same_weights(loaded.encode(TEXTS).to_dense(), ours)


def test_sentence_transformers_trains_the_sparse_model(sparse):
    features = sparse.preprocess(TEXTS)
    vectors = sparse(features)["sentence_embedding"]
    vectors.sum().backward()
    assert sparse[1].linear.weight.grad.abs().sum() > 0
    sparse.zero_grad()
    # With flash attention the texts arrive one after the other, without padding.
    states, mask = features["token_embeddings"], features["attention_mask"].bool()
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    flat = {"token_embeddings": states[mask][None], "input_ids": features["input_ids"][mask][None]}
    torch.testing.assert_close(sparse[1](flat | {"cu_seq_lens_q": ends})["sentence_embedding"], vectors)


def test_sentence_transformers_loads_the_multi_vector_model(multi_vector, ours, tmp_path):
    queries = multi_vector.encode_query(TEXTS)
    documents = multi_vector.encode_document(TEXTS)
    same_rows(queries, ours)
    same_rows(documents, ours)
    found = multi_vector.similarity(queries, documents)
    for i, j in np.ndindex(found.shape):
        expected = multi_vector_score(queries[i].numpy(), documents[j].numpy())
        assert found[i, j].item() == pytest.approx(expected, abs=1e-6)

    multi_vector.save_pretrained(str(tmp_path / "again"))  # now without code of ours
    same_rows(type(multi_vector)(str(tmp_path / "again"), device="cpu").encode(TEXTS), ours)


def test_a_folder_outside_its_checkpoint_says_where_it_belongs(checkpoint, tmp_path):
    from sentence_transformers import SparseEncoder

    alone = shutil.copytree(checkpoint / "sparse_encoder", tmp_path / "sparse_encoder")
    with pytest.raises(FileNotFoundError, match="is not in a checkpoint"):
        SparseEncoder(str(alone), trust_remote_code=True)


def test_the_example_of_the_documentation(checkpoint, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(from sentence_transformers.*?)```", page, flags=re.S)
    assert example
    monkeypatch.chdir(checkpoint.parents[1])
    exec(compile(example[1], "training.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3


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
