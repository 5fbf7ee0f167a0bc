"""Reading a store as a whole, and moving a collection without encoding again."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from m3_vdb.errors import CollectionMismatchError, ConfigError, MissingExtraError
from m3_vdb.stores import CollectionOptions, MemoryStore, open_store
from m3_vdb.stores.transfer import copy, export_parquet, import_parquet, read_identity
from m3_vdb.types import Document
from tests.stores._corpus import IDENTITY, SHARED, make_documents, make_embeddings, make_queries

DOCUMENTS = SHARED


def everything(store, batch):
    """Id → (document, embedding), and the sizes of the batches."""
    parts = list(store.scroll(batch=batch))
    found = {d.id: (d, e) for documents, packed in parts for d, e in zip(documents, packed, strict=True)}
    return found, [len(documents) for documents, _ in parts]


def same(one, other):
    """Bit for bit: an engine neither re-orders nor rounds."""
    return (
        np.array_equal(one.dense, other.dense)
        and np.array_equal(one.sparse.ids, other.sparse.ids)
        and np.array_equal(one.sparse.weights, other.sparse.weights)
        and np.array_equal(one.multi_vector, other.multi_vector)
    )


@pytest.fixture(scope="module")
def filled(shared):
    return shared, list(make_embeddings(DOCUMENTS))


@pytest.mark.parametrize("batch", [1, 32, 70, 500])
def test_scroll_gives_every_document_once_with_its_vectors(filled, batch):
    store, embeddings = filled
    found, sizes = everything(store, batch)
    assert sum(sizes) == len(found) == DOCUMENTS
    assert max(sizes) <= batch
    for i, document in enumerate(make_documents(DOCUMENTS)):
        kept, embedding = found[document.id]
        assert kept == document
        assert same(embedding, embeddings[i])


def test_scroll_of_an_empty_store_and_of_nothing_at_a_time(store):
    assert list(store.scroll()) == []
    with pytest.raises(ConfigError, match="batch=0"):
        store.scroll(batch=0)


def test_scroll_packs_as_the_model_does(filled):
    store, _ = filled
    for documents, embeddings in store.scroll(batch=20):
        assert len(embeddings) == len(documents) == len(embeddings.token_counts)
        assert embeddings.token_counts.tolist() == (np.diff(embeddings.multi_vector_offsets) + 1).tolist()
        MemoryStore(IDENTITY).upsert(documents, embeddings)  # the checks of every store pass


def test_a_copy_answers_as_the_original(filled, tmp_path):
    store, _ = filled
    query = make_queries(1)[0]
    with open_store(str(tmp_path / "other.qdrant"), identity=IDENTITY) as target:
        assert copy(store, target, batch=16) == DOCUMENTS
        assert dict(target.rank(query, limit=50)) == pytest.approx(dict(store.rank(query, limit=50)), rel=1e-5)


def test_parquet_and_back_is_bit_for_bit(tmp_path):
    payload = {"ünï": ["x", 1, 1.5, None, {"b": False}], "big": 2**63 - 1}
    documents = [*make_documents(DOCUMENTS), Document("odd/日本\x00", "t\n", "T", payload)]
    source, target = MemoryStore(IDENTITY), MemoryStore(IDENTITY)
    source.upsert(documents, make_embeddings(DOCUMENTS + 1))
    path = tmp_path / "notes.parquet"
    assert export_parquet(source, path, batch=32) == DOCUMENTS + 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.parquet"]
    assert read_identity(path) == IDENTITY
    assert import_parquet(path, target, batch=9) == DOCUMENTS + 1
    before, after = everything(source, 100)[0], everything(target, 100)[0]
    assert before.keys() == after.keys()
    assert all(before[i][0] == after[i][0] and same(before[i][1], after[i][1]) for i in before)


def test_an_empty_collection_makes_an_empty_file(tmp_path):
    assert export_parquet(MemoryStore(IDENTITY), tmp_path / "none.parquet") == 0
    assert import_parquet(tmp_path / "none.parquet", MemoryStore(IDENTITY)) == 0


def test_documents_without_tokens_travel_too(tmp_path):
    bare = dataclasses.replace(
        make_embeddings(3),
        sparse_ids=np.empty(0, np.int32), sparse_weights=np.empty(0, np.float32), sparse_offsets=np.zeros(4, np.int64),
    )  # fmt: skip
    source, target = MemoryStore(IDENTITY), MemoryStore(IDENTITY)
    source.upsert(make_documents(3), bare)
    export_parquet(source, tmp_path / "bare.parquet")
    import_parquet(tmp_path / "bare.parquet", target)
    assert all(not len(embedding.sparse.ids) for _, embedding in everything(target, 10)[0].values())


def test_another_model_is_refused(tmp_path):
    other = MemoryStore(dataclasses.replace(IDENTITY, fingerprint="beef"))
    source = MemoryStore(IDENTITY)
    source.upsert(make_documents(3), make_embeddings(3))
    export_parquet(source, tmp_path / "a.parquet")
    with pytest.raises(CollectionMismatchError, match="beef"):
        import_parquet(tmp_path / "a.parquet", other)
    with pytest.raises(CollectionMismatchError, match="beef"):
        copy(source, other)
    assert other.count() == 0


def test_files_that_are_no_export(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "text.parquet").write_text("no")
    parquet.write_table(pa.table({"id": ["a"]}), tmp_path / "foreign.parquet")
    with pytest.raises(CollectionMismatchError, match="not a Parquet file"):
        import_parquet(tmp_path / "text.parquet", MemoryStore(IDENTITY))
    with pytest.raises(CollectionMismatchError, match="which model"):
        import_parquet(tmp_path / "foreign.parquet", MemoryStore(IDENTITY))
    with pytest.raises(FileNotFoundError):
        import_parquet(tmp_path / "missing.parquet", MemoryStore(IDENTITY))


def test_a_failed_export_leaves_the_old_file(tmp_path):
    source, path = MemoryStore(IDENTITY), tmp_path / "a.parquet"
    path.write_text("old")
    source.upsert(make_documents(3), make_embeddings(3))

    def broken(batch, condition):
        yield from MemoryStore._documents(source, batch, condition)
        raise RuntimeError("the store went away")

    source._documents = broken
    with pytest.raises(RuntimeError):
        export_parquet(source, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"m3-vdb\[parquet\]"):
        export_parquet(MemoryStore(IDENTITY), tmp_path / "a.parquet")


def test_rounded_vectors_come_back_rounded(tmp_path):
    embeddings = make_embeddings(5)
    options = CollectionOptions(storage="quarter")
    with open_store(str(tmp_path / "q.qdrant"), identity=IDENTITY, options=options) as store:
        store.upsert(make_documents(5), embeddings)
        found = everything(store, 10)[0]
    error = max(np.abs(found[f"d{i}"][1].multi_vector - e.multi_vector).max() for i, e in enumerate(embeddings))
    assert 0 < error < 0.02
