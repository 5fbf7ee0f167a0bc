"""MCLS through the graph: the average of the torch model's states at known places, for every precision and runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding import pooling
from m3_vdb.encoding.sessions import OnnxRuntimeSession, OpenVinoSession
from m3_vdb.encoding.tokenizer import Tokenizer
from onnx_export.export import convert
from tests.conftest import TINY_WORDS
from tests.export.conftest import PRECISIONS
from tests.serving._fakes import embed_with
from train.model import M3Model

OUTPUTS = ["dense_vecs", "sparse_vecs", "colbert_vecs"]
STARTS = {200: [0], 256: [0], 257: [0, 257], 512: [0, 257], 513: [0, 257, 514], 700: [0, 257, 514]}
"""Tokens of a text → places of its ``<s>``, by hand."""
LONGEST = 760


def text_of(tokens: int) -> str:
    """A text of exactly so many tokens: every word is a piece."""
    return " ".join(np.random.default_rng(tokens).choice(TINY_WORDS.split(), tokens))


@pytest.fixture(scope="module")
def long_checkpoint(checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with positions for 760 tokens."""
    source = M3Model.load(checkpoint)
    config = XLMRobertaConfig.from_pretrained(checkpoint, max_position_embeddings=LONGEST + 2)
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=source.colbert_dim)
    name = "encoder.embeddings.position_embeddings.weight"
    positions = np.random.default_rng(3).normal(0, 0.5, (LONGEST + 2, source.dim)).astype(np.float32)
    model.load_state_dict(source.state_dict() | {name: torch.from_numpy(positions)})
    path = tmp_path_factory.mktemp("mcls") / "long"
    model.eval().save(path, tokenizer_json=(checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    return path


@pytest.fixture(scope="module")
def long_bundles(long_checkpoint) -> dict[str, Path]:
    """Precision → bundle."""
    parent = long_checkpoint.parent
    return {p: convert(long_checkpoint, parent / p, precision=p).path for p in PRECISIONS}


@pytest.fixture(scope="module")
def tokens(long_checkpoint):
    batch = Tokenizer.from_file(long_checkpoint / "tokenizer.json").encode(
        [text_of(n) for n in STARTS], max_length=LONGEST, mcls_every=256
    )
    assert batch.text_lengths.tolist() == [n + 2 for n in STARTS]
    return batch


@pytest.fixture(scope="module")
def expected(long_checkpoint, tokens) -> tuple[np.ndarray, np.ndarray]:
    """([texts, d] averages by hand, [texts, d] states of the first ``<s>``), unit rows, each text alone in torch."""
    model = M3Model.load(long_checkpoint, attention="sdpa")
    averages, firsts = [], []
    for i, places in enumerate(STARTS.values()):
        ids, mask = (torch.from_numpy(array) for array in tokens.padded(np.array([i])))
        with torch.inference_mode():
            hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0].numpy()
        averages.append(sum(hidden[place] for place in places) / len(places))
        firsts.append(hidden[0])
    return unit(averages), unit(firsts)


def unit(rows: list[np.ndarray]) -> np.ndarray:
    return np.stack([row / np.linalg.norm(row) for row in rows])


def open_session(path: Path, runtime: str):
    model = path / "model.onnx"
    return OnnxRuntimeSession(model) if runtime == "onnxruntime" else OpenVinoSession(model, arithmetic="f32")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_dense_vector_is_the_average_of_the_states_of_all_starts(
    long_bundles, tokens, expected, precision, runtime
):
    session = open_session(long_bundles[precision], runtime)
    dense = session.run(["dense_vecs"], *tokens.padded(np.arange(len(tokens))))["dense_vecs"]
    averages, firsts = expected
    if precision == "fp32":
        np.testing.assert_allclose(dense, averages, atol=1e-5, rtol=0)
    lowest = {"fp32": 1 - 1e-6, "fp16": 0.9999, "int8": 0.98}[precision]
    assert (dense * averages).sum(axis=1).min() >= lowest
    one = np.array([len(places) == 1 for places in STARTS.values()])
    same = (averages * firsts).sum(axis=1)
    assert (same[one] > 1 - 1e-6).all()
    assert (same[~one] < 0.97).all(), "else the first <s> alone would pass"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_other_texts_and_padding_change_nothing(long_bundles, tokens, runtime):
    session = open_session(long_bundles["fp32"], runtime)
    together = session.run(OUTPUTS, *tokens.padded(np.arange(len(tokens))))
    for i, length in enumerate(tokens.lengths):
        alone = session.run(OUTPUTS, *tokens.padded(np.array([i])))
        np.testing.assert_allclose(together["dense_vecs"][i], alone["dense_vecs"][0], atol=1e-5)
        np.testing.assert_allclose(together["sparse_vecs"][i, :length], alone["sparse_vecs"][0], atol=1e-5)
        np.testing.assert_allclose(together["colbert_vecs"][i, : length - 1], alone["colbert_vecs"][0], atol=1e-5)


def test_starts_in_the_padding_do_not_count(long_bundles, tokens):
    session = open_session(long_bundles["fp32"], "onnxruntime")
    ids, mask = tokens.padded(np.array([0, 3]))
    garbage = np.where(mask == 1, ids, 0)
    one, two = (session.run(["dense_vecs"], array, mask)["dense_vecs"] for array in (ids, garbage))
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_embedding_function_serves_the_definition(long_checkpoint, long_bundles, tokens, expected, runtime):
    session = open_session(long_bundles["fp32"], runtime)
    embed = embed_with(session, long_bundles["fp32"], mcls_every=256)
    served = embed.encode_documents([text_of(n) for n in STARTS])
    np.testing.assert_allclose(served.dense, expected[0], atol=1e-5, rtol=0)
    assert served.token_counts.tolist() == [n + 2 for n in STARTS]
    assert np.diff(served.multi_vector_offsets).tolist() == [n + 1 for n in STARTS]
    model = M3Model.load(long_checkpoint, attention="sdpa")
    for i, (n, places) in enumerate(STARTS.items()):
        ids, mask = tokens.padded(np.array([i]))
        with torch.inference_mode():
            output = model(torch.from_numpy(ids), torch.from_numpy(mask))
        rows = np.delete(output.multi_vector[0].numpy(), [place - 1 for place in places[1:]], axis=0)
        np.testing.assert_allclose(served[i].multi_vector, rows, atol=1e-5, rtol=0)
        weights = pooling.pool_sparse(ids, output.token_weights.numpy())
        assert len(rows) == n + 1
        for token_id, weight in zip(weights.ids.tolist(), weights.values.tolist(), strict=True):
            assert served[i].sparse.as_dict().get(token_id, 0.0) == pytest.approx(weight, abs=1e-5)
