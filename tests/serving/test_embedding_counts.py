"""Cost and failures of encoding, with sessions that count calls or return NaN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m3_vdb import find_bundle
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.errors import ModelOutputError
from m3_vdb.types import EncodeStats
from tests.serving._fakes import FakeSession, embed_with

FIXTURE = Path(__file__).parents[1] / "fixtures" / "multilingual.jsonl"


@pytest.fixture
def session():
    return FakeSession()


@pytest.fixture
def embed(tiny_bundle, session):
    return embed_with(session, tiny_bundle)


def token_id(embed, word):
    return int(embed.tokenizer.encode([word], max_length=8).ids[1])


def test_a_single_query_is_one_forward_pass_for_all_three_parts(embed, session):
    stats = embed.encode_queries(["the vector search"]).stats
    assert session.shapes == [(1, 5)]
    assert session.asked == [(DENSE, SPARSE, MULTI_VECTOR)]
    assert stats == EncodeStats(forwards=1, real_tokens=5, padded_tokens=5)
    assert stats.padding_ratio == 1.0


def test_nothing_is_no_forward_pass(embed, session):
    assert embed.encode_documents([]).stats == EncodeStats(0, 0, 0)
    assert session.shapes == []
    assert EncodeStats().padding_ratio == 1.0


def test_there_is_one_forward_pass_a_batch_and_the_counts_say_so(embed, session, tiny_texts):
    embeddings = embed.encode_documents(tiny_texts * 8)
    stats = embeddings.stats
    assert 1 < stats.forwards == len(session.shapes) < len(tiny_texts)
    assert stats.padded_tokens == sum(rows * length for rows, length in session.shapes)
    assert stats.real_tokens == embeddings.token_counts.sum() == embed.token_count(tiny_texts * 8).sum()
    assert stats.padding_ratio == stats.padded_tokens / stats.real_tokens


def test_only_the_outputs_that_are_wanted_are_asked_for(embed, session):
    embed.encode_documents(["a"], dense=False, multi_vector=False)
    embed.encode_documents(["a"], sparse=False)
    assert session.asked == [(SPARSE,), (DENSE, MULTI_VECTOR)]


def test_a_batch_holds_no_more_padded_tokens_than_asked(tiny_bundle, session, tiny_texts):
    embed_with(session, tiny_bundle, batch_tokens=50).encode_documents(tiny_texts * 5)
    assert all(rows * length <= 50 for rows, length in session.shapes)
    assert max(rows for rows, _ in session.shapes) > 1


def test_padding_stays_within_fifteen_percent_on_real_texts():
    bundle = find_bundle()
    session = FakeSession(dense_dim=bundle.dense_dim, multi_vector_dim=bundle.multi_vector_dim)
    texts = [json.loads(line)["text"] for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    stats = embed_with(session, on_truncate="ignore").encode_documents(texts, multi_vector=False).stats
    assert len(texts) > 500
    assert stats.padding_ratio <= 1.15
    assert stats.forwards < len(texts) / 5


def test_the_parts_of_every_text_are_its_own(embed, tiny_texts):
    tokens = embed.tokenizer.encode(tiny_texts, max_length=64)
    for i, embedding in enumerate(embed.encode_documents(tiny_texts)):
        ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
        assert embedding.dense.argmax() == ids.sum() % 64
        assert embedding.multi_vector.argmax(axis=1).tolist() == (ids[1:] % 16).tolist()
        expected = {int(t): t % 7 / 8 for t in ids if t > 3 and t % 7}
        assert embedding.sparse.as_dict() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["dense", "sparse", "multi_vector"])
def test_a_value_that_is_not_finite_names_the_text_in_the_order_given(tiny_bundle, value, part):
    probe = embed_with(FakeSession(), tiny_bundle)
    session = FakeSession(poison=token_id(probe, "vector"), value=value)
    embed = embed_with(session, tiny_bundle)
    wanted = {name: name == part for name in ("dense", "sparse", "multi_vector")}
    texts = ["the search", "a", "the index of one document", "the vector", "a"]
    with pytest.raises(ModelOutputError, match=r"item 3 \(4 tokens\)") as caught:
        embed.encode_documents(texts, **wanted)
    assert caught.value.index == 3


def test_values_in_the_padding_are_never_looked_at(tiny_bundle):
    session = FakeSession(poison=1)  # the id of <pad>
    session_outputs = session.run((SPARSE, MULTI_VECTOR), np.array([[0, 5, 2], [0, 2, 1]]), np.ones((2, 3), np.int64))
    assert np.isnan(session_outputs[SPARSE]).any()
    embed = embed_with(session, tiny_bundle)
    embeddings = embed.encode_documents(["the vector search", "a the"], dense=False)
    assert session.shapes[-1] == (2, 5), "the second text is padded"
    assert np.isfinite(embeddings.multi_vector).all()
    assert np.isfinite(embeddings.sparse_weights).all()
