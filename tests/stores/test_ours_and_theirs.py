"""What is the user's – payload fields, ids, files, collections – never collides with what m3-vdb keeps for itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3_vdb import Document, HybridIndex, LongDocuments, M3EmbeddingFunction
from m3_vdb.errors import CollectionMismatchError, DocumentError, M3Error
from m3_vdb.ingest import ingest
from m3_vdb.stores import MemoryStore, open_store, transfer
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings
from tests.stores.test_refusals import RESERVED

NAMES = ("m3", "m3_passage", "m3_encoding", "passage", "encoding", "id", "title", "text", "payload", "dense", "key",
         "terms", "numbers", "tokens", "$meta")  # fmt: skip
"""Fields that a program may keep for itself."""
VALUES = {
    "object": {"page": 3},
    "text": "chapter 2",
    "number": 2,
    "null": None,
    "list": [1, 2],
    "another document's": {"document": "other", "number": 1, "of": 3, "start": 0, "stop": 5},
    "wrong types": {"document": 1, "number": "x", "of": None, "start": 0, "stop": 5},
    "marks": {"passage": [1, 2, 0, 5], "encoding": "max_length=3"},
    "an encoding": "max_length=12",
}
SPLIT = LongDocuments(plan="split", max_rows=30)
LONG = "the vector search und die Suche. " * 24


@pytest.fixture(scope="module")
def embed(tiny_bundle) -> M3EmbeddingFunction:
    return M3EmbeddingFunction(tiny_bundle, threads=1, on_truncate="ignore")


@pytest.fixture
def split(backend, embed):
    """An index that splits, over every store."""
    with HybridIndex(embed, backend.open(embed.identity), long_documents=SPLIT) as index:
        yield index


def test_no_payload_field_is_reserved(split, embed):
    documents = [
        Document(f"{name}: {kind}", "a document", payload={name: value, "n": 1})
        for name in NAMES
        for kind, value in VALUES.items()
        if name.startswith("m3") or kind == "object"
    ]
    forged = {"document": "mine", "number": 1, "of": 3, "start": 0, "stop": len("a document")}
    documents.append(Document("mine", "a document", payload={"m3_passage": forged, "m3_encoding": "max_length=12"}))
    others = [Document("other", "the token"), Document("other¶", "the score", payload={"m3_passage": "x"})]
    split.add([*documents, *others])
    for document in (*documents, *others):
        (found,) = split.get([document.id])
        assert found == document
        assert json.dumps(found.payload, sort_keys=True) == json.dumps(dict(document.payload), sort_keys=True)
    hits = split.query("a document", limit=200, candidates=200)
    assert {hit.document.id: hit.document.payload for hit in hits} == {
        document.id: document.payload for document in (*documents, *others)
    }
    assert all(hit.passage is None for hit in hits)
    split.delete([document.id for document in documents])
    assert {hit.document.id for hit in split.query("a document", limit=200)} == {"other", "other¶"}


def test_passages_keep_and_filter_their_documents_fields(split):
    payload = {"m3_passage": "chapter 2", "m3": {"passage": [1, 1, 0, 3]}, "m3_encoding": ["x"], "n": 7}
    book, plain = Document("book", LONG, "the title", payload), Document("plain", LONG)
    split.add([book, plain, Document("short", "the vector")])
    assert split.count() > 8
    assert split.get(["book", "plain"]) == [book, plain]

    def found(condition) -> set[str]:
        return {hit.document.id for hit in split.query("vector search", limit=50, filter=condition)}

    assert found({"m3_passage": "chapter 2"}) == found({"m3_encoding": "x"}) == {"book"}
    for name in ("m3_passage", "m3_encoding", "m3"):
        assert found({name: {"$exists": True}}) == {"book"}
        assert found({name: {"$exists": False}}) == {"plain", "short"}
    for name in ("passage", "encoding", "document", "number", "of", "start", "stop"):
        assert found({name: {"$exists": True}}) == set()
    for hit in split.query("vector search", limit=50):
        assert hit.document.payload == (payload if hit.document.id == "book" else {})
        assert (hit.passage is None) == (hit.document.id == "short")


@pytest.mark.parametrize("plan", ["error", "pool", "truncate", "split"])
def test_ids_that_passages_have_are_refused_in_every_plan(embed, plan):
    store = MemoryStore(embed.identity)
    index = HybridIndex(embed, store, long_documents=LongDocuments(plan=plan))
    for id in RESERVED:
        with pytest.raises(DocumentError, match=f"{id}.*use another id"):
            index.add([Document("good", "text"), Document(id, "text")])
    assert store.count() == 0
    documents = [*(Document(id, "text") for id in RESERVED), Document("good", "text"), Document("a ¶ b", "text")]
    report = ingest(documents, embed, store, long_documents=LongDocuments(plan=plan))
    assert report.documents == 2
    assert [one.kind for one in report.rejected] == ["not storable"] * len(RESERVED)
    assert all("use another id" in one.reason for one in report.rejected)


def test_a_passage_is_not_a_document(split):
    book = Document("book", LONG)
    split.add([book, Document("short", "text")])
    before = split.count()
    assert split.get(["book¶2", "book¶3", "book¶99", "short"]) == [Document("short", "text")]
    split.delete(["book¶2", "book¶3"])
    assert split.count() == before
    assert split.get(["book"]) == [book]


def test_ids_that_only_look_alike_stay_apart(split):
    ids = [
        "cafe\u0301",
        "café",
        "Café",
        "CAFÉ",
        "café ",
        " café",
        "café\0",
        "book",
        "book¶",
        "book¶x",
        "¶2x",
        "book ¶ 2",
    ]
    documents = [Document(id, LONG if id == "book" else f"text {i}") for i, id in enumerate(ids)]
    split.add(documents)
    assert split.get(ids) == documents
    split.delete(["book"])
    assert split.get(ids) == [document for document in documents if document.id != "book"]
    split.delete(["cafe\u0301", "Café"])
    assert [document.id for document in split.get(ids)] == [
        id for id in ids if id not in ("cafe\u0301", "Café", "book")
    ]


def test_other_passages_replace_those_from_before(split, embed):
    bystander = Document("book¶", LONG)
    split.add([Document("book", LONG * 2), bystander])
    others = split.count()
    for text in (LONG, LONG * 2, "short", LONG):
        split.add([Document("book", text)])
        assert split.get(["book", "book¶"]) == [Document("book", text), bystander]
        ids = {hit.document.id for hit in split.query("vector search", limit=10)}
        assert ids == {"book", "book¶"}
    assert split.count() < others
    split.delete(["book"])
    assert split.get(["book", "book¶"]) == [bystander]
    split.delete(["book¶"])
    assert split.count() == 0


def test_copies_and_exports_keep_what_is_ours_and_what_is_theirs(split, embed, tmp_path):
    documents = [
        Document("book", LONG, payload={"m3_passage": {"page": 3}, "m3_encoding": "max_length=12"}),
        Document("short", "the vector", "a title", {"m3": 1}),
    ]
    split.add(documents)
    store = split._store
    transfer.export_parquet(store, tmp_path / "x.parquet")
    for move in (lambda target: transfer.copy(store, target),
                 lambda target: transfer.import_parquet(tmp_path / "x.parquet", target)):  # fmt: skip
        with HybridIndex(embed, MemoryStore(embed.identity)) as copied:
            assert move(copied._store) == store.count()
            assert copied.get(["book", "short"]) == documents
            assert {hit.document.id for hit in copied.query("vector")} == {"book", "short"}
            report = ingest(documents, embed, copied._store, long_documents=SPLIT)
            assert (report.documents, report.unchanged) == (0, store.count())
            copied.delete(["book"])
            assert copied.count() == 1


# --- files and collections


FOREIGN = {
    "of files": {"holiday.jpg": b"\xff\xd8"},
    "with an m3.json": {"m3.json": b'{"mine": 1}'},
    "with a name like ours": {"m3.notes.md": b"# M3"},
    "with an m3.json that is text": {"m3.json": b"hello"},
    "of folders": {"shard/a.txt": b"x", "collections.txt": b"y"},
}


@pytest.mark.parametrize("name", ["theirs.qdrant", "theirs.milvus.db"])
@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("create", [True, False])
def test_a_folder_of_the_users_is_left_as_it_is(tmp_path, name, files, create):
    folder = tmp_path / name
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    with pytest.raises(M3Error) as caught:
        open_store(str(folder), identity=IDENTITY, create=create)
    assert str(folder) in str(caught.value)
    left = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert left == files


@pytest.mark.parametrize("metadata", [None, {}, {"m3": "yes"}, {"m3": ["layout"]}, {"m3": {"owner": "me"}}], ids=str)
def test_a_collection_of_the_users_on_a_qdrant_server_is_left_as_it_is(metadata):
    from qdrant_client import QdrantClient, models

    from benchmarks.stubs.qdrant_rest_stub import RestStub

    stub = RestStub()
    try:
        client = QdrantClient(f"http://{stub.address}", check_compatibility=False)
        vectors = {"dense": models.VectorParams(size=4, distance=models.Distance.DOT)}
        client.create_collection("theirs", vectors_config=vectors, metadata=metadata)
        points = [models.PointStruct(id=1, payload={"m3": "mine"}, vector={"dense": [0.5] * 4})]
        client.upsert("theirs", points)
        for create in (True, False):
            with pytest.raises(CollectionMismatchError, match="theirs"):
                open_store(f"qdrant://{stub.address}/theirs", identity=IDENTITY, create=create)
        assert client.count("theirs").count == 1
        assert client.retrieve("theirs", [1])[0].payload == {"m3": "mine"}
        assert (client.get_collection("theirs").config.metadata or {}) == (metadata or {})
        client.close()
    finally:
        stub.close()


def test_collections_of_the_users_in_milvus_are_left_as_they_are(milvus_lite_server):
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(milvus_lite_server.replace("milvus://", "http://"), dedicated=True)
    names = ["m3_probe_", "m3_probe_mine", "m3_probe_0123456789abcdef0123456789abcdef", "theirs"]
    try:
        for name in names:
            schema = MilvusClient.create_schema()
            schema.add_field("pk", DataType.INT64, is_primary=True)
            schema.add_field("dense", DataType.FLOAT_VECTOR, dim=2)
            client.create_collection(name, schema=schema, properties={"m3": "mine"})
            client.insert(name, [{"pk": 1, "dense": [0.5, 0.5]}])
        with open_store(f"{milvus_lite_server}/ours", identity=IDENTITY) as store:
            store.upsert(make_documents(2), make_embeddings(2))
        for name in names:
            with pytest.raises(CollectionMismatchError, match=name):
                open_store(f"{milvus_lite_server}/{name}", identity=IDENTITY)
        assert set(client.list_collections()) >= {*names, "ours"}
        assert {name for name in client.list_collections() if "probe" in name} == set(names[:3])
        for name in names:
            assert client.get_collection_stats(name)["row_count"] == 1
    finally:
        for name in (*names, "ours"):
            client.drop_collection(name)
        client.close()


@pytest.mark.parametrize("content", [b"my notes", b'{"id": 1}\n', b"\0" * 5000], ids=["text", "JSON", "zeros"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_never_overwrites_a_file_of_the_users(embed, tmp_path, content, resume):
    path = tmp_path / "notes.ingest"
    path.write_bytes(content)
    with MemoryStore(embed.identity) as store, pytest.raises(M3Error, match="name another"):
        ingest([Document("a", "text")], embed, store, checkpoint=path, resume=resume)
    assert path.read_bytes() == content


def test_a_checkpoint_never_overwrites_another_programs_database(embed, tmp_path):
    import sqlite3
    from contextlib import closing

    path = tmp_path / "notes.ingest"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE state (name TEXT, value TEXT)")
        db.execute("INSERT INTO state VALUES ('mine', 'mine')")
        db.commit()
    before = Path(path).read_bytes()
    for resume in (True, False):
        with MemoryStore(embed.identity) as store, pytest.raises(M3Error, match="name another"):
            ingest([Document("a", "text")], embed, store, checkpoint=path, resume=resume)
    assert path.read_bytes() == before
