"""Haystack's own contract for document stores, and pipelines with our components."""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

from haystack import Document, Pipeline  # noqa: E402 - the framework is imported as users do, after ours too
from haystack.components.writers import DocumentWriter  # noqa: E402
from haystack.document_stores.errors import DuplicateDocumentError  # noqa: E402
from haystack.document_stores.in_memory import InMemoryDocumentStore  # noqa: E402
from haystack.document_stores.types import DuplicatePolicy  # noqa: E402
from haystack.errors import FilterError  # noqa: E402
from haystack.testing import document_store as contract  # noqa: E402
from haystack.testing import document_store_async as async_contract  # noqa: E402

from m3_vdb import HybridIndex, M3EmbeddingFunction  # noqa: E402
from m3_vdb.errors import ConfigError, DocumentError  # noqa: E402
from m3_vdb.integrations import haystack as ours  # noqa: E402
from m3_vdb.integrations.haystack_filters import to_filter  # noqa: E402
from m3_vdb.integrations.haystack_store import M3DocumentStore  # noqa: E402
from m3_vdb.scoring import hybrid_score, score  # noqa: E402
from m3_vdb.weights import Weights  # noqa: E402
from tests.serving._fakes import FakeSession, embed_with  # noqa: E402

ROOT = Path(__file__).parents[2]
TEXTS = ["vectors in one pass", "two boats on a river", "a river of vectors", "apples"]


@functools.cache
def shared():
    return embed_with(FakeSession())


def counted():
    """An embedding function without a model, and its session, which has one shape per forward pass."""
    embed = copy.copy(shared())
    embed.session = FakeSession(dense_dim=embed.dim["dense"], multi_vector_dim=embed.dim["multi_vector"])
    return embed, embed.session


@pytest.fixture(params=["memory", "folder"])
def document_store(request, tmp_path):
    url, indexes = (
        ("memory://", {}) if request.param == "memory" else (str(tmp_path / "notes.qdrant"), {"n": "integer"})
    )
    store = M3DocumentStore(url, model=counted()[0], indexes=indexes)
    yield store
    store.close()


class SameDocuments:
    @staticmethod
    def assert_documents_are_equal(received, expected):
        """Without ``embedding``: the store makes vectors of its own, and returns none; and in any order."""

        def plain(documents):
            return sorted((one.id, one.content, sorted(one.meta.items())) for one in documents)

        assert plain(received) == plain(expected)


class TestContract(
    SameDocuments,
    contract.DocumentStoreBaseExtendedTests,
    contract.CountDocumentsByFilterTest,
    contract.CountUniqueMetadataByFilterTest,
    contract.GetMetadataFieldsInfoTest,
    contract.GetMetadataFieldMinMaxTest,
    contract.GetMetadataFieldUniqueValuesTest,
):
    @pytest.fixture
    def document_store(self):
        return M3DocumentStore("memory://", model=counted()[0])

    def test_write_documents(self, document_store):
        """Without a policy, an id that is there is an error, as in Haystack's own stores."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])


class TestAsyncContract(
    SameDocuments,
    async_contract.CountDocumentsAsyncTest,
    async_contract.CountDocumentsByFilterAsyncTest,
    async_contract.CountUniqueMetadataByFilterAsyncTest,
    async_contract.DeleteAllAsyncTest,
    async_contract.DeleteByFilterAsyncTest,
    async_contract.DeleteDocumentsAsyncTest,
    async_contract.FilterDocumentsAsyncTest,
    async_contract.GetMetadataFieldMinMaxAsyncTest,
    async_contract.GetMetadataFieldsInfoAsyncTest,
    async_contract.GetMetadataFieldUniqueValuesAsyncTest,
    async_contract.UpdateByFilterAsyncTest,
    async_contract.WriteDocumentsAsyncTest,
):
    @pytest.fixture
    def document_store(self):
        return M3DocumentStore("memory://", model=counted()[0])

    @pytest.mark.asyncio
    async def test_write_documents_async(self, document_store):
        """As ``test_write_documents``."""
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


def test_a_folder_keeps_documents_and_filters_by_the_database(document_store):
    documents = [
        Document(id=str(i), content=text, meta={"n": i, "price": i + 1.0, "who": {"by": "me"}})
        for i, text in enumerate(TEXTS)
    ]
    assert document_store.write_documents(documents) == len(TEXTS)
    assert document_store.filter_documents() == documents, "Haystack's documents come back as they were, by id"
    found = ours.M3Retriever(document_store, top_k=2).run(
        "vectors in one pass", filters={"field": "meta.n", "operator": "in", "value": [0, 1, 2]}
    )["documents"]
    assert found[0].id == "0"
    assert len(found) == 2
    assert found[0].score >= found[1].score
    for equal in (2, 2.0):
        assert document_store.count_documents_by_filter({"field": "meta.n", "operator": "==", "value": equal}) == 1
        assert document_store.count_documents_by_filter({"field": "meta.price", "operator": "==", "value": equal}) == 1
    by_me = {"field": "meta.who.by", "operator": "==", "value": "me"}
    assert document_store.count_documents_by_filter(by_me) == 4
    assert document_store.delete_by_filter({"field": "meta.n", "operator": ">", "value": 1}) == 2
    document_store.delete_all_documents()
    assert document_store.count_documents() == 0


def test_one_forward_pass_per_batch_and_per_query():
    embed, session = counted()
    store = M3DocumentStore("memory://", model=embed, batch_size=2)
    pipeline = Pipeline()
    pipeline.add_component("write", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipeline.run({"write": {"documents": [Document(content=text) for text in TEXTS]}})
    assert len(session.shapes) == 2
    ours.M3Retriever(store).run("vectors", top_k=3)
    assert len(session.shapes) == 3
    filled = ours.M3DocumentEmbedder(embed).run([Document(content=text) for text in TEXTS])["documents"]
    assert len(session.shapes) == 4, "embedding and sparse_embedding come from one pass"
    ours.M3TextEmbedder(embed).run("vectors")
    assert len(session.shapes) == 5
    ours.M3Ranker(embed).run("vectors", filled)
    assert len(session.shapes) == 7, "one for the query, one for the documents"


def test_embedders_fill_all_fields_as_the_model_gives_them():
    embed, _ = counted()
    document = Document(content="apples", meta={"title": "Fruit", "none": None})
    (filled,) = ours.M3DocumentEmbedder(embed, meta_fields_to_embed=["title", "none"]).run([document])["documents"]
    expected = embed.encode_documents(["Fruit\napples"])[0]
    asked = ours.M3TextEmbedder(embed).run("Fruit\napples")
    assert filled.embedding == asked["embedding"] == expected.dense.tolist()
    assert dict(zip(filled.sparse_embedding.indices, filled.sparse_embedding.values, strict=True)) == (
        expected.sparse.as_dict()
    )
    assert document.embedding is None, "the document that was given is not changed"


def test_the_multi_vector_is_filled_where_documents_have_a_field_for_it(monkeypatch):
    embed, _ = counted()
    monkeypatch.setattr(ours, "_HAS_MULTI_VECTOR", True)  # Haystack 3.4 has not
    expected = embed.encode_queries(["apples"])[0]
    assert ours.M3TextEmbedder(embed).run("apples")["multivector_embedding"] == expected.multi_vector.tolist()


def test_another_store_takes_what_the_embedders_make():
    embed, _ = counted()
    store = InMemoryDocumentStore()
    indexing = Pipeline()
    indexing.add_component("embed", ours.M3DocumentEmbedder(embed))
    indexing.add_component("write", DocumentWriter(store))
    indexing.connect("embed", "write")
    indexing.run({"embed": {"documents": [Document(content=text) for text in TEXTS]}})
    best = store.embedding_retrieval(ours.M3TextEmbedder(embed).run("apples")["embedding"], top_k=1)
    assert best[0].content == "apples"


def test_the_ranker_orders_by_the_m3_score():
    embed, _ = counted()
    weights = Weights(0.2, 0.3, 0.5)
    ranked = ours.M3Ranker(embed, weights=[0.2, 0.3, 0.5], top_k=3).run(
        "a river", [Document(content=text) for text in TEXTS]
    )["documents"]
    query = embed.encode_queries(["a river"])[0]
    passages = embed.encode_documents(TEXTS)
    expected = {text: hybrid_score(score(query, one), weights) for text, one in zip(TEXTS, passages, strict=True)}
    assert [one.score for one in ranked] == pytest.approx([expected[one.content] for one in ranked])
    assert [one.score for one in ranked] == pytest.approx(sorted(expected.values(), reverse=True)[:3])


def test_meta_fields_are_encoded_and_encoded_again_when_they_change():
    embed, session = counted()
    store = M3DocumentStore("memory://", model=embed, meta_fields_to_embed=["title"])
    store.write_documents([Document(id="1", content="apples", meta={"title": "Fruit", "seen": False})])
    store.update_by_filter({"field": "meta.title", "operator": "==", "value": "Fruit"}, {"seen": True})
    assert len(session.shapes) == 1, "a field that is not encoded costs no pass"
    assert store.update_by_filter({"field": "meta.seen", "operator": "==", "value": True}, {"title": "Trees"}) == 1
    assert len(session.shapes) == 2
    (stored,) = store.filter_documents()
    assert (stored.content, stored.meta) == ("apples", {"title": "Trees", "seen": True})
    (_, vectors), *_ = store.index.store.scroll()
    assert vectors.dense[0].tolist() == embed.encode_documents(["Trees\napples"]).dense[0].tolist()


def test_long_documents_are_split_and_read_whole():
    embed, _ = counted()
    embed.max_length = 20
    store = M3DocumentStore("memory://", model=embed, long_documents="split")
    text = " ".join(f"word{i}" for i in range(60))
    store.write_documents([Document(id="long", content=text, meta={"n": 1})])
    assert store.count_documents() > 1
    assert [(one.id, one.content) for one in store.filter_documents()] == [("long", text)]
    (hit,) = ours.M3Retriever(store).run("word59 word58")["documents"]
    assert hit.id == "long"
    assert hit.content in text
    assert len(hit.content) < len(text), "a hit has the text of its best passage"


def test_an_open_index_is_used_and_stays_open():
    embed, _ = counted()
    with HybridIndex.open("memory://", model=embed) as index:
        index.add([{"id": "a", "text": "apples", "n": 1}])
        store = M3DocumentStore(index)
        assert store.filter_documents() == [Document(id="a", content="apples", meta={"n": 1})]
        store.close()
        assert index.count() == 1
        with pytest.raises(ConfigError, match="open HybridIndex"):
            store.to_dict()


def test_pipelines_are_written_and_read(tmp_path):
    folder = str(tmp_path / "notes.qdrant")
    store = M3DocumentStore(folder, meta_fields_to_embed=["title"], indexes={"year": "integer"}, batch_size=8)
    pipeline = Pipeline()
    retriever = ours.M3Retriever(store, top_k=3, weights=[1.0, 0.3, 1.0])
    pipeline.add_component("retriever", retriever)
    pipeline.add_component("ranker", ours.M3Ranker(top_k=2))
    pipeline.add_component("text", ours.M3TextEmbedder())
    pipeline.add_component("documents", ours.M3DocumentEmbedder(meta_fields_to_embed=["title"]))
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "documents.documents")
    written = pipeline.dumps()
    assert str(tmp_path) in written
    again = Pipeline.loads(written, allowed_modules=["m3_vdb.*"])
    assert again.to_dict()["components"] == pipeline.to_dict()["components"]
    answer = again.run({"retriever": {"query": "apples"}, "ranker": {"query": "apples"}, "text": {"text": "apples"}})
    assert answer["documents"]["documents"] == []
    opened = again.get_component("ranker").embed
    assert isinstance(opened, M3EmbeddingFunction)
    assert again.get_component("text").embed is opened, "components with the same model share it"
    with pytest.raises(ConfigError, match="open M3EmbeddingFunction"):
        M3DocumentStore("memory://", model=opened).to_dict()


def test_async_runs_do_not_block_the_loop():
    embed, _ = counted()
    store = M3DocumentStore("memory://", model=embed)
    store.write_documents([Document(content=text) for text in TEXTS])
    pipeline = Pipeline()
    pipeline.add_component("retriever", ours.M3Retriever(store, top_k=1))

    async def ask():
        return await asyncio.gather(*(pipeline.run_async({"retriever": {"query": text}}) for text in TEXTS))

    answers = asyncio.run(ask())
    assert [answer["retriever"]["documents"][0].content for answer in answers] == TEXTS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"field": "meta.a.b", "operator": "==", "value": "x"}, {"a.b": {"$eq": "x"}}),
        ({"field": "meta.a", "operator": "!=", "value": True}, {"a": {"$ne": True}}),
        ({"field": "meta.a", "operator": "!=", "value": 1}, {"a": {"$nin": [1, 1.0]}}),
        ({"field": "meta.a", "operator": "in", "value": ["x", 2**60]}, {"a": {"$in": ["x", 2**60]}}),
        ({"field": "year", "operator": "<", "value": 2.5}, {"year": {"$lt": 2.5}}),
        ({"field": "meta.a", "operator": "!=", "value": None}, {"a": {"$exists": True}}),
        ({"field": "meta.a", "operator": ">", "value": None}, {"a": []}),
        (
            {"operator": "NOT", "conditions": [{"field": "meta.a", "operator": "not in", "value": ["x"]}]},
            {"$not": {"$and": [{"a": {"$nin": ["x"]}}]}},
        ),
        ({}, None),
    ],
)
def test_filters(given, expected):
    assert to_filter(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"field": "content", "operator": "==", "value": "x"}, "a field of meta"),
        ({"field": "meta.a", "operator": "~", "value": "x"}, "expected one of ==, !="),
        ({"operator": "AND", "conditions": []}, "at least one"),
        ({"operator": "XOR", "conditions": [{}]}, "AND, OR, NOT"),
        ({"field": 'meta.a"b', "operator": "==", "value": "x"}, "double quotes"),
    ],
)
def test_what_is_not_a_filter_is_refused(given, message):
    with pytest.raises(FilterError, match=message):
        to_filter(given)


def test_a_document_without_text_is_refused():
    store = M3DocumentStore("memory://", model=counted()[0])
    with pytest.raises(DocumentError, match=r"document 1 \('b'\) has no content"):
        store.write_documents([Document(id="a", content="x"), Document(id="b")])
    assert store.count_documents() == 0


def test_usage_data_is_off_and_a_missing_framework_names_its_extra(tmp_path):
    code = (
        "import m3_vdb.integrations.haystack, haystack.telemetry._telemetry as t, os;"
        "assert t.telemetry is None and 'HAYSTACK_TELEMETRY_ENABLED' not in os.environ"
    )
    home = {name: value for name, value in os.environ.items() if name != "HAYSTACK_TELEMETRY_ENABLED"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**home, "HOME": str(tmp_path)})
    assert not (tmp_path / ".haystack").exists()
    code = "import sys; sys.modules['haystack'] = None; import m3_vdb.integrations.haystack"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert failed.stderr.splitlines()[-1].endswith(
        "needs packages that are not installed: pip install 'm3-vdb[haystack]'"
    )


def test_the_example_answers_its_questions():
    ran = subprocess.run(
        [sys.executable, "examples/haystack_search.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    answers = ran.stdout.splitlines()[1::2]
    assert [answer.split()[1] for answer in answers] == [
        "lo/en/swriter/guide/text_animation",
        "lo/de/scalc/01/03090000",
        "udhr/en/04",
    ]
