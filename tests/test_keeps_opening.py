"""What version 0.1.0 wrote keeps opening: collections, a bundle, checkpoints, an export, an interrupted ingest."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m3_vdb import Document, HybridIndex, LongDocuments, M3EmbeddingFunction
from m3_vdb.cli.main import app
from m3_vdb.encoding.long_documents import DEFAULT_POLICY
from m3_vdb.errors import DocumentError
from m3_vdb.ingest import ingest
from m3_vdb.ingest.batch import content_hash
from m3_vdb.stores import MemoryStore, open_store, transfer
from m3_vdb.types import Passage

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
RECORDED = json.loads((FIXTURES / "recorded.json").read_text(encoding="utf-8"))
PIECE = 1 << 16
COLLECTIONS = {"qdrant": "notes.qdrant", "milvus": "notes.milvus.db"}


@cache
def contents(name: str) -> dict[str, tuple[int, list[tuple[int, bytes]]]]:
    """File → (size, what it holds from which place on): of 250 MB of an engine's files nearly all is zeros."""
    found = {}
    with tarfile.open(FIXTURES / name) as archive:
        for entry in archive:
            if (file := archive.extractfile(entry)) is not None:
                pieces = enumerate(iter(partial(file.read, PIECE), b""))
                found[entry.name] = entry.size, [(i * PIECE, piece) for i, piece in pieces if piece.strip(b"\0")]
    return found


def unpack(name: str, folder: Path) -> Path:
    for path, (size, pieces) in contents(name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            for place, piece in pieces:
                file.seek(place)
                file.write(piece)
            file.truncate(size)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return unpack("models.tar.xz", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def embed(models) -> M3EmbeddingFunction:
    return M3EmbeddingFunction(models / "bundle", threads=1, on_truncate="ignore")


@pytest.fixture
def collections(tmp_path) -> Path:
    return unpack("collections.tar.xz", tmp_path)


@pytest.fixture(params=["qdrant", "milvus", "parquet"])
def opened(request, collections, embed):
    """(store, name of its recorded answers): the two collections, and the export in a store of today."""
    if request.param == "parquet":
        with MemoryStore(embed.identity) as store:
            transfer.import_parquet(collections / "notes.parquet", store)
            yield store, "qdrant"
    else:
        url = str(collections / COLLECTIONS[request.param])
        with open_store(url, identity=embed.identity, create=False) as store:
            yield store, request.param


def test_the_same_scores(opened, embed):
    store, name = opened
    for query, expected in RECORDED["queries"][name].items():
        found = dict(store.rank(embed.encode_queries([query])[0], limit=100))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert len(found) == store.count()


def test_filters_look_into_objects(opened, embed):
    """Milvus had no terms for these then."""
    store, _ = opened
    query = embed.encode_queries(["vector search"])[0]
    for condition, expected in (
        ({"m3_encoding": {"codec": "utf-8"}}, {"mine"}),
        ({"m3_passage.page": {"$gte": 3, "$lt": 4}}, {"page"}),
        ({"m3_passage.page": {"$exists": True}, "year": 2001}, set()),
    ):
        assert dict(store.rank(query, filter=condition)).keys() == expected


def documents() -> list[Document]:
    """What was put in."""
    given = [Document(**one) for one in RECORDED["documents"]]
    return [*given, Document("mine", "das Wort", payload={"m3_encoding": {"codec": "utf-8"}})]


def test_the_same_rows(opened):
    store, _ = opened
    rows = {row.id: row for batch, _ in store.scroll() for row in batch}
    assert sorted(rows) == [id for id, *_ in RECORDED["stored"]]
    for id, title, text, payload in RECORDED["stored"]:
        assert (rows[id].title, rows[id].text) == (title, text)
        ours = {name for name in payload if name == "m3_passage" and id.startswith("book")}
        ours |= {name for name in payload if name == "m3_encoding" and id == "short"}
        assert rows[id].payload == {name: value for name, value in payload.items() if name not in ours}


def test_the_same_documents_and_hits(opened, embed):
    store, name = opened
    index = HybridIndex(embed, store)
    given = {document.id: document for document in documents()}
    assert index.get(list(given)) == list(given.values())
    for query, scores in RECORDED["queries"][name].items():
        best: dict[str, float] = {}
        for stored, score in scores.items():
            id = "book" if stored.startswith("book¶") else stored
            best[id] = max(score, best.get(id, -9.0))
        hits = index.query(query, limit=50)
        assert {hit.document.id: hit.score for hit in hits} == pytest.approx(best, rel=1e-4, abs=1e-5)
        for hit in hits:
            assert hit.document.payload == given[hit.document.id].payload
            assert (hit.passage is not None) == (hit.document.id == "book")


@pytest.mark.parametrize(("condition", "found"), [
    ({"year": {"$gte": 2000}}, {"types", "7", "odd¶2", "page", "short"}),
    ({"lang": "de"}, {"2", "book"}),
    ({"m3_passage": "chapter 2"}, {"chapter"}),
])  # fmt: skip
def test_filters(opened, embed, condition, found):
    hits = HybridIndex(embed, opened[0]).query("vector search", limit=50, filter=condition)
    assert {hit.document.id for hit in hits} == found


def test_nothing_is_encoded_again(opened, embed, models):
    """What was stored by each of its runs, and by nothing else, is known again by what it says of its encoding."""
    store, _ = opened
    shorter = M3EmbeddingFunction(models / "bundle", threads=1, max_length=12, on_truncate="ignore")
    given = {document.id: document for document in documents()}
    split = LongDocuments(plan="split", overlap=4, max_rows=40)
    passages = sum(id.startswith("book") for id, *_ in RECORDED["stored"])
    for ids, by, plan, unchanged in (
        (["1", "2", "types", "7", "page", "chapter", "other", "mine"], embed, DEFAULT_POLICY, 8),
        (["short"], shorter, DEFAULT_POLICY, 1),
        (["book"], embed, split, passages),
    ):
        report = ingest([given[id] for id in ids], by, store, long_documents=plan)
        assert (report.documents, report.unchanged, report.rejected_count) == (0, unchanged, 0)
    assert ingest([given["short"]], embed, store).documents == 1


def test_they_are_written_to(opened, embed):
    store, _ = opened
    index = HybridIndex(embed, store, long_documents=LongDocuments(plan="split", max_rows=40))
    given = {document.id: document for document in documents()}
    text = given["book"].text
    changed = [Document("book", text[:400], payload={"m3_passage": "mine"}), Document("new", text, payload={"m3": 1})]
    index.add(changed)
    assert index.get(["book", "new"]) == changed
    index.add([Document("book", "short now")])
    assert index.get(["book", "new", "1"]) == [Document("book", "short now"), changed[1], given["1"]]
    assert not store.get([f"book¶{number}" for number in range(2, 10)])

    # An id from before such ids were refused: it is found, never taken for a passage of "odd", and can be deleted.
    with pytest.raises(DocumentError, match="would replace the document 'odd¶2'"):
        index.add([Document("odd", text)])
    report = ingest([Document("odd", text)], embed, store, long_documents=LongDocuments(plan="split", max_rows=40))
    assert [one.id for one in report.rejected] == ["odd¶2"]
    assert index.get(["odd¶2"]) == [given["odd¶2"]]
    index.delete(["odd"])
    assert index.get(["odd", "odd¶2"]) == [given["odd¶2"]]
    index.add([Document("odd", "short")])
    assert index.get(["odd", "odd¶2"]) == [Document("odd", "short"), given["odd¶2"]]
    index.delete(["odd¶2", "page"])
    assert index.get(["odd", "odd¶2", "page"]) == [Document("odd", "short")]


def test_they_are_copied_and_exported(opened, embed, tmp_path):
    store, _ = opened
    with open_store(str(tmp_path / "copy.qdrant"), identity=embed.identity) as copied:
        transfer.export_parquet(store, tmp_path / "again.parquet")
        transfer.import_parquet(tmp_path / "again.parquet", copied)
        assert copied.count() == store.count()
        given = documents()
        assert HybridIndex(embed, copied).get([document.id for document in given]) == given


def test_the_command_line_reads_them(collections, models):
    for name in COLLECTIONS.values():
        arguments = ["search", "vector search", "--store", str(collections / name), "--model", str(models / "bundle")]
        result = CliRunner().invoke(app, [*arguments, "--limit", "50", "--json"])
        assert result.exit_code == 0, result.output
        found = {hit["id"]: hit for hit in map(json.loads, result.stdout.splitlines())}
        assert found.keys() == {document.id for document in documents()}
        assert found["book"]["passage"]["count"] == 8
        assert found["page"]["payload"] == {"m3_passage": {"page": 3}, "year": 2002}


def test_the_bundle_and_the_checkpoint_are_the_same_model(models, embed, tmp_path):
    from onnx_export.export import convert

    convert(models / "checkpoint", tmp_path / "again", precision="fp32", name="tiny")
    texts = ["the vector search", "数据库"]
    one, other = (f.encode_documents(texts) for f in (embed, M3EmbeddingFunction(tmp_path / "again", threads=1)))
    np.testing.assert_allclose(other.dense, one.dense, atol=1e-5)
    np.testing.assert_array_equal(other.sparse_ids, one.sparse_ids)
    np.testing.assert_allclose(other.sparse_weights, one.sparse_weights, atol=1e-5)
    np.testing.assert_allclose(other.multi_vector, one.multi_vector, atol=1e-5)


def test_a_training_resumes(tmp_path, monkeypatch):
    from tests.train._runs import config, run
    from train.config import Phase, Schedule

    monkeypatch.chdir(unpack("models.tar.xz", tmp_path))  # its settings name files by relative paths
    heads = Phase(steps=6, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2)
    settings = config(Path("checkpoint"), Path(), phases=Schedule(heads=heads), save_every=2, keep=1, out=Path("run"))
    outcome, reports, _ = run(replace(settings, resume=True))
    assert [report.step for report in reports] == list(range(3, 11))
    assert outcome.checkpoint == Path("run/step-000010")


def test_an_ingest_resumes(models, embed, tmp_path, monkeypatch):
    monkeypatch.chdir(unpack("ingest.tar.xz", tmp_path))
    with open_store("half.qdrant", identity=None) as store:
        before = store.count()
    arguments = ["ingest", "corpus.jsonl", "--store", "half.qdrant", "--model", str(models / "bundle")]
    result = CliRunner().invoke(app, [*arguments, "--resume", "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["resumed"], summary["documents"], summary["held"]) == (before, 40 - before, 40)
    assert not Path("half.qdrant.ingest").exists()


def test_passages_have_the_digest_that_checkpoints_hold():
    passage = Document("d¶2", "text", "title", {"n": 1.5}, passage=Passage("d", 2, 3, 10, 14), encoding="max_length=12")
    assert content_hash(passage).hex() == "2c7e95b06af12a5827b62233f5cf970f"
