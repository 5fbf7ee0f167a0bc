"""Filling a store: what is there stays, what is missing or changed is encoded, what is foreign is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from m3_vdb.errors import CollectionMismatchError, DocumentError, StoreRequestError
from m3_vdb.evaluation.search import fill
from m3_vdb.ingest.pipeline import BATCH_DOCUMENTS
from m3_vdb.stores import MemoryStore, open_store
from m3_vdb.types import Document
from tests.evaluation._toy import Counting, documents, toy_embed
from tests.serving._fakes import embed_with


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(toy_embed().identity)


def many(n: int) -> list[Document]:
    return [Document(f"d{i}", f"text {i}") for i in range(n)]


def filled(texts, store, embed=None):
    found = fill(texts, embed or toy_embed(), store)
    return found.documents, found.reused, found.report.documents


def test_an_empty_store_takes_everything_and_a_full_one_nothing(store):
    assert filled(documents(), store) == (76, 0, 76)
    assert filled(documents(), store) == (76, 76, 0)
    assert store.count() == 76


def test_half_of_it_was_there(store):
    texts = documents()
    fill(texts[:30], toy_embed(), store)
    assert filled(texts, store) == (76, 30, 46)
    assert [one.text for one in store.get([text.id for text in texts])] == [text.text for text in texts]


def test_a_store_that_fails_in_the_middle_goes_on_where_it_stopped(store):
    texts, calls = many(3 * BATCH_DOCUMENTS), Counter()

    class Breaking(Counting):
        def upsert(self, *batch):
            if self.calls["stored"] >= BATCH_DOCUMENTS:
                raise StoreRequestError("no space")
            super().upsert(*batch)

    with pytest.raises(StoreRequestError):
        fill(texts, toy_embed(), Breaking(store, calls=calls))
    assert filled(texts, store) == (3 * BATCH_DOCUMENTS, BATCH_DOCUMENTS, 2 * BATCH_DOCUMENTS)


@pytest.mark.parametrize("change", [{"text": "other"}, {"title": "other"}])
def test_a_changed_document_is_encoded_again(store, change):
    texts = documents(5)
    fill(texts, toy_embed(), store)
    texts[3] = replace(texts[3], **change)
    calls: Counter[str] = Counter()
    assert filled(texts, Counting(store, calls=calls)) == (10, 9, 1)
    assert calls["stored"] == 1
    (found,) = store.get([texts[3].id])
    assert (found.title, found.text) == (texts[3].title, texts[3].text)


def test_another_maximum_length_encodes_everything_again(store):
    fill(documents(5), toy_embed(), store)
    assert filled(documents(5), store, toy_embed(max_length=32)) == (10, 0, 10)


def test_documents_that_somebody_else_stored_are_refused(store):
    fill(documents(5), toy_embed(), store)
    with pytest.raises(CollectionMismatchError, match="holds 10 documents and the collection 8"):
        fill(documents(4), toy_embed(), store)


def test_another_model_is_refused(tmp_path):
    with open_store(str(tmp_path / "a.qdrant"), identity=toy_embed().identity) as store:
        fill(documents(2), toy_embed(), store)
    with pytest.raises(CollectionMismatchError, match="holds vectors of model"):
        open_store(str(tmp_path / "a.qdrant"), identity=toy_embed(mcls_every=256).identity)


def test_a_folder_gives_back_every_text_as_it_was(tmp_path):
    """Otherwise the document would be encoded again at every call."""
    odd = [
        Document("1", "a\0b\r\n\u2028 \x85"),
        Document("2", ""),
        Document("3", "\ufeff🙂", title=" t "),
        Document(" 4 ", "e\u0301é"),
    ]
    for expected in ((4, 0, 4), (4, 4, 0)):
        with open_store(str(tmp_path / "a.qdrant"), identity=toy_embed().identity) as store:
            assert filled(odd, store) == expected


class Picky(MemoryStore):
    def upsert(self, batch, embeddings):
        for index, one in enumerate(batch):
            if "bad" in one.text:
                raise DocumentError(f"{one.id} is refused", index=index)
        super().upsert(batch, embeddings)


def test_a_document_that_the_store_refuses_costs_itself_alone():
    texts = [*many(5), Document("x", "bad one"), *many(9)[5:], Document("y", "bad two")]
    store = Picky(toy_embed().identity)
    for reused, stored in ((0, 9), (9, 0)):
        found = fill(texts, toy_embed(), store)
        assert (found.documents, found.reused, found.report.documents) == (11, reused, stored)
        assert [(one.where, one.reason) for one in found.report.rejected] == [
            ("x", "x is refused"),
            ("y", "y is refused"),
        ]
    assert store.count() == 9


def test_a_document_that_cannot_be_encoded_costs_itself_alone(store):
    strict = embed_with(toy_embed().session, max_length=16, on_truncate="error")
    texts = [Document("short", "one word"), Document("long", "word " * 50)]
    found = fill(texts, strict, store)
    assert [one.where for one in found.report.rejected] == ["long"]
    assert store.count() == 1


def test_a_lone_surrogate_is_rejected_and_nothing_else_happens(store):
    found = fill([Document("a", "\ud800"), Document("b", "text")], toy_embed(), store)
    assert [one.where for one in found.report.rejected] == ["a"]


def test_every_change_changes_the_digest(store):
    texts = documents(3)

    def digest(changed, embed=None):
        return fill(changed, embed or toy_embed(), MemoryStore(toy_embed().identity)).digest

    first = digest(texts)
    assert first == digest(list(texts))
    one = texts[0]
    variants = [
        [replace(one, text=f"{one.text}."), *texts[1:]],
        [replace(one, title="t"), *texts[1:]],
        [replace(one, id="other"), *texts[1:]],
        texts[1:],
        texts[::-1],
        [Document("a", "bc")],
        [Document("ab", "c")],
        [Document("a", "c", title="b")],
    ]
    digests = [digest(variant) for variant in variants] + [digest(texts, toy_embed(max_length=32))]
    assert len({first, *digests}) == len(digests) + 1


def test_progress_rises_to_the_number_of_documents(store):
    texts = many(5 * BATCH_DOCUMENTS + 3)
    fill(texts[::2], toy_embed(), store)
    told: list[int] = []
    fill(texts, toy_embed(), store, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(texts)
    assert len(told) >= 3
    told.clear()
    fill(texts, toy_embed(), store, progress=told.append)
    assert told[:2] == [BATCH_DOCUMENTS, 2 * BATCH_DOCUMENTS]


def test_progress_never_counts_what_is_not_stored_yet(store):
    """Half a batch to encode, then batches that are there: nothing of it may be called done twice."""
    texts = many(4 * BATCH_DOCUMENTS)
    fill(texts[BATCH_DOCUMENTS // 2 :], toy_embed(), store)
    done: list[tuple[int, int]] = []
    fill(texts, toy_embed(), store, progress=lambda n: done.append((n, store.count())))
    assert all(told <= held for told, held in done), done
