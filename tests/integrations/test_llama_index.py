from __future__ import annotations

import pytest

pytestmark = pytest.mark.integration

from llama_index.core import StorageContext, VectorStoreIndex  # noqa: E402
from llama_index.core.ingestion import IngestionPipeline  # noqa: E402
from llama_index.core.schema import (  # noqa: E402
    IndexNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters  # noqa: E402
from llama_index.core.vector_stores.types import FilterOperator, VectorStoreQuery, VectorStoreQueryMode  # noqa: E402

from m3_vdb import HybridIndex, LongDocuments  # noqa: E402
from m3_vdb.errors import ConfigError  # noqa: E402
from m3_vdb.integrations.encoder import SharedEncoder, m3_scores  # noqa: E402
from m3_vdb.integrations.llama_index import (  # noqa: E402
    M3Embedding,
    M3Reranker,
    M3Retriever,
    M3VectorStore,
    sparse_functions,
)
from m3_vdb.integrations.llama_index_filters import to_filter  # noqa: E402

TEXTS = ["the formula bar is hidden", "record a macro", "export to PDF with a password", "change the language"]
PAGES = ("lo/en/swriter/guide/table_cellmerge:", "lo/en/scalc/01/03090000:", "lo/zh-cn/swriter/01/04030000:")


def make_nodes():
    """Four nodes of two documents."""
    return [
        TextNode(
            id_=f"n{i}",
            text=text,
            metadata={"number": i, "lang": "en" if i % 2 else "de", "tags": ["all", f"t{i}"]},
            excluded_embed_metadata_keys=["number", "tags"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i // 2}")},
        )
        for i, text in enumerate(TEXTS)
    ]


def ids(found):
    return [one.node_id for one in found]


def filters_of(*parts, condition="and"):
    made = [MetadataFilter(key=key, operator=operator, value=value) for key, operator, value in parts]
    return MetadataFilters(filters=made, condition=condition)


@pytest.fixture(params=["memory://", "store.qdrant", "store.milvus.db"])
def place(request, tmp_path):
    return request.param if "://" in request.param else str(tmp_path / request.param)


@pytest.fixture
def store(embed, place):
    made = M3VectorStore(HybridIndex.open(place, model=embed))
    yield made
    made.close()


@pytest.fixture
def memory(embed):
    made = M3VectorStore(HybridIndex.open("memory://", model=embed))
    made.add(make_nodes())
    yield made
    made.close()


def test_an_index_over_the_store_needs_one_pass_per_batch_and_per_query(store, passes):
    nodes, context = make_nodes(), StorageContext.from_defaults(vector_store=store)
    with passes() as counted:
        index = VectorStoreIndex(nodes, storage_context=context, embed_model=store.embed_model)
        found = index.as_retriever(similarity_top_k=3).retrieve("record a macro")
    assert counted == [4, 1]
    assert found[0].node == nodes[1]
    assert [one.score for one in found] == [hit.score for hit in store.client.query("record a macro", limit=3)]
    assert store.client.get(["n1"])[0].title == "lang: en"
    again = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
    assert again.as_retriever(similarity_top_k=3).retrieve("record a macro") == found
    again.insert_nodes([TextNode(id_="new", text="one more")])
    assert store.client.count() == 5


async def test_the_async_methods_do_the_same(store, passes):
    nodes = make_nodes()
    with passes() as counted:
        assert await store.async_add(nodes) == ids(nodes)
        index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        found = await index.as_retriever(similarity_top_k=2).aretrieve("record a macro")
    assert counted == [4, 1]
    assert found == index.as_retriever(similarity_top_k=2).retrieve("record a macro")
    assert await M3Retriever(store.client, similarity_top_k=2).aretrieve("record a macro") == found
    await store.adelete("doc0")
    assert sorted(ids(await store.aget_nodes())) == ["n2", "n3"]
    await store.adelete_nodes(["n2"])
    assert ids(await store.aget_nodes()) == ["n3"]
    await store.aclear()
    assert store.get_nodes() == []


def test_nodes_are_read_and_deleted_by_ids_by_filters_by_document(store):
    nodes = make_nodes()
    store.add(nodes, batch_size=3)
    store.client.add([{"id": "other", "text": "not a node"}])
    english, late = filters_of(("lang", "==", "en")), filters_of(("number", ">=", 2))
    assert store.get_nodes(["n3", "n0", "unknown"]) == [nodes[3], nodes[0]]
    assert ids(store.get_nodes(["n3", "n0"], english)) == ["n3"]
    assert sorted(ids(store.get_nodes(filters=late))) == ["n2", "n3"]
    store.delete_nodes(["n0", "n3"], english)
    store.delete_nodes(filters=filters_of(("number", "==", 2)))
    assert sorted(ids(store.get_nodes())) == ["n0", "n1", "other"]
    with pytest.raises(ConfigError):
        store.delete_nodes()
    store.delete("doc1")
    store.delete("doc0")
    assert ids(store.get_nodes()) == ["other"]
    store.add(nodes)
    store.clear()
    assert ids(store.get_nodes()) == ["other"]


def test_a_query_is_that_of_the_index(memory):
    index = VectorStoreIndex.from_vector_store(memory, embed_model=memory.embed_model)
    options = {"weights": (0, 1, 0), "source": "sparse", "filter": {"number": {"$lt": 3}}}
    lexical = index.as_retriever(similarity_top_k=9, vector_store_kwargs=options)
    sparse = index.as_retriever(
        similarity_top_k=9, vector_store_query_mode="sparse", filters=filters_of(("number", "<", 3))
    )
    direct = memory.client.query("record a macro", limit=9, **options)
    assert [(one.node_id, one.score) for one in lexical.retrieve("record a macro")] == [
        (hit.document.id, hit.score) for hit in direct
    ]
    assert sparse.retrieve("record a macro") == lexical.retrieve("record a macro")
    some = VectorStoreQuery(query_str="a", similarity_top_k=9, node_ids=["n1", "n3"], doc_ids=["doc1"])
    assert memory.query(some).ids == ["n3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_str": None, "query_embedding": [1.0]}, "only an embedding"),
        ({"mode": VectorStoreQueryMode.MMR}, "mode='mmr': expected one of default, hybrid, sparse"),
        ({"alpha": 0.5}, "alpha=0.5: .*weights"),
    ],
)
def test_what_the_store_cannot_do_is_one_line(memory, change, message):
    with pytest.raises(ConfigError, match=message):
        memory.query(VectorStoreQuery(**{"query_str": "a", **change}))


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (filters_of(("lang", "==", "de")), [0, 2]),
        (filters_of(("lang", "!=", "de")), [1, 3]),
        (filters_of(("number", ">", 1)), [2, 3]),
        (filters_of(("number", ">=", 1)), [1, 2, 3]),
        (filters_of(("number", "<", 1)), [0]),
        (filters_of(("number", "<=", 1)), [0, 1]),
        (filters_of(("lang", "in", ["de", "fr"])), [0, 2]),
        (filters_of(("lang", "nin", ["de", "fr"])), [1, 3]),
        (filters_of(("missing", "nin", ["de"])), [0, 1, 2, 3]),
        (filters_of(("tags", "any", ["t1", "t2"])), [1, 2]),
        (filters_of(("tags", "all", ["all", "t1"])), [1]),
        (filters_of(("tags", "contains", "t3")), [3]),
        (filters_of(("missing", "is_empty", None)), [0, 1, 2, 3]),
        (filters_of(("number", ">=", 1), ("lang", "==", "de")), [2]),
        (filters_of(("number", ">", 2), ("lang", "==", "de"), condition="or"), [0, 2, 3]),
        (filters_of(("number", ">", 2), ("lang", "==", "de"), condition="not"), [1]),
        (filters_of(), [0, 1, 2, 3]),
    ],
)
def test_a_filter_means_what_it_means_in_llama_index(memory, filters, numbers):
    found = M3Retriever(memory.client, filters=filters).retrieve("macro")
    assert sorted(one.metadata["number"] for one in found) == numbers


def test_filters_nest_and_a_search_inside_a_text_is_refused():
    inner = filters_of(("a", "==", 1), ("b", "==", 2), condition="or")
    nested = MetadataFilters(filters=[inner, filters_of()], condition="not")
    assert to_filter(nested) == {"$not": {"$or": [{"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]}]}}
    with pytest.raises(ConfigError, match="'title': operator text_match: expected one of ==, "):
        to_filter(filters_of(("title", FilterOperator.TEXT_MATCH, "x")))


def test_a_pipeline_stores_nodes_of_any_kind_and_long_ones_come_back_whole(embed):
    index = HybridIndex.open("memory://", model=embed, long_documents=LongDocuments(plan="split", max_rows=40))
    store = M3VectorStore(index)
    long = TextNode(id_="long", text=" ".join(f"word{i}" for i in range(99)), metadata={"lang": "en"})
    nodes = [long, IndexNode(id_="part", text="a part", index_id="whole")]
    pipeline = IngestionPipeline(transformations=[store.embed_model], vector_store=store, disable_cache=True)
    pipeline.run(nodes=[node.model_copy() for node in nodes])
    assert store.get_nodes(["long", "part"]) == nodes
    (found,) = store.query(VectorStoreQuery(query_str="word77", filters=filters_of(("lang", "==", "en")))).nodes
    assert found.node_id == "long"
    assert found.text in long.text
    store.clear()
    assert index.count() == 0


def test_the_retriever_reads_what_others_stored(embed, passes):
    index = HybridIndex.open("memory://", model=embed)
    index.add([{"id": "t", "title": "Macros", "text": "How to record", "payload": {"n": 1}}, {"id": "u", "text": "x"}])
    with passes() as counted:
        (found,) = M3Retriever(index, filter={"n": 1}, weights="dense_sparse").retrieve("record")
    assert counted == [1]
    assert (found.node_id, found.text, found.metadata) == ("t", "How to record", {"title": "Macros", "n": 1})
    assert found.score == index.query("record", filter={"n": 1}, weights="dense_sparse")[0].score


async def test_the_reranker_orders_by_m3_score_with_one_pass_for_each_side(embed, passes):
    nodes, reranker = [NodeWithScore(node=node, score=0.5) for node in make_nodes()], M3Reranker(embed, top_n=2)
    with passes() as counted:
        found = reranker.postprocess_nodes(nodes, query_str="record a macro")
    assert counted == [1, 4]
    scores = m3_scores(embed, "record a macro", [one.get_content(metadata_mode="embed") for one in make_nodes()])
    assert [(one.node_id, one.score) for one in found] == sorted(
        ((f"n{i}", score) for i, score in enumerate(scores)), key=lambda pair: -pair[1]
    )[:2]
    assert await reranker.apostprocess_nodes(nodes, QueryBundle("record a macro")) == found
    with pytest.raises(ConfigError, match="no query"):
        reranker.postprocess_nodes(nodes)


async def test_hybrid_search_of_qdrant_vector_store_needs_one_pass_per_batch(embed, passes):
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import AsyncQdrantClient, QdrantClient

    encoder = SharedEncoder(embed)
    sparse_doc_fn, sparse_query_fn = sparse_functions(encoder)
    store = QdrantVectorStore(
        "pages",
        client=QdrantClient(":memory:"),
        aclient=AsyncQdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=sparse_doc_fn,
        sparse_query_fn=sparse_query_fn,
    )
    model = M3Embedding(encoder, embed_batch_size=3)
    nodes = [TextNode(text=text) for text in TEXTS]
    with passes() as counted:
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex(nodes, storage_context=context, embed_model=model)
        found = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=2).retrieve("record a macro")
    assert counted == [3, 1, 1]
    assert found[0].text == "record a macro"
    with passes() as counted:
        dense = await model.aget_text_embedding_batch(["a", "b"])
        assert dense == model.get_text_embedding_batch(["a", "b"])
        assert await model.aget_query_embedding("a") == model.get_query_embedding("a")
        assert await model.aget_text_embedding("b") == model.get_text_embedding("b") == dense[1]
    assert counted == [2, 1]
    assert model.model_name == "m3-small"


def test_the_example_finds_the_pages(run_example):
    assert set(PAGES) <= set(run_example("llama_index_search.py").split())
