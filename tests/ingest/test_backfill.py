"""A collection of somebody's dense vectors becomes one of all three: from each database, and after kill -9."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb import Document, open_store
from m3_vdb.cli.main import app
from m3_vdb.errors import CollectionNotFoundError, ConfigError, StoreUrlError
from m3_vdb.ingest import SourceCollection, SourceFields, ingest
from m3_vdb.ingest.collections import milvus_points, qdrant_points
from m3_vdb.ingest.rows import RowError
from m3_vdb.stores import MemoryStore
from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, HashEmbed, rows
from tests.ingest._victim import FIELDS, run

POINTS = 60
KEYS = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(i))) for i in range(POINTS)]


def payload(i: int) -> dict[str, object]:
    """As LangChain writes it; two points are no documents."""
    if i in (7, 40):
        return {"metadata": {"n": i}}
    return {"page_content": f"text {i} of a page {'word ' * (i % 7)}", "metadata": {"n": i, "tags": ["a", "b"]}}


def fill(client: QdrantClient, first: int = 0, last: int = POINTS) -> None:
    """Dense vectors alone, of another model and width."""
    if not client.collection_exists("pages"):
        dense = {"openai": models.VectorParams(size=5, distance=models.Distance.COSINE)}
        client.create_collection("pages", vectors_config=dense)
    points = [
        models.PointStruct(id=KEYS[i], vector={"openai": [1.0, i, 2.0, 3.0, 0.5]}, payload=payload(i))
        for i in range(first, last)
    ]
    client.upsert("pages", points)


@pytest.fixture(scope="module")
def stub():
    opened = RestStub()
    fill(QdrantClient(f"http://{opened.address}", check_compatibility=False))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def source(stub) -> str:
    return f"qdrant://{stub.address}/pages"


def documents() -> list[Document]:
    return [
        Document(KEYS[i], payload(i)["page_content"], payload={"n": i, "tags": ["a", "b"]})
        for i in sorted(range(POINTS), key=lambda i: KEYS[i])
        if "page_content" in payload(i)
    ]


def held(path: Path) -> object:
    with QdrantEdgeStore(path / "x.qdrant", identity=IDENTITY) as store:
        assert store.count() == POINTS - 2
        return rows(store, KEYS)


def test_the_document_of_a_point():
    fields = {"body": "b", "head": "h", "id": 9, "meta": {"lang": "de", "year": 1}, "year": 2}
    made = SourceFields(text=("body",), title="head", payload="meta").document(17, fields)
    assert made.document == Document("17", "b", "h", {"id": 9, "lang": "de", "year": 2})
    assert SourceFields(id="id", text=("head", "body")).document("x", fields).document.id == "9"
    for names in (SourceFields(), SourceFields(text=("body",), payload="id"), SourceFields(text=("year",))):
        with pytest.raises(RowError):
            names.document(1, fields)


def test_the_new_collection_is_that_of_an_ingest(source, tmp_path):
    report = run(source, tmp_path)
    assert (report.documents, report.rejections) == (POINTS - 2, {"no text": 2})
    letters = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert sorted(letter["id"] for letter in letters) == sorted([KEYS[7], KEYS[40]])
    assert {letter["file"] for letter in letters} == {source}
    (tmp_path / "direct").mkdir()
    with QdrantEdgeStore(tmp_path / "direct" / "x.qdrant", identity=IDENTITY) as store:
        ingest(documents(), HashEmbed(), store)
    assert held(tmp_path) == held(tmp_path / "direct")
    again = run(source, tmp_path)
    assert (again.documents, again.unchanged) == (0, POINTS - 2)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> tuple[object, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(source, folder)
    return held(folder), (folder / "rejected.jsonl").read_text().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("seed", [0, *soak([1, 2])])
def test_killed_twice_and_resumed(source, undisturbed, tmp_path, seed):
    rng, killed = random.Random(seed), 0
    for event in (rng.randrange(2, 30), rng.randrange(1, 15)):
        command = [sys.executable, "-m", "tests.ingest._victim", source, str(tmp_path), str(event)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        killed += done.returncode != 0
    assert killed
    report = run(source, tmp_path)
    assert report.resumed + report.documents + report.unchanged <= POINTS
    assert (held(tmp_path), (tmp_path / "rejected.jsonl").read_text().splitlines()) == undisturbed
    assert not (tmp_path / "checkpoint").exists()


def test_points_that_came_meanwhile_are_found_by_a_run_from_the_start(tmp_path):
    stub = RestStub()
    try:
        client = QdrantClient(f"http://{stub.address}", check_compatibility=False)
        order = sorted(range(POINTS), key=lambda i: KEYS[i])
        for i in order[30:]:
            fill(client, i, i + 1)
        stop, embed = threading.Event(), HashEmbed(seconds=0.05)  # slow, so that a stop comes in time
        with MemoryStore(IDENTITY) as store:

            def go(**options):
                source = SourceCollection(f"qdrant://{stub.address}/pages", fields=FIELDS)
                return ingest(source, embed, store, batch_documents=5, checkpoint=tmp_path / "c", **options)

            first = go(progress=lambda state: stop.set(), stop=stop)
            assert first.interrupted
            assert 0 < first.documents < 25
            for i in order[:30]:
                fill(client, i, i + 1)
            with pytest.raises(ConfigError, match="run without resuming"):
                go(resume=True)
            assert go().documents == POINTS - 2 - first.documents
            assert store.count() == POINTS - 2
    finally:
        stub.close()


def test_an_unnamed_vector_and_whole_numbers_as_ids():
    client = QdrantClient(":memory:")
    client.create_collection("old", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    points = [models.PointStruct(id=i, vector=[1.0, i], payload={"text": f"t{i}"}) for i in range(600)]
    client.upsert("old", points)
    points = qdrant_points(client, "old")
    assert points.count == 600
    assert list(points.rows) == [(i, {"text": f"t{i}"}) for i in range(600)]


def milvus_file(path: Path) -> None:
    from pymilvus import DataType, MilvusClient

    from m3_vdb.stores.milvus.client import LiteServer

    lite = LiteServer(path)
    client = MilvusClient(uri=lite.uri, dedicated=True)
    client.create_collection("quick", dimension=4)  # a whole number as key, and any fields
    dense = np.ones(4).tolist()
    client.insert("quick", [{"id": i, "vector": dense, "text": f"t{i}", "lang": "de"} for i in range(300)])
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=100)
    schema.add_field("body", DataType.VARCHAR, max_length=1000)
    schema.add_field("meta", DataType.JSON)
    schema.add_field("emb", DataType.FLOAT_VECTOR, dim=4)
    index = client.prepare_index_params()
    index.add_index("emb", index_type="FLAT", metric_type="IP")
    client.create_collection("named", schema=schema, index_params=index)
    client.insert("named", [{"pk": f'é"{i}', "body": f"b{i}", "meta": {"n": i}, "emb": dense} for i in range(9)])
    client.close()
    lite.stop()


def test_collections_of_milvus(tmp_path):
    path = tmp_path / "theirs.db"
    milvus_file(path)
    with MemoryStore(IDENTITY) as store:
        quick = SourceCollection(f"{path}#quick")
        assert quick.total_bytes == 300
        assert ingest(quick, HashEmbed(), store).documents == 300
        assert store.get(["299"]) == [Document("299", "t299", payload={"lang": "de"})]
        named = SourceCollection(f"{path}#named", fields=SourceFields(text=("body",), payload="meta"))
        assert ingest(named, HashEmbed(), store).documents == 9
        assert store.get(['é"8']) == [Document('é"8', "b8", payload={"n": 8})]
    with pytest.raises(StoreUrlError, match="holds named, quick: say which"):
        SourceCollection(str(path))
    with pytest.raises(CollectionNotFoundError, match="it holds"):
        SourceCollection(f"{path}#other")


def test_a_milvus_server_is_read_by_pymilvus_iterator(tmp_path):
    from pymilvus import MilvusClient

    from m3_vdb.stores.milvus.client import LiteServer

    milvus_file(tmp_path / "theirs.db")
    lite = LiteServer(tmp_path / "theirs.db")  # in place of a server: it answers the iterator, too
    client = MilvusClient(uri=lite.uri, dedicated=True)
    client.load_collection("quick")
    points = milvus_points(client, "quick", 60)
    assert points.count == 300
    assert list(points.rows) == [(i, {"text": f"t{i}", "lang": "de"}) for i in range(300)]
    client.close()
    lite.stop()


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(CollectionNotFoundError, match="there is no file"):
        SourceCollection(f"{tmp_path}/no.db")
    with pytest.raises(CollectionNotFoundError):
        SourceCollection(f"{tmp_path}/no.qdrant")
    with pytest.raises(StoreUrlError):
        SourceCollection("nonsense")


def command(*arguments: object):
    return CliRunner().invoke(app, ["backfill", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_command(source, tmp_path, tiny_bundle):
    options = ["--model", tiny_bundle, "--text-field", "page_content", "--payload-field", "metadata"]
    done = command(source, "--store", tmp_path / "new.qdrant", *options, "--json")
    assert done.exit_code == 3, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["documents"], summary["held"], summary["rejected"]) == (POINTS - 2, POINTS - 2, 2)
    assert f"now holds {POINTS - 2}" in done.stderr
    assert "2 rows not stored (2 no text)" in done.stderr
    assert (tmp_path / "new.qdrant.backfill.rejected.jsonl").exists()
    found = CliRunner().invoke(
        app, ["search", "page", "--store", f"{tmp_path}/new.qdrant", "--model", str(tiny_bundle), "--filter", "n=5"]
    )
    assert KEYS[5] in found.output
    with open_store(f"{tmp_path}/new.qdrant", identity=None) as store:
        assert store.get([KEYS[5]])[0].payload == {"n": 5, "tags": ["a", "b"]}

    # A collection of ours is read as the documents that it holds, whatever the options say about fields.
    again = command(tmp_path / "new.qdrant", "--store", tmp_path / "newer.qdrant", "--model", tiny_bundle)
    assert again.exit_code == 0, again.output
    with open_store(f"{tmp_path}/newer.qdrant", identity=None) as store:
        assert store.get([KEYS[5]])[0].payload == {"n": 5, "tags": ["a", "b"]}
        assert store.count() == POINTS - 2

    same = command(source, "--store", source, *options)
    assert same.exit_code == 1
    assert "is both source and target" in str(same.exception)
