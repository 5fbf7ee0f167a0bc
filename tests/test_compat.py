"""Code written for FlagEmbedding or pymilvus.model gets the same values: replayed from ``golden/compat.json``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from m3_vdb import M3EmbeddingFunction
from m3_vdb.compat import BGEM3EmbeddingFunction, BGEM3FlagModel
from m3_vdb.errors import ConfigError

RECORDED = json.loads((Path(__file__).parent / "golden" / "compat.json").read_text(encoding="utf-8"))
TEXTS, PAIRS = RECORDED["texts"], [(RECORDED["texts"][q], RECORDED["texts"][p]) for q, p in RECORDED["pairs"]]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
close = {"rtol": 1e-5, "atol": 1e-5}  # float32 through two layers, as in test_golden_parity


def in_fp32(model, bundle):
    """The model with the runtime that computes in float32 on every processor, as the peers did."""
    model.embed = M3EmbeddingFunction(bundle, runtime="onnxruntime", device="cpu", on_truncate="ignore")
    return model


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return in_fp32(BGEM3FlagModel(tiny_bundle, devices="cpu", passage_max_length=64, query_max_length=64), tiny_bundle)


def assert_same(ours, theirs):
    """Equal shape by shape; numbers within 1e-5; a weight that is absent is 0."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list) and theirs and isinstance(theirs[0], (dict, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif theirs is None:
        assert ours is None
    else:
        np.testing.assert_allclose(ours, theirs, **close)


def test_encode_gives_the_values_of_flagembedding(model):
    ours = model.encode(TEXTS, **ALL)
    assert_same(ours, RECORDED["encode"])
    assert ours["dense_vecs"].dtype == np.float32
    assert {type(weight) for row in ours["lexical_weights"] for weight in row.values()} == {np.float32}
    assert ours["lexical_weights"][0]["a token it has not"] == 0


def test_encode_computes_the_dense_vector_alone_unless_told(model):
    assert_same(model.encode(TEXTS[:2]), RECORDED["default"])


def test_one_string_comes_without_lists_around_it(model):
    ours = model.encode(TEXTS[6], **ALL)
    assert_same(ours, RECORDED["one"])
    assert ours["dense_vecs"].ndim == 1


def test_a_cut_text_has_the_same_values_and_a_warning_at_the_callers_line(model):
    with pytest.warns(UserWarning, match=r"1 of 1 texts were cut to 12 tokens: pass a larger max_length") as caught:
        ours = model.encode([RECORDED["cut"]["text"]], **ALL, max_length=12)
    assert_same(ours, RECORDED["cut"]["output"])
    assert caught[0].filename == __file__


def test_queries_get_the_instruction_and_truncate_dim_shortens(tiny_bundle):
    options = {"query_instruction_for_retrieval": "query: ", "truncate_dim": 8, **ALL}
    told = in_fp32(BGEM3FlagModel(tiny_bundle, devices="cpu", **options), tiny_bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(told.encode_queries(TEXTS[:3]), RECORDED["queries"])
        assert_same(told.encode_corpus(TEXTS[:3]), RECORDED["corpus"])


def test_compute_score_gives_theirs(model):
    ours = model.compute_score(PAIRS, weights_for_different_modes=RECORDED["weights"])
    theirs = {mode: [scores[mode][0] for scores in RECORDED["scores"]] for mode in ours}
    assert_same(ours, theirs)
    assert_same(model.compute_score(PAIRS[0]), RECORDED["one_pair"])
    assert model.compute_score([]) == RECORDED["no_pairs"]


def test_score_methods_and_tokens_give_theirs(model):
    encoded = model.encode(TEXTS, **ALL)
    weights, rows = encoded["lexical_weights"], encoded["colbert_vecs"]
    assert_same(model.compute_lexical_matching_score(weights[:3], weights[3:]), RECORDED["lexical"])
    assert_same(model.compute_lexical_matching_score(weights[0], weights[6]), RECORDED["lexical_one"])
    assert_same(model.colbert_score(rows[0], rows[6]), RECORDED["colbert"])
    assert_same(model.convert_id_to_token(weights), RECORDED["tokens"])
    assert_same(model.convert_id_to_token(weights[0]), RECORDED["tokens_one"])
    with pytest.raises(ValueError, match="two dicts or two lists"):
        model.compute_lexical_matching_score(weights[0], weights)


def test_pymilvus_model_gives_theirs(tiny_bundle):
    function = BGEM3EmbeddingFunction(tiny_bundle, device="cpu", return_colbert_vecs=True, max_length=64)
    in_fp32(function.model, tiny_bundle)
    assert function.dim == RECORDED["milvus_dim"]
    theirs = dict(RECORDED["milvus"])
    sparse = theirs.pop("sparse")
    for encode in (function, function.encode_documents, function.encode_queries):
        ours = encode(TEXTS)
        found = ours.pop("sparse")
        assert_same(ours, theirs)
        assert (list(found.shape), found.dtype) == (sparse["shape"], np.float64)
        assert (found.indices.tolist(), found.indptr.tolist()) == (sparse["indices"], sparse["indptr"])
        np.testing.assert_allclose(found.data, sparse["data"], **close)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_embeddings": False}, "normalize_embeddings=False: the vectors of a bundle have length 1"),
        ({"pooling_method": "mean"}, "pooling_method='mean': M3's dense vector"),
        ({"colbert_dim": 32}, "colbert_dim=32: this model's rows have 16 numbers"),
        ({"devices": ["cuda:0", "cuda:1"]}, "expected None, 'cpu' or 'cuda:0'"),
        ({"cache_dir": "models"}, "HF_HOME"),
    ],
)
def test_an_option_that_a_bundle_cannot_follow_is_an_error(tiny_bundle, options, message):
    with pytest.raises(ConfigError, match=message):
        BGEM3FlagModel(tiny_bundle, **({"devices": "cpu"} | options))
