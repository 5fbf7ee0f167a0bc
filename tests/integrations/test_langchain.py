from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from m3_vdb import HybridIndex
from m3_vdb.errors import ConfigError, InputError
from m3_vdb.integrations.encoder import SharedEncoder, m3_scores
from m3_vdb.integrations.langchain import (
    M3Compressor,
    M3Embeddings,
    M3MilvusSparseEmbedding,
    M3SparseEmbeddings,
    M3VectorStore,
)

pytestmark = pytest.mark.integration

TEXTS = ["the formula bar is hidden", "record a macro", "export to PDF with a password", "change the language"]
PAGES = ("lo/en/swriter/guide/table_cellmerge:", "lo/en/scalc/01/03090000:", "lo/zh-cn/swriter/01/04030000:")
METADATA = [{"number": i, "lang": "en" if i % 2 else "de"} for i in range(4)]


@pytest.fixture(params=["memory://", "store.qdrant", "store.milvus.db"])
def place(request, tmp_path):
    return request.param if "://" in request.param else str(tmp_path / request.param)


@pytest.fixture
def store(embed):
    made = M3VectorStore.from_texts(TEXTS, M3Embeddings(embed), METADATA, ids=list("abcd"))
    yield made
    made.close()


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, embed, place):
        store = M3VectorStore(HybridIndex.open(place, model=embed))
        yield store
        store.close()


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, store):
        self.store = store

    @property
    def retriever_constructor(self):
        return lambda k=4: self.store.as_retriever(search_kwargs={"k": k})

    @property
    def retriever_query_example(self):
        return "how do I record a macro?"


class Embeddings:
    @pytest.fixture(autouse=True)
    def _embed(self, embed):
        self.embed = embed

    @property
    def embeddings_class(self):
        return M3Embeddings

    @property
    def embedding_model_params(self):
        return {"model": self.embed}


class TestEmbeddings(Embeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(Embeddings, EmbeddingsIntegrationTests):
    pass


def test_one_pass_per_batch_and_one_per_query(embed, passes):
    texts = [f"text {i}" for i in range(10)]
    with passes() as counted:
        store = M3VectorStore.from_texts(texts, M3Embeddings(embed))
        store.add_texts(texts, batch_size=4)
        store.similarity_search("text 3")
        store.as_retriever().invoke("text 4")
    assert counted == [10, 4, 4, 2, 1, 1]
    assert store.index.count() == 10, "the same texts have the same ids"


async def test_the_async_methods_find_the_same_with_as_many_passes(embed, passes):
    with passes() as counted:
        store = await M3VectorStore.afrom_texts(TEXTS, M3Embeddings(embed), METADATA)
        found = await store.asimilarity_search_with_score("record", k=3, filter={"number": {"$gte": 1}})
    assert counted == [4, 1]
    assert found == store.similarity_search_with_score("record", k=3, filter={"number": {"$gte": 1}})
    assert await store.as_retriever(search_kwargs={"k": 3}).ainvoke("record") == store.similarity_search("record", k=3)
    by_relevance = {"search_type": "similarity_score_threshold", "search_kwargs": {"score_threshold": 0.3}}
    assert await store.as_retriever(**by_relevance).ainvoke("record") == store.as_retriever(**by_relevance).invoke(
        "record"
    )
    await store.adelete(filter={"lang": "de"})
    assert {one.metadata["lang"] for one in await store.asimilarity_search("record", k=9)} == {"en"}
    await store.aclose()


def test_a_search_is_that_of_the_index(store):
    options = {
        "weights": (0, 1, 0),
        "source": "sparse",
        "candidates": 3,
        "filter": {"lang": "en"},
        "score_threshold": 0.1,
    }
    hits = store.index.query("record a macro", limit=2, **options)
    found = store.similarity_search_with_score("record a macro", k=2, **options)
    assert [(one.id, score) for one, score in found] == [(hit.document.id, hit.score) for hit in hits]
    assert found[0][0] == Document(id="b", page_content=TEXTS[1], metadata=METADATA[1])


def test_relevance_is_the_weighted_mean_of_the_scores_from_0_to_1(store):
    found = store.similarity_search_with_score(TEXTS[1])
    with_relevance = store.similarity_search_with_relevance_scores(TEXTS[1])
    assert with_relevance == [(one, pytest.approx(min(1, max(0, score / 2.3)))) for one, score in found]
    lexical, query = {"weights": (0, 2, 0), "source": "sparse"}, " ".join(TEXTS)
    store.add_texts([query])
    (_, score), *_ = store.similarity_search_with_score(query, **lexical)
    (_, relevance), *_ = store.similarity_search_with_relevance_scores(query, **lexical)
    assert score / 2 > relevance == 1.0
    with pytest.raises(ConfigError, match="rrf"):
        store.similarity_search_with_relevance_scores(TEXTS[1], fusion="rrf")


def test_ids_are_given_or_made_from_text_and_metadata(store):
    made = store.add_texts(["x", "x", "y"], [{"n": 1}, {"n": 1}, {}])
    assert len(set(made)) == 3
    assert store.add_texts(["y", "x"], [{}, {"n": 1}], ids=[None, "mine"]) == [made[2], "mine"]
    assert store.add_documents([Document(page_content="x", metadata={"n": 1})]) == made[:1]
    with pytest.raises(ConfigError, match="2, 1 and 2"):
        store.add_texts(["a", "b"], [{}])


def test_a_deletion_is_by_ids_by_filter_or_of_everything(embed, place):
    store = M3VectorStore.from_texts(TEXTS, M3Embeddings(embed), METADATA, ids=list("abcd"), store=place)
    store.delete(["a"])
    store.delete(filter={"number": {"$lte": 1}})
    assert [one.id for one in store.get_by_ids(list("abcd"))] == ["c", "d"]
    store.delete()
    assert store.index.count() == 0
    store.close()


async def test_a_store_whose_first_texts_fail_is_closed(embed, tmp_path):
    for _ in range(2):  # a folder that is open could not be opened again
        with pytest.raises(InputError, match="document 1"):
            M3VectorStore.from_texts(["a", 3], M3Embeddings(embed), store=tmp_path / "notes.qdrant")
        with pytest.raises(InputError, match="document 1"):
            await M3VectorStore.afrom_texts(["a", 3], M3Embeddings(embed), store=tmp_path / "notes.qdrant")


def test_langchains_indexing_adds_changes_and_removes(store):
    records = InMemoryRecordManager("pages")
    records.create_schema()

    def synchronize(*texts):
        documents = [Document(page_content=text, metadata={"source": "s"}) for text in texts]
        return index(documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")

    store.delete()
    assert synchronize("one", "two")["num_added"] == 2
    done = synchronize("two", "three")
    assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 1, 1)
    assert sorted(one.page_content for one in store.similarity_search("one")) == ["three", "two"]


def test_what_others_stored_comes_with_its_title(store):
    store.index.add([{"id": "t", "title": "Macros", "text": "How to record", "payload": {"n": 1}}])
    assert store.get_by_ids(["t"]) == [
        Document(id="t", page_content="How to record", metadata={"title": "Macros", "n": 1})
    ]


def test_other_embeddings_and_unknown_options_are_refused(store):
    from langchain_core.embeddings import DeterministicFakeEmbedding

    with pytest.raises(ConfigError, match="expected M3Embeddings"):
        M3VectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=4))
    with pytest.raises(ConfigError, match="got chunk"):
        store.add_texts(["a"], chunk=3)


def test_the_compressor_orders_by_m3_score_with_one_pass_for_each_side(embed, passes):
    documents = [Document(page_content=text, metadata={"n": i}) for i, text in enumerate(TEXTS)]
    with passes() as counted:
        kept = M3Compressor(embed=embed, top_n=2).compress_documents(documents, "record a macro")
    assert counted == [1, 4]
    scores = m3_scores(embed, "record a macro", TEXTS)
    best = sorted(range(4), key=lambda i: -scores[i])[:2]
    assert [one.metadata for one in kept] == [{"n": i, "relevance_score": pytest.approx(scores[i])} for i in best]
    assert documents[0].metadata == {"n": 0}
    assert list(M3Compressor(embed=embed).compress_documents([], "query")) == []


async def test_hybrid_search_of_langchain_qdrant_needs_one_pass_per_batch(embed, passes):
    from langchain_qdrant import QdrantVectorStore, RetrievalMode
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings

    encoder = SharedEncoder(embed)
    sparse = M3SparseEmbeddings(encoder)
    assert isinstance(sparse, SparseEmbeddings)
    store = QdrantVectorStore.from_texts(
        ["dummy"],
        M3Embeddings(encoder),
        sparse_embedding=sparse,
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
        collection_name="notes",
    )
    with passes() as counted:
        store.add_texts(TEXTS, METADATA)
        found = store.similarity_search("record a macro", k=2)
        assert await store.asimilarity_search("record a macro", k=2) == found
    assert counted == [4, 1]
    assert found[0].page_content == "record a macro"
    assert await sparse.aembed_documents(["a macro"]) == sparse.embed_documents(["a macro"])
    assert await sparse.aembed_query("a macro") == sparse.embed_query("a macro")


@pytest.mark.filterwarnings("ignore:The 'ranker_type':DeprecationWarning")  # langchain-milvus' own default
async def test_langchain_milvus_needs_one_pass_per_batch(embed, passes, tmp_path):
    from langchain_milvus import Milvus
    from langchain_milvus.utils.sparse import BaseSparseEmbedding

    encoder = SharedEncoder(embed)
    sparse = M3MilvusSparseEmbedding(encoder)
    assert isinstance(sparse, BaseSparseEmbedding)
    with passes() as counted:
        store = Milvus.from_texts(
            TEXTS,
            [M3Embeddings(encoder), sparse],
            METADATA,
            vector_field=["dense", "sparse"],
            index_params=[{"index_type": kind, "metric_type": "IP"} for kind in ("FLAT", "SPARSE_INVERTED_INDEX")],
            search_params=[{"metric_type": "IP"}] * 2,  # a file takes no drop_ratio_build, langchain-milvus' default
            connection_args={"uri": str(tmp_path / "lc.db")},
        )
    assert counted == [4]
    with passes() as counted:
        found = store.similarity_search("record a macro", k=2)
    assert counted == [1]
    assert found[0].page_content == "record a macro"
    assert await sparse.aembed_documents(["a macro"]) == sparse.embed_documents(["a macro"])
    assert await sparse.aembed_query("a macro") == sparse.embed_query("a macro")


def test_the_example_finds_the_pages(run_example):
    assert set(PAGES) <= set(run_example("langchain_search.py").split())
