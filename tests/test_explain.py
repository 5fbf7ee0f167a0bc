"""``HybridIndex.explain``: the terms of a score, where they stand in the texts, and that they add up."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb import AsyncHybridIndex, Document, HybridIndex, LongDocuments, M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.explain import explain_hits
from m3_vdb.stores import MemoryStore
from m3_vdb.types import Explanation, Hit
from tests.serving._fakes import FakeSession, embed_with
from tests.test_index import FakeEmbedder


@pytest.fixture(scope="module")
def embed(tiny_bundle):
    return M3EmbeddingFunction(tiny_bundle, on_truncate="ignore")


def assert_adds_up(explanation: Explanation, hit: Hit):
    assert hit.parts is not None
    for part in ("dense", "sparse", "multi_vector"):
        assert getattr(explanation.parts, part) == pytest.approx(getattr(hit.parts, part), abs=1e-5), part
    assert sum(match.product for match in explanation.lexical) == pytest.approx(hit.parts.sparse, abs=1e-5)
    similarities = [match.similarity for match in explanation.alignment]
    assert np.mean(similarities) == pytest.approx(hit.parts.multi_vector, abs=1e-5)
    for text, side in ((explanation.query, "query"), (explanation.document, "document")):
        tokens = [getattr(match, side) for match in explanation.alignment]
        tokens += [token for match in explanation.lexical for token in getattr(match, side)]
        assert all(token.text == text[token.start : token.stop] for token in tokens)
    assert all(match.product == match.query_weight * match.document_weight for match in explanation.lexical)


def test_by_hand(tiny_bundle):
    """Vectors by formula: id % 7 / 8 is the weight of a token, and rows are the same where ids agree modulo 16."""
    embed = embed_with(FakeSession(), tiny_bundle)
    words = {word: int(embed.tokenizer.encode([word], max_length=8).ids[1]) for word in ("vector", "search", "hello")}
    with HybridIndex(embed, MemoryStore(embed.identity)) as index:
        index.add([Document("d", "the vector, the vector\tsearch", title="search")])
        (hit,) = index.query("vector hello search", explain=True)
        explanation = index.explain("vector hello search", hit)
    assert_adds_up(explanation, hit)
    assert explanation.document == "search\nthe vector, the vector\tsearch"
    shared = {word for word in ("vector", "search") if words[word] % 7}
    assert {match.piece: match.product for match in explanation.lexical} == {
        f"▁{word}": (words[word] % 7 / 8) ** 2 for word in shared
    }
    places = {match.piece: [(token.start, token.stop) for token in match.document] for match in explanation.lexical}
    expected = {"▁vector": [(11, 17), (23, 29)], "▁search": [(0, 6), (30, 36)]}
    assert places == {piece: spans for piece, spans in expected.items() if piece[1:] in shared}
    first, _, third, end = explanation.alignment
    assert (first.query.text, first.document.text, first.document.start, first.similarity) == (
        "vector",
        "vector",
        11,
        1,
    )
    assert (third.query.start, third.document.start, third.similarity) == (13, 0, 1)
    assert (end.query.piece, end.query.text, end.query.start, end.similarity) == ("</s>", "", 19, 1)
    assert json.loads(json.dumps(dataclasses.asdict(explanation)))["alignment"][0]["query"]["piece"] == "▁vector"


ALPHABET = "ab vector 数据库向量检索 поиск ß é ½ﬁ\u0301\u200b\u202e\x00\n\t👩‍👧<s></s>.ΩİkK"


@given(query=st.text(ALPHABET, max_size=40), text=st.text(ALPHABET, max_size=150), title=st.text(ALPHABET, max_size=9))
def test_the_terms_add_up_for_any_text(embed, query, text, title):
    with HybridIndex(embed, MemoryStore(embed.identity)) as index:
        index.add([Document("d", text, title=title)])
        (hit,) = index.query(query, explain=True, source="dense")
        assert_adds_up(index.explain(query, hit), hit)


@pytest.mark.parametrize("mcls_every", [None, 8])
def test_passages_of_a_split_document_are_explained_by_their_own_text(tiny_bundle, tmp_path, mcls_every):
    embed = M3EmbeddingFunction(tiny_bundle, max_length=24, mcls_every=mcls_every)
    split = LongDocuments(plan="split", overlap=3)
    with HybridIndex.open(tmp_path / "notes.qdrant", model=embed, long_documents=split) as index:
        index.add([Document("long", "vector 数据库 search index " * 12, title="hello")])
        (hit,) = index.query("search the index", explain=True)
        explanation = index.explain("search the index", hit)
    assert hit.passage is not None
    assert explanation.document == f"hello\n{hit.document.text}"
    assert_adds_up(explanation, hit)


@pytest.mark.parametrize(
    ("plan", "adds_up", "note"),
    [
        (LongDocuments(plan="truncate", max_rows=5), True, None),
        (LongDocuments(plan="pool", max_rows=5), False, "means of several tokens (pool=5)"),
        (LongDocuments(pool_factor=2), False, "means of several tokens (pool_factor=2)"),
    ],
)
def test_fewer_stored_rows(embed, plan, adds_up, note):
    with HybridIndex(embed, MemoryStore(embed.identity), long_documents=plan) as index:
        index.add([Document("d", "the vector search of one query and hello world")])
        (hit,) = index.query("vector world", explain=True)
        explanation = index.explain("vector world", hit)
    if adds_up:
        assert_adds_up(explanation, hit)
        assert explanation.notes == ()
        return
    (said,) = explanation.notes
    assert note in said
    assert explanation.parts.sparse == pytest.approx(hit.parts.sparse, abs=1e-5)
    similarities = [match.similarity for match in explanation.alignment]
    assert np.mean(similarities) == pytest.approx(explanation.parts.multi_vector, abs=1e-5), "of tokens, not of means"


def test_another_maximum_length_is_named(tiny_bundle, embed):
    short = M3EmbeddingFunction(tiny_bundle, max_length=8, on_truncate="ignore")
    with HybridIndex(short, MemoryStore(short.identity)) as index:
        index.add([Document("d", "the vector search of one query and hello world")])
        (hit,) = index.query("hello world", explain=True)
        assert_adds_up(index.explain("hello world", hit), hit)
    (explanation,) = explain_hits(embed, "hello world", [hit])
    assert explanation.notes == ("encoded with max_length the model's, stored with 8",)


def test_async_explains_the_same_in_two_passes(tiny_bundle):
    session = FakeSession()
    index = HybridIndex(embed_with(session, tiny_bundle), MemoryStore(embed_with(session, tiny_bundle).identity))
    index.add([Document("d", "hello world"), Document("e", "hello vector")])
    hits = index.query("hello", explain=True)

    async def explain():
        async with AsyncHybridIndex(index) as twin:
            return await twin.explain("hello", hits[0])

    before = len(session.shapes)
    together = explain_hits(index.embed, "hello", hits)
    assert len(session.shapes) == before + 2, "one for the query, one for all documents"
    assert asyncio.run(explain()) == together[0]


def test_it_needs_a_tokenizer():
    with pytest.raises(ConfigError, match="FakeEmbedder has no tokenizer: use M3EmbeddingFunction"):
        explain_hits(FakeEmbedder(), "a", [Hit(Document("d", "a"), 1.0)])
