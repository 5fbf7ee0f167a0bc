"""Reading a collection back: pages bounded by the size of the vectors, and filters."""

from __future__ import annotations

import gc
import itertools
import weakref

import httpx
import numpy as np
import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import matches
from m3_vdb.stores import open_store, reading
from m3_vdb.stores.reading import read_pages
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, SHARED, make_documents, make_embeddings

WIDTH = IDENTITY.multi_vector_dim
ROWS = 100
"""Of a page, in these tests."""


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(reading, "PAGE_NUMBERS", ROWS * WIDTH)


def corpus(n, *, characters):
    """Documents and embeddings; the number of characters for each row is given."""
    embeddings = make_embeddings(n)
    rows = np.diff(embeddings.multi_vector_offsets)
    return [Document(f"d{i}", "x" * int(characters * rows[i]) or "x") for i in range(n)], embeddings


def rows_of(page):
    return np.diff(page[1].multi_vector_offsets)


def test_pages_are_bounded_by_the_size_of_their_vectors(store, small_pages):
    documents, embeddings = corpus(40, characters=1)
    store.upsert(documents, embeddings)
    pages = list(store.scroll())
    assert sorted(one.id for page, _ in pages for one in page) == sorted(one.id for one in documents)
    assert all(rows_of(page).sum() <= ROWS for page in pages)
    assert any(len(page) > 1 for page, _ in pages)


@pytest.mark.parametrize("characters", [4, 1, 0])
def test_an_answer_of_a_server_has_no_more_bytes_than_a_page(characters, small_pages):
    """Also where the vectors are not those of the texts, and no text says how many rows there are."""
    stub = RestStub()
    documents, embeddings = corpus(60, characters=characters)
    with open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY) as store:
        store.upsert(documents, embeddings)
        stub.sent.clear()
        assert sum(len(page) for page, _ in store.scroll()) == 60
    largest_row = 25 * WIDTH  # bytes of JSON
    assert max(stub.sent) < 1.3 * ROWS * largest_row + 60 * 250  # 60 documents without vectors are one answer
    stub.close()


def test_an_answer_is_freed_without_a_garbage_collection(monkeypatch):
    """Answers have megabytes, and a full collection comes seldom."""
    stub, answers = RestStub(), []
    with open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY) as store:
        store.upsert(make_documents(3), make_embeddings(3))
        send = httpx.Client.send

        def watched(self, request, **options):
            response = send(self, request, **options)
            answers.append(weakref.ref(response))
            return response

        monkeypatch.setattr(httpx.Client, "send", watched)
        gc.disable()
        try:
            list(store.scroll())
            assert answers
            assert not any(answer() for answer in answers)
        finally:
            gc.enable()
    stub.close()


def test_long_documents_after_many_short_ones(small_pages):
    lengths = [1] * 200 + [90] * 5 + [1000] * 2 + [1] * 50
    documents = [Document(str(i), "x" * length) for i, length in enumerate(lengths)]
    rows = dict(zip((one.id for one in documents), lengths, strict=True))

    def read(ids):
        (one,) = make_embeddings(1)
        return [(documents[int(i)], _with_rows(one, rows[i])) for i in ids]

    pages = list(read_pages([documents], read, batch=64, width=WIDTH))
    assert [one for page, _ in pages for one in page] == documents
    assert all(rows_of(page).sum() <= ROWS or len(page[0]) == 1 for page in pages)
    assert 8 <= len(pages) <= 25


def test_nothing_is_lost_or_read_twice_when_documents_are_deleted_meanwhile(store):
    store.upsert(make_documents(20), make_embeddings(20))
    found = store.scroll()
    first, _ = next(found)
    store.delete([f"d{i}" for i in range(20) if f"d{i}" != first[0].id])
    assert [one.id for one in first] == [first[0].id]
    assert list(found) == []


FILTERS = [
    None,
    {},
    {"lang": "de"},
    {"year": {"$gte": 2003}, "lang": {"$ne": "en"}},
    {"$or": [{"tags": "t3"}, {"draft": True}]},
    {"missing": 1},
]


def test_filters_choose_the_documents_that_query_and_count_see(shared):
    everything = {one.id: one for one in make_documents(SHARED)}
    for filter, batch in itertools.product(FILTERS, (7, 256)):
        expected = {i for i, one in everything.items() if matches(one.payload, parse_filter(filter))}
        with_vectors = [one for page, _ in shared.scroll(batch=batch, filter=filter) for one in page]
        without = [one for page in shared.documents(batch=batch, filter=filter) for one in page]
        for found in (with_vectors, without):
            assert len(found) == len(expected) == shared.count(filter), filter
            assert all(everything[one.id] == one and one.id in expected for one in found)


def test_a_filter_or_a_batch_that_cannot_be_used_is_refused_at_once(shared):
    for method in (shared.scroll, shared.documents):
        with pytest.raises(ConfigError, match="'year'"):
            method(filter={"year": {"$gt": "2000"}})
        with pytest.raises(ConfigError, match="batch=0"):
            method(batch=0)


def _with_rows(embedding, rows):
    return type(embedding)(embedding.dense, embedding.sparse, np.ones((rows, WIDTH), np.float32))
