from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from m3_vdb import find_bundle
from m3_vdb.encoding.pooling import DENSE, SPARSE
from m3_vdb.errors import ConfigError, MissingExtraError, ModelOutputError, TextError
from m3_vdb.integrations.encoder import SharedEncoder, m3_scores
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.weights import Weights
from tests.serving._fakes import FakeSession, embed_with

IDENTITY = find_bundle(None).identity
DIMS = {"dense_dim": IDENTITY.dense_dim, "multi_vector_dim": IDENTITY.multi_vector_dim}


@pytest.fixture
def session():
    return FakeSession(**DIMS)


@pytest.fixture
def encoder(session):
    return SharedEncoder(embed_with(session), kept=4)


def test_dense_and_sparse_need_one_pass_together_and_are_those_of_the_model(encoder, session):
    texts = ["one", "two", "one"]
    dense, sparse = encoder.dense_documents(texts), encoder.sparse_documents(texts)
    assert [shape[0] for shape in session.shapes] == [2]
    assert set(session.asked[0]) == {DENSE, SPARSE}
    direct = encoder.embed.encode_documents(texts)
    assert dense == direct.dense.tolist()
    assert sparse == direct.sparse_dicts()


def test_texts_are_encoded_once_however_they_are_batched_and_queries_apart(encoder, session):
    encoder.dense_documents(["a", "b"])
    encoder.dense_documents(["c"])
    encoder.sparse_documents(["c", "b", "a"])
    encoder.sparse_queries(["a"])
    encoder.dense_query("a")
    assert [shape[0] for shape in session.shapes] == [2, 1, 1]


def test_the_oldest_texts_are_dropped_but_never_those_of_the_last_call(encoder, session):
    many = [f"text {i}" for i in range(9)]
    encoder.dense_documents(many)
    encoder.sparse_documents(many)
    assert len(session.shapes) == 1
    encoder.dense_documents(["new"])
    encoder.dense_documents(many[-3:])
    assert len(session.shapes) == 2
    encoder.dense_documents(many[:1])
    assert len(session.shapes) == 3


def test_threads_that_ask_for_the_same_texts_share_a_pass(encoder, session):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encoder.dense_documents, [["a", "b"]] * 16))
    assert len(session.shapes) == 1
    assert all(one == found[0] for one in found)


def test_errors_name_the_item_and_nothing_of_the_batch_is_kept(encoder, session):
    encoder.dense_documents(["a"])
    with pytest.raises(TextError, match="item 2"):
        encoder.dense_documents(["a", "b", 3])
    zebra = encoder.embed.tokenize(["zebra"]).ids[1]
    failing = SharedEncoder(embed_with(FakeSession(poison=zebra, **DIMS)))
    with pytest.raises(ModelOutputError) as caught:
        failing.dense_documents(["a", "a", "zebra"])
    assert caught.value.index == 2
    with pytest.raises(ConfigError, match="kept"):
        SharedEncoder(encoder.embed, kept=0)


def test_scores_of_texts_are_the_m3_scores_by_one_pass_for_each_side(encoder, session):
    texts = ["the formula bar", "a macro"]
    found = m3_scores(encoder.embed, "macro", texts, weights="dense_sparse")
    assert [shape[0] for shape in session.shapes] == [1, 2]
    query = encoder.embed.encode_queries(["macro"])[0]
    assert found == [
        hybrid_score(score(query, one), Weights(1, 0.3, 0)) for one in encoder.embed.encode_documents(texts)
    ]
    assert m3_scores(encoder.embed, "macro", []) == []


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_a_framework_that_is_missing_is_one_line_with_the_command(module, framework, extra, monkeypatch):
    for name in (framework, *(loaded for loaded in sys.modules if loaded.startswith(f"{framework}."))):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"m3_vdb.integrations.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install 'm3-vdb\[{extra}\]'"):
        importlib.import_module(f"m3_vdb.integrations.{module}")
