"""What a collection holds, on every store: counts are exact, sizes measured or named as estimates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from m3_vdb.stores import CollectionOptions, describe, open_store
from m3_vdb.types import Passage
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


def test_documents_passages_languages_and_sizes(backend):
    first, second, *rest = make_documents(40)
    split = [
        replace(one, id=id, passage=Passage("p", number, 2, 0, 5))
        for number, (one, id) in enumerate([(first, "p"), (second, "p¶2")], start=1)
    ]
    with backend.open(IDENTITY) as store:
        store.upsert([*split, *rest], make_embeddings(40))
        found = describe(store)
        assert (found.model, found.passages, found.documents) == (IDENTITY, 40, 39)
        assert found.languages == {name: store.count({"lang": name}) for name in ("de", "en", "fr")}
        assert sum(found.languages.values()) == 40
        assert {"text and payload", "dense", "sparse", "multi_vector"} <= found.bytes.keys()
        floats = sum(one.multi_vector.size for one in make_embeddings(32))
        if found.bytes_are == "on disk":
            assert found.bytes["multi_vector"] >= 4 * floats
            assert sum(found.bytes.values()) <= found.disk_bytes
        else:
            assert found.bytes_are == "estimated from 32 documents"
            assert found.bytes["dense"] == 40 * 4 * 64
            mean = found.bytes["multi_vector"] / (4 * floats * 40 / 32)
            assert mean == pytest.approx(1, abs=0.3)  # any 32 of the documents
        assert found.index
        assert found.engine["name"]
        assert found.options["bm25"] is False
        assert store.count() == 40
        assert describe(store) == found


def test_an_empty_collection(backend):
    with backend.open(IDENTITY) as store:
        found = describe(store)
    assert (found.documents, found.passages, dict(found.languages)) == (0, 0, {})


def test_options_of_a_folder(tmp_path):
    options = CollectionOptions(storage="half", indexes={"year": "integer"}, bm25=True)
    with open_store(tmp_path / "c.qdrant", IDENTITY, options=options) as store:
        store.upsert(make_documents(3), make_embeddings(3))
        told = describe(store)
    assert told.options["bm25"] is True
    assert told.options["indexes"] == {"year": "integer"}
    assert told.options["storage"] == "half"


def test_the_last_run_is_noted(backend, tmp_path):
    run = {"command": "sync", "source": "notes", "documents": 3, "rejected": 0, "time": "2026-11-29T10:00:00+00:00"}
    with backend.open(IDENTITY) as store:
        assert describe(store).last_run == {}
        store.note_run({"command": "ingest"})
        store.note_run(run)
        assert describe(store).last_run == run
    if backend.keeps:
        with backend.open(IDENTITY, read_only=True) as store:
            store.note_run({})
            assert describe(store).last_run == run
