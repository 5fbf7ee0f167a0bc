"""The judgement over an export: what is measured, and where the line is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from onnx_export.verify import Errors, VerificationError, measure, measure_mcls, require_close, verification_texts
from train.model import M3Model

PERFECT = Errors(
    dense=0.0,
    multi_vector=0.0,
    sparse=0.0,
    dense_cosine=1.0,
    multi_vector_cosine=1.0,
    sparse_flips=0,
    largest_flip=0.0,
    texts=15,
    tokens=64,
)


@pytest.fixture(scope="module")
def function(exported):
    return M3EmbeddingFunction(exported["fp32"][0], runtime="onnxruntime", device="cpu", on_truncate="ignore")


@pytest.mark.parametrize("part", ["dense", "multi_vector", "sparse", "largest_flip"])
def test_fp32_allows_one_in_a_hundred_thousand(part):
    require_close(replace(PERFECT, **{part: 0.9e-5}), precision="fp32")
    with pytest.raises(VerificationError, match=part):
        require_close(replace(PERFECT, **{part: 1.1e-5}), precision="fp32")


@pytest.mark.parametrize("part", ["dense_cosine", "multi_vector_cosine"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_is_judged_by_its_lowest_cosine(part, precision):
    rounded = replace(PERFECT, dense=0.01, multi_vector=0.02, sparse=0.1, sparse_flips=3, largest_flip=0.01)
    require_close(replace(rounded, **{part: 0.981}), precision=precision)
    with pytest.raises(VerificationError, match=f"the {precision} graph differs"):
        require_close(replace(rounded, **{part: 0.979}), precision=precision)


@pytest.mark.parametrize("part", ["dense", "multi_vector", "sparse", "largest_flip"])
def test_not_a_number_is_refused_at_fp32(part):
    with pytest.raises(VerificationError):
        require_close(replace(PERFECT, **{part: float("nan")}), precision="fp32")


@pytest.mark.parametrize("part", ["dense_cosine", "multi_vector_cosine"])
def test_not_a_number_is_refused_at_reduced_precision(part):
    with pytest.raises(VerificationError):
        require_close(replace(PERFECT, **{part: float("nan")}), precision="int8")


def test_a_model_that_is_not_a_number_for_one_text_measures_as_such(function, checkpoint):
    model = M3Model.load(checkpoint, attention="sdpa")
    texts = ["the vector search", "ein Wort und die Suche", "数据库"]
    with torch.no_grad():
        word = int(function.tokenizer.encode(["Suche"], max_length=9).ids[1])
        model.encoder.get_input_embeddings().weight[word] = float("nan")
    errors = measure(function, model.embed, texts)
    assert np.isnan([errors.dense, errors.multi_vector, errors.dense_cosine, errors.multi_vector_cosine]).all()


def test_mcls_is_measured_on_a_text_with_several_starts(function, checkpoint):
    model = M3Model.load(checkpoint, attention="sdpa")
    errors = measure_mcls(function, model.embed)
    assert max(errors.dense, errors.multi_vector, errors.sparse) <= 1e-5
    assert (errors.texts, errors.tokens) == (1, 61)  # 59 tokens and four <s>: 64 with </s>
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight[0, :32] += 0.5  # <s>; a shift of all is lost in the LayerNorm
    assert measure_mcls(function, model.embed).dense > 1e-3


def test_recorded_errors_are_rounded_plain_numbers():
    recorded = replace(PERFECT, dense=1.23456e-7, dense_cosine=0.98765432).as_dict()
    assert recorded["dense"] == 1.23e-7
    assert recorded["dense_cosine"] == 0.987654
    assert recorded["texts"] == 15


def test_the_texts_are_many_scripts_and_fill_the_model(function):
    texts = verification_texts(function)
    counts = function.token_count(texts)
    assert counts.min() == 2
    assert counts.max() > function.max_length
    assert {"latin", "han", "cyrillic"} <= {
        script
        for text in texts
        for script, letter in {"latin": "a", "han": "数", "cyrillic": "и"}.items()
        if letter in text
    }


@pytest.mark.parametrize("part", ["dense", "sparse", "multi_vector"])
@torch.no_grad()
def test_a_difference_in_one_part_shows_in_that_part(function, checkpoint, part):
    model = M3Model.load(checkpoint, attention="sdpa")
    texts = ["the vector search", "ein Wort und die Suche"]
    clean = measure(function, model.embed, texts)
    assert max(clean.dense, clean.sparse, clean.multi_vector) <= 1e-5
    if part == "sparse":
        model.sparse_linear.bias += 0.25
    elif part == "multi_vector":
        model.colbert_linear.bias[0] += 0.25
    else:
        model.encoder.encoder.layer[-1].output.LayerNorm.bias[0] += 0.25
        model.sparse_linear.bias -= 0.25 * model.sparse_linear.weight[0, 0]  # the heads do not see it
        model.colbert_linear.bias -= 0.25 * model.colbert_linear.weight[:, 0]
    errors = measure(function, model.embed, texts)
    moved = {name: getattr(errors, name) for name in ("dense", "sparse", "multi_vector")}
    assert moved.pop(part) > 1e-3
    assert max(moved.values()) <= 1e-5
    if part == "sparse":
        assert errors.sparse == pytest.approx(0.25, abs=1e-5)
