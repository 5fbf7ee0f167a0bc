"""Our pipeline computes what FlagEmbedding 1.4 computes: through torch, the ONNX graph, NumPy, and in the scores."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from m3_vdb import scoring
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.types import M3Embedding, SparseVector
from m3_vdb.weights import Weights
from tests.golden.weights import golden_directions
from tests.serving._golden import Golden, build_model, unpack

TOLERANCE = 1e-5
BATCHES = [[0, 15, 2], [1, 3, 14, 11], [4, 5, 6, 7, 8, 9, 10, 12, 13]]
"""Texts of 2 beside 860 tokens, 3 beside 356, and about 30 each."""


@cache
def golden() -> Golden:
    return Golden.read()


@cache
def model():
    return build_model(golden())


def run_torch(input_ids, mask):
    import torch

    with torch.inference_mode():
        output = model()(torch.from_numpy(input_ids), torch.from_numpy(mask))
    # The model leaves the weights of padding in; the graph and pooling do not.
    return {
        DENSE: output.dense.numpy(),
        SPARSE: output.token_weights.numpy() * mask,
        MULTI_VECTOR: output.multi_vector.numpy(),
    }


@cache
def graph_session():
    import onnxruntime

    from onnx_export.graph import build_graph

    return onnxruntime.InferenceSession(build_graph(weights()).SerializeToString())


@cache
def weights():
    """The model's tensors as ``onnx_export`` has them."""
    from onnx_export import weights

    config = model().encoder.config
    tensors = {name.removeprefix("encoder."): value.numpy() for name, value in model().state_dict().items()}
    return weights.Weights(tensors, config.num_hidden_layers, config.num_attention_heads, config.layer_norm_eps)


def run_graph(input_ids, mask):
    names = [DENSE, SPARSE, MULTI_VECTOR]
    arrays = graph_session().run(names, {"input_ids": input_ids, "attention_mask": mask})
    return dict(zip(names, arrays, strict=True))


def embed(through, input_ids, mask, lengths):
    if through == "numpy":
        from onnx_export import reference

        offsets = np.concatenate([[0], np.cumsum(lengths)])
        found = reference.embed(weights(), TokenBatch(input_ids[mask == 1], offsets, np.zeros(len(lengths), bool)))
        used = golden().used  # the model's table holds these rows alone
        return [replace(one, sparse=SparseVector(used[one.sparse.ids], one.sparse.weights)) for one in found]
    raw = {"torch": run_torch, "graph": run_graph}[through](input_ids, mask)
    return unpack(golden(), raw, input_ids, lengths)


@cache
def encode(through: str) -> list[M3Embedding]:
    embeddings: dict[int, M3Embedding] = {}
    for texts in BATCHES:
        input_ids, mask, lengths = golden().batch(texts)
        assert len(set(lengths)) > 1, "every batch has padding"
        embeddings |= dict(zip(texts, embed(through, input_ids, mask, lengths), strict=True))
    return [embeddings[i] for i in range(len(golden().arrays["names"]))]


every_way = pytest.mark.parametrize("through", ["torch", "graph", "numpy"])


@every_way
def test_dense_vectors_are_those_of_flagembedding(through):
    dense = np.stack([embedding.dense for embedding in encode(through)])
    np.testing.assert_allclose(dense, golden().arrays["dense"], rtol=0, atol=TOLERANCE)


@every_way
def test_lexical_weights_are_those_of_flagembedding(through):
    entries = 0
    for text, embedding in enumerate(encode(through)):
        ours, theirs = embedding.sparse.as_dict(), golden().sparse(text)
        entries += len(theirs)
        for token_id in ours.keys() | theirs.keys():
            assert ours.get(token_id, 0.0) == pytest.approx(theirs.get(token_id, 0.0), abs=TOLERANCE)
    assert entries > 300


@every_way
def test_every_multi_vector_row_is_that_of_flagembedding(through):
    file, embeddings = golden(), encode(through)
    directions = golden_directions()
    for text, embedding in enumerate(embeddings):
        expected = file.part("colbert_proj", "colbert_offsets", text)
        np.testing.assert_allclose(embedding.multi_vector @ directions.T, expected, rtol=0, atol=TOLERANCE)
    stored = zip(file.arrays["colbert_row_text"], file.arrays["colbert_row_index"], strict=True)
    ours = np.stack([embeddings[text].multi_vector[row] for text, row in stored])
    np.testing.assert_allclose(ours, file.arrays["colbert_rows"], rtol=0, atol=TOLERANCE)


@every_way
@pytest.mark.parametrize("text", [2, 5])
def test_a_text_alone_equals_the_text_in_a_padded_batch(through, text):
    input_ids, mask, lengths = golden().batch([text])
    (alone,) = embed(through, input_ids, mask, lengths)
    np.testing.assert_allclose(alone.dense, encode(through)[text].dense, atol=TOLERANCE)
    np.testing.assert_allclose(alone.multi_vector, encode(through)[text].multi_vector, atol=TOLERANCE)


@every_way
def test_scores_of_pairs_are_those_of_flagembedding(through):
    file, embeddings = golden().arrays, encode(through)
    for pair, (query, passage) in enumerate(file["pairs"]):
        parts = scoring.score(embeddings[query], embeddings[passage])
        # A lexical score is a sum of products of any size, so its error is relative.
        assert parts.sparse == pytest.approx(file["pair_lexical"][pair], rel=TOLERANCE, abs=TOLERANCE)
        assert parts.multi_vector == pytest.approx(file["pair_colbert"][pair], abs=TOLERANCE)


@every_way
def test_fused_scores_are_those_of_compute_score_times_the_sum_of_the_weights(through):
    file, embeddings = golden().arrays, encode(through)
    dense, sparse, colbert = file["score_weights"].tolist()
    modes = {
        "colbert": (Weights(0, 0, 1), 1),
        "sparse": (Weights(0, 1, 0), 1),
        "dense": (Weights(1, 0, 0), 1),
        "sparse+dense": (Weights(dense, sparse, 0), dense + sparse),
        "colbert+sparse+dense": (Weights(dense, sparse, colbert), dense + sparse + colbert),
    }
    assert list(modes) == file["score_modes"].tolist()
    for (query, passage), theirs in zip(file["pairs"], file["scores"], strict=True):
        parts = scoring.score(embeddings[query], embeddings[passage])
        for (weights, total), value in zip(modes.values(), theirs, strict=True):
            assert scoring.hybrid_score(parts, weights) == pytest.approx(value * total, rel=TOLERANCE, abs=TOLERANCE)
