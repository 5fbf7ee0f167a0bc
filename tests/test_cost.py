"""A bad item does not make the others be encoded again: tokenizations and forward passes are counted, not timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3_vdb import Document, HybridIndex, M3EmbeddingFunction
from m3_vdb.errors import ModelOutputError, TruncationError
from m3_vdb.ingest import ingest
from m3_vdb.stores import MemoryStore
from tests.ingest._fakes import HashEmbed
from tests.serving._fakes import FakeSession, embed_with

N = 40
LONG = "the vector search " * 20
BAD = {"none": (), "first": (0,), "last": (N - 1,), "some": (3, 4, 17, 30), "all": tuple(range(N))}


class CountingTokenizer:
    """Counts texts, of a tokenizer that does the work."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.texts = 0

    def encode(self, texts, **options):
        self.texts += len(texts)
        return self._tokenizer.encode(texts, **options)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def make(bundle: Path, **options) -> tuple[M3EmbeddingFunction, FakeSession, CountingTokenizer]:
    session = FakeSession()
    embed = embed_with(session, bundle, **options)
    embed.tokenizer = CountingTokenizer(embed.tokenizer)
    return embed, session, embed.tokenizer


def token(embed: M3EmbeddingFunction, word: str) -> int:
    return int(embed.tokenizer.encode([word], max_length=8).ids[1])


def passes(session: FakeSession) -> int:
    """Texts that were computed."""
    return sum(rows for rows, _ in session.shapes)


def documents(bad: tuple[int, ...], text: str) -> list[Document]:
    return [Document(str(i), text if i in bad else f"the search {i}") for i in range(N)]


def stored_as(store: MemoryStore, embed: M3EmbeddingFunction, good: list[Document]) -> None:
    """Every good document is there, with the vectors of its own text."""
    assert store.get([document.id for document in good]) == good
    assert store.count() == len(good)
    stored = {
        document.id: one for batch, vectors in store.scroll() for document, one in zip(batch, vectors, strict=True)
    }
    for document in good:
        assert stored[document.id] == embed.encode_documents([document.text])[0]


@pytest.mark.parametrize("batch_documents", [7, N])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_texts_that_are_too_long_are_tokenized_once_and_never_computed(tiny_bundle, bad, batch_documents):
    embed, session, tokenizer = make(tiny_bundle, max_length=16, on_truncate="error")
    store, given = MemoryStore(embed.identity), documents(bad, LONG)
    report = ingest(given, embed, store, batch_documents=batch_documents)
    assert (tokenizer.texts, passes(session)) == (N, N - len(bad))
    assert [one.id for one in report.rejected] == [str(i) for i in bad]
    assert {one.reason for one in report.rejected} <= {
        "longer than 16 tokens: split the text, or pass on_truncate='ignore'"
    }
    stored_as(store, embed, [one for i, one in enumerate(given) if i not in bad])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("batch_documents", [7, N])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_texts_that_the_model_fails_on_are_computed_once_with_the_others(tiny_bundle, bad, batch_documents, value):
    embed, session, tokenizer = make(tiny_bundle)
    session._poison, session._value = token(embed, "vector"), value
    tokenizer.texts = 0
    store, given = MemoryStore(embed.identity), documents(bad, "the vector")
    report = ingest(given, embed, store, batch_documents=batch_documents)
    assert (tokenizer.texts, passes(session)) == (N, N)
    assert [one.id for one in report.rejected] == [str(i) for i in bad]
    assert report.rejections == ({"model output": len(bad)} if bad else {})
    for one in report.rejected:
        assert one.reason.startswith("the model returned NaN or infinity for this text (4 tokens): leave the text out")
    stored_as(store, embed, [one for i, one in enumerate(given) if i not in bad])


def test_both_kinds_in_one_batch(tiny_bundle):
    embed, session, tokenizer = make(tiny_bundle, max_length=16, on_truncate="error")
    session._poison = token(embed, "vector")
    tokenizer.texts = 0
    given = documents((), "")
    for i, text in {2: LONG, 5: "the vector", 6: LONG, 39: "a vector"}.items():
        given[i] = Document(str(i), text)
    store = MemoryStore(embed.identity)
    report = ingest(given, embed, store, batch_documents=N)
    assert (tokenizer.texts, passes(session)) == (N, N - 2)
    assert {one.id: one.kind for one in report.rejected} == {
        "2": "not encodable",
        "5": "model output",
        "6": "not encodable",
        "39": "model output",
    }
    stored_as(store, embed, [one for i, one in enumerate(given) if i not in (2, 5, 6, 39)])


def test_the_model_is_asked_no_further_once_a_text_failed_that_nobody_sets_aside(tiny_bundle):
    embed, session, _ = make(tiny_bundle, batch_tokens=8)
    session._poison = token(embed, "vector")
    given = [Document("bad", "the vector " * 10), *documents((), "")]
    with pytest.raises(ModelOutputError) as caught:
        HybridIndex(embed, MemoryStore(embed.identity)).add(given, batch_size=100)
    assert caught.value.index == 0
    assert len(session.shapes) == 1, "the longest text comes first"
    embed, session, tokenizer = make(tiny_bundle, max_length=16, on_truncate="error")
    with pytest.raises(TruncationError):
        embed.encode_documents([LONG] * N)
    assert (tokenizer.texts, passes(session)) == (N, 0)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_another_embedding_function_is_asked_again_for_what_is_good_alone(bad):
    embed = HashEmbed()
    store = MemoryStore(embed.identity)
    report = ingest(documents(bad, "poison"), embed, store, batch_documents=N)
    assert (report.documents, len(report.rejected)) == (N - len(bad), len(bad))
    assert len(embed.encoded) == N - len(bad)


class CountingStore(MemoryStore):
    """Counts documents that it is handed."""

    def __init__(self, identity):
        super().__init__(identity)
        self.handed = 0

    def upsert(self, documents, embeddings):
        self.handed += len(documents)
        super().upsert(documents, embeddings)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_vectors_that_a_store_refuses_do_not_hold_the_others_up(bad):
    store = CountingStore(HashEmbed().identity)
    report = ingest(documents(bad, "nan"), HashEmbed(), store, batch_documents=N)
    assert (report.documents, len(report.rejected)) == (N - len(bad), len(bad))
    assert store.handed <= 6 * N, "the logarithm of N at most, and not N, times N"
