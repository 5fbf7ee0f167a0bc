"""A stored document is unchanged if text, fields and encoding are the same, stored by an ingest or by HybridIndex."""

from __future__ import annotations

import pytest

from m3_vdb import Document, HybridIndex, LongDocuments, M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY
from m3_vdb.ingest import SourceCollection, ingest
from m3_vdb.stores import MemoryStore, open_store, transfer

TEXT = "the vector search und die Suche " * 3
DOCUMENTS = [
    Document("a", TEXT, payload={"n": 1}),
    Document("b", "one", "the"),
    Document("c", TEXT, payload={"m": [1.5]}),
]
ENCODINGS = {
    "whole": ({}, DEFAULT_POLICY),
    "max_length": ({"max_length": 12}, DEFAULT_POLICY),
    "shorter": ({"max_length": 10}, DEFAULT_POLICY),
    "pooled": ({}, LongDocuments(plan="pool", max_rows=8)),
    "cut": ({}, LongDocuments(plan="truncate", max_rows=8)),
    "halved": ({}, LongDocuments(pool_factor=2)),
    "both": ({"max_length": 12}, LongDocuments(plan="pool", pool_factor=2, max_rows=5)),
    "split": ({}, LongDocuments(plan="split", max_rows=10, overlap=2)),
    "split short": ({"max_length": 12}, LongDocuments(plan="split")),
}


@pytest.fixture(scope="module")
def embeds(tiny_bundle):
    made = {}

    def make(**options) -> M3EmbeddingFunction:
        key = repr(options)
        if key not in made:
            made[key] = M3EmbeddingFunction(tiny_bundle, threads=1, on_truncate="ignore", **options)
        return made[key]

    return make


@pytest.fixture(params=["memory", "edge", "milvus-lite"])
def opened(request, tmp_path, embeds):
    url = {"memory": "memory://", "edge": f"{tmp_path}/x.qdrant", "milvus-lite": f"{tmp_path}/x.milvus.db"}
    with open_store(url[request.param], identity=embeds().identity) as store:
        yield store


def encoded(documents, embed, store, plan) -> int:
    """How many documents, or passages, an ingest encodes."""
    report = ingest(documents, embed, store, long_documents=plan)
    assert report.rejected_count == 0
    assert report.documents + report.unchanged >= len(documents)
    return report.documents


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_an_index_added_an_ingest_leaves_and_the_other_way_round(opened, embeds, name):
    options, plan = ENCODINGS[name]
    embed = embeds(**options)
    index = HybridIndex(embed, opened, long_documents=plan)
    index.add(DOCUMENTS)
    assert encoded(DOCUMENTS, embed, opened, plan) == 0
    assert index.get(["a", "b", "c"]) == DOCUMENTS
    opened.delete([document.id for batch, _ in opened.scroll() for document in batch])
    assert encoded(DOCUMENTS, embed, opened, plan) == opened.count()
    index.add(DOCUMENTS)
    assert encoded(DOCUMENTS, embed, opened, plan) == 0
    changed = [Document("a", TEXT, payload={"n": 2}), *DOCUMENTS[1:]]
    assert 0 < encoded(changed, embed, opened, plan) < len(DOCUMENTS) + opened.count()


@pytest.mark.parametrize("added", ENCODINGS)
def test_another_encoding_encodes_again_and_gives_the_vectors_of_a_fresh_collection(embeds, added):
    options, plan = ENCODINGS[added]
    for name, (other_options, other_plan) in ENCODINGS.items():
        with MemoryStore(embeds().identity) as store, MemoryStore(embeds().identity) as fresh:
            HybridIndex(embeds(**options), store, long_documents=plan).add(DOCUMENTS)
            if name != added:
                assert encoded(DOCUMENTS, embeds(**other_options), store, other_plan) > 0
            encoded(DOCUMENTS, embeds(**other_options), fresh, other_plan)
            found, expected = (
                {d.id: e for batch, vectors in s.scroll() for d, e in zip(batch, vectors, strict=True)}
                for s in (store, fresh)
            )
            assert found.keys() == expected.keys()
            for id, embedding in expected.items():
                assert found[id].dense == pytest.approx(embedding.dense, abs=1e-5)
                assert found[id].multi_vector.shape == embedding.multi_vector.shape


def test_moving_a_collection_keeps_how_it_was_encoded(opened, embeds, tmp_path):
    embed = embeds(max_length=12)
    HybridIndex(embed, opened).add(DOCUMENTS)
    transfer.export_parquet(opened, tmp_path / "x.parquet")
    for move in (lambda to: transfer.copy(opened, to), lambda to: transfer.import_parquet(tmp_path / "x.parquet", to)):
        with MemoryStore(embed.identity) as moved:
            move(moved)
            assert encoded(DOCUMENTS, embed, moved, DEFAULT_POLICY) == 0
            assert encoded(DOCUMENTS, embeds(), moved, DEFAULT_POLICY) == 3


def test_a_collection_encoded_again_from_another_says_how_it_was(embeds, tmp_path):
    url = str(tmp_path / "old.qdrant")
    split = LongDocuments(plan="split", max_rows=10)
    with HybridIndex(embeds(), open_store(url, identity=embeds().identity), long_documents=split) as index:
        index.add(DOCUMENTS)
        passages = index.count()
    embed = embeds(max_length=12)
    with MemoryStore(embed.identity) as store:
        report = ingest(SourceCollection(url), embed, store, long_documents=split)
        assert (report.documents, report.rejected_count) == (passages, 0)
        assert ingest(SourceCollection(url), embed, store, long_documents=split).unchanged == passages
        assert ingest(SourceCollection(url), embeds(), store, long_documents=split).documents == passages
        assert HybridIndex(embed, store).get(["a", "b", "c"]) == DOCUMENTS


def test_of_a_document_that_is_replaced_nothing_of_the_first_version_is_left(opened, embeds):
    split = LongDocuments(plan="split", max_rows=10)
    index = HybridIndex(embeds(), opened, long_documents=split)
    for first, last in ((TEXT * 3, TEXT), (TEXT, TEXT * 3), (TEXT, "short"), ("short", TEXT)):
        index.add([Document("x", first), Document("y", "short")])
        index.add([Document("x", last)])
        assert index.get(["x", "y"]) == [Document("x", last), Document("y", "short")]
        index.delete(["x", "y"])
        assert opened.count() == 0
