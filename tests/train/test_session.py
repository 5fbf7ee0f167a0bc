"""Encoding with a torch model: the numbers, the order, and that a model in training does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.tokenizer import SPECIAL_IDS, Tokenizer
from m3_vdb.errors import BundleError, ConfigError, ModelOutputError
from train.model import M3Model
from train.retrieval.index import encode as encode_parts
from train.session import TorchSession, embedding_function, load

DTYPES = ("float32", "bfloat16")
PARTS = ("dense", "sparse", "multi_vector")


def encode(model, tokenizer, texts, *, max_length, parts=PARTS, **options):
    return encode_parts(embedding_function(model, tokenizer, **options), texts, max_length=max_length, parts=parts)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")


@pytest.fixture
def model(tiny_checkpoint):
    return M3Model.load(tiny_checkpoint)


def alone(model, tokenizer, text, max_length=64):
    """(dense, lexical weights, multi-vector) of one text in a forward of its own, by the definition of the paper."""
    ids = tokenizer.encode([text], max_length=max_length).ids.astype(np.int64)
    with torch.no_grad():
        output = model(torch.from_numpy(ids)[None], torch.ones(1, len(ids), dtype=torch.int64))
    weights: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), output.token_weights[0].tolist(), strict=True):
        if token not in SPECIAL_IDS and weight > 0:
            weights[token] = max(weight, weights.get(token, 0))
    return output.dense[0].numpy(), weights, output.multi_vector[0].numpy()


@pytest.mark.parametrize("batch_tokens", [8, 4096])
def test_every_text_has_its_own_embedding_in_the_order_of_the_input(model, tokenizer, tiny_texts, batch_tokens):
    found = encode(model, tokenizer, tiny_texts, max_length=64, batch_tokens=batch_tokens)
    assert len(found) == len(tiny_texts)
    for text, embedding in zip(tiny_texts, found, strict=True):
        dense, weights, vectors = alone(model, tokenizer, text)
        np.testing.assert_allclose(embedding.dense, dense, atol=1e-5)
        np.testing.assert_allclose(embedding.multi_vector, vectors, atol=1e-5)
        assert embedding.sparse.as_dict() == pytest.approx(weights, abs=1e-4)
    assert sum(len(weights) > 0 for _, weights, _ in (alone(model, tokenizer, text) for text in tiny_texts)) > 5
    assert (found.stats.forwards > 5) == (batch_tokens == 8)


def test_only_the_parts_asked_for_come_back(model, tokenizer):
    found = encode(model, tokenizer, ["the vector", "a"], max_length=64, parts=["sparse"])
    assert found.dense is None
    assert found.multi_vector is None
    assert found.sparse_offsets.tolist()[-1] == len(found.sparse_ids) > 0


def test_no_texts_give_empty_arrays_of_the_right_width(model, tokenizer):
    found = encode(model, tokenizer, [], max_length=64)
    assert (found.dense.shape, found.multi_vector.shape) == ((0, model.dim), (0, model.colbert_dim))


def test_texts_are_cut_to_max_length_and_never_beyond_the_model(model, tokenizer):
    long = "vector " * 500
    assert encode(model, tokenizer, [long, "a"], max_length=10).token_counts.tolist()[0] == 10
    whole = encode(model, tokenizer, [long, "a"], max_length=8192)
    assert whole.token_counts.tolist()[0] == model.max_length
    assert whole.truncated.tolist() == [True, False]


def test_dropout_is_off_meanwhile_and_modes_are_restored(model, tokenizer):
    model.train()
    model.encoder.encoder.layer[0].eval()  # as a trainer that froze it
    before = [module.training for module in model.modules()]
    first, second = (encode(model, tokenizer, ["the vector search"], max_length=64) for _ in range(2))
    assert [module.training for module in model.modules()] == before
    assert 0 < sum(before) < len(before)
    assert np.array_equal(first.dense, second.dense)


def test_modes_are_restored_after_an_error_too(model, tokenizer):
    model.train()
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[tokenizer.encode(["vector"], max_length=3).ids[1]] = torch.nan
    with pytest.raises(ModelOutputError, match=r"item 1 \(4 tokens\): has its training diverged") as error:
        encode(model, tokenizer, ["a", "the vector", "one"], max_length=64)
    assert error.value.index == 1
    assert model.training


def test_gradients_flow_after_encoding_even_inside_a_trainers_autocast(model, tokenizer):
    ids = torch.tensor([[0, 5, 6, 2]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encode(model, tokenizer, ["the vector"], max_length=64, dtype="bfloat16")
        model(ids, torch.ones_like(ids)).dense[:, 0].sum().backward()
    assert model.encoder.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 0


def test_bfloat16_is_close_and_not_the_same(model, tokenizer):
    exact, rough = (encode(model, tokenizer, ["the vector search"], max_length=64, dtype=d) for d in DTYPES)
    cosine = float(exact.dense[0] @ rough.dense[0])
    assert 0.99 < cosine < 1 - 1e-6
    assert rough.dense.dtype == np.float32
    assert np.linalg.norm(rough.dense[0]) == pytest.approx(1, abs=1e-6)


def test_the_fingerprint_follows_weights_and_arithmetic(model, tokenizer):
    first = embedding_function(model, tokenizer).identity
    assert embedding_function(model, tokenizer).identity == first
    assert (first.dense_dim, first.multi_vector_dim) == (model.dim, model.colbert_dim)
    assert embedding_function(model, tokenizer, dtype="bfloat16").identity != first
    with torch.no_grad():
        model.colbert_linear.bias[0] += 1e-6
    assert embedding_function(model, tokenizer).identity != first


def test_a_checkpoint_encodes_as_its_bundle_does(model, tokenizer, tiny_bundle, tiny_texts):
    ours = embedding_function(model, tokenizer)
    assert ours.session.description.endswith("cpu, float32")
    bundle = M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu", threads=1)
    for left, right in zip(ours.encode_documents(tiny_texts), bundle.encode_documents(tiny_texts), strict=True):
        np.testing.assert_allclose(left.dense, right.dense, atol=1e-5)
        np.testing.assert_allclose(left.multi_vector, right.multi_vector, atol=1e-5)
        assert left.sparse.as_dict() == pytest.approx(right.sparse.as_dict(), abs=1e-4)


def test_a_session_computes_what_it_is_asked_for(model):
    ids = np.array([[0, 5, 2]])
    found = TorchSession(model).run(["sparse_vecs", "dense_vecs"], ids, np.ones_like(ids))
    assert {name: array.shape for name, array in found.items()} == {"sparse_vecs": (1, 3), "dense_vecs": (1, model.dim)}


def test_load_names_what_is_wrong(tiny_checkpoint, tmp_path):
    model, _ = load(tiny_checkpoint, device="cpu")
    assert not model.training
    with pytest.raises(ConfigError, match="device='nonsense'"):
        load(tiny_checkpoint, device="nonsense")
    with pytest.raises(BundleError):
        load(tmp_path, device="cpu")
