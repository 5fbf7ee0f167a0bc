"""Plans for documents with too many tokens: what is stored, found and counted, in three kinds of stores."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb import Document, HybridIndex, M3EmbeddingFunction
from m3_vdb.encoding.long_documents import PLANS, LongDocuments
from m3_vdb.encoding.splitter import Splitter
from m3_vdb.encoding.token_pooling import pool_rows
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest import ingest
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.stores import MemoryStore, open_store, transfer
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings

WORDS = ["the", "vector", "search", "index", "query", "text", "document", "token", "score", "der", "und", "Straße"]
TEXT = st.text(alphabet="ab .,\n\u3000索检量éß①½ﷺ🙂 word", max_size=300)


def long_text(words: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def embed(tiny_bundle):
    return M3EmbeddingFunction(tiny_bundle, on_truncate="ignore")


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_json):
    return Tokenizer(tiny_tokenizer_json)


@pytest.fixture(params=["memory", "edge", "milvus-lite"])
def opened(request, tmp_path, embed):
    url = {"memory": "memory://", "edge": f"{tmp_path}/x.qdrant", "milvus-lite": f"{tmp_path}/x.milvus.db"}
    with open_store(url[request.param], identity=embed.identity) as store:
        yield store


def corpus() -> list[Document]:
    """Short documents, and long ones of 100 to 400 tokens where the model takes 64; some with a title."""
    long = [
        Document(f"long{i}", long_text(100 + 60 * i, i), "the title" if i % 2 else "", {"kind": "long", "n": i})
        for i in range(5)
    ]
    short = [Document(f"short{i}", long_text(9, 50 + i), payload={"kind": "short", "n": i}) for i in range(5)]
    return [*long, *short]


def stored_rows(store) -> dict[str, np.ndarray]:
    return {
        document.id: embedding.multi_vector
        for documents, embeddings in store.scroll()
        for document, embedding in zip(documents, embeddings, strict=True)
    }


# --- pool, truncate, error


def test_a_plan_for_a_batch():
    documents, embeddings = make_documents(20), make_embeddings(20)
    counts = np.diff(embeddings.multi_vector_offsets)
    pooled, long = LongDocuments(plan="pool", max_rows=25).fit(documents, embeddings, 1000)
    cut, also_long = LongDocuments(plan="truncate").fit(documents, embeddings, 25)
    assert long.tolist() == also_long.tolist() == (counts > 25).tolist()
    assert 0 < long.sum() < 20
    for before, one, other in zip(embeddings, pooled, cut, strict=True):
        np.testing.assert_array_equal(one.multi_vector, pool_rows(before.multi_vector, 25))
        np.testing.assert_array_equal(other.multi_vector, before.multi_vector[:25])
    assert pooled.dense is embeddings.dense
    same, none = LongDocuments(plan="pool").fit(documents, embeddings, None)
    assert same is embeddings
    assert not none.any()
    with pytest.raises(DocumentError, match=f"has {counts[long.argmax()]} rows, and 25 fit: choose a plan") as caught:
        LongDocuments(max_rows=25).fit(documents, embeddings, None)
    assert caught.value.index == long.argmax()


def test_every_document_is_pooled_by_a_factor_and_only_long_ones_are_counted():
    documents, embeddings = make_documents(20), make_embeddings(20)
    counts = np.ceil(np.diff(embeddings.multi_vector_offsets) / 3)
    pooled, long = LongDocuments(plan="truncate", pool_factor=3, max_rows=15).fit(documents, embeddings, None)
    assert np.diff(pooled.multi_vector_offsets).tolist() == np.minimum(counts, 15).tolist()
    assert long.tolist() == (counts > 15).tolist()


@pytest.mark.parametrize("wrong", [
    {"plan": "cut"}, {"max_rows": 0}, {"pool_factor": 0.9}, {"plan": "split", "overlap": -1}, {"overlap": 3},
])  # fmt: skip
def test_a_plan_out_of_range(wrong):
    with pytest.raises(ConfigError, match="expected"):
        LongDocuments(**wrong)


@pytest.mark.parametrize("plan", ["pool", "truncate"])
def test_stored_documents_have_no_more_rows_than_planned(opened, embed, plan):
    documents = corpus()
    embeddings = embed.encode_documents([document.content for document in documents])
    report = ingest(documents, embed, opened, long_documents=LongDocuments(plan=plan, max_rows=30))
    assert (report.documents, report.long_documents, report.rejected_count) == (10, 5, 0)
    assert report.as_dict()["long_documents"] == 5
    rows = stored_rows(opened)
    for document, embedding in zip(documents, embeddings, strict=True):
        whole = embedding.multi_vector
        assert (len(whole) > 30) == document.id.startswith("long")
        expected = pool_rows(whole, 30) if plan == "pool" else whole[:30]
        np.testing.assert_allclose(rows[document.id], expected, atol=1e-5)
    with HybridIndex(embed, opened) as index:
        for document in documents:
            hit = index.query(document.content, limit=1, weights=Weights(1, 0, 0))[0]
            assert hit.score == pytest.approx(1, abs=1e-4), "the dense vector is that of the whole document"
        assert index.get(["long1"])[0].text == documents[1].text


def test_without_a_plan_long_documents_are_rejected_one_by_one(embed):
    with MemoryStore(embed.identity) as store:
        report = ingest(corpus(), embed, store, long_documents=LongDocuments(max_rows=30))
        assert report.documents == 5
        assert [(one.id, one.kind) for one in report.rejected] == [(f"long{i}", "not storable") for i in range(5)]
        assert "choose a plan" in report.rejected[0].reason
    with (
        HybridIndex(embed, MemoryStore(embed.identity), long_documents=LongDocuments(max_rows=30)) as index,
        pytest.raises(DocumentError, match="choose a plan"),
    ):
        index.add(corpus())


def test_another_plan_encodes_again_what_it_concerns(embed):
    with MemoryStore(embed.identity) as store:
        for plan, encoded in (("pool", 10), ("pool", 0), ("truncate", 5), ("truncate", 0)):
            report = ingest(corpus(), embed, store, long_documents=LongDocuments(plan=plan, max_rows=60))
            assert (report.documents, report.unchanged) == (encoded, 10 - encoded)
        assert ingest(corpus(), embed, store, long_documents=LongDocuments(pool_factor=2)).documents == 10


def test_the_limits_of_the_stores():
    from qdrant_client import QdrantClient

    from m3_vdb.stores.qdrant.server import QdrantStore

    with QdrantStore(QdrantClient(":memory:"), "notes", identity=IDENTITY) as store:
        rows = store.max_rows
        assert rows * IDENTITY.multi_vector_dim < 1_048_576 <= (rows + 1) * IDENTITY.multi_vector_dim
    with MemoryStore(IDENTITY) as memory:
        assert memory.max_rows is None


def test_what_a_server_takes_is_the_limit_of_a_plan(embed):
    from qdrant_client import models

    from benchmarks.stubs.qdrant_rest_stub import RestStub

    rows = {"multi_vector": models.StrictModeMultivector(max_vectors=20)}
    stub = RestStub(strict=models.StrictModeConfig(enabled=True, multivector_config=rows))
    try:
        for plan, documents in (("error", 5), ("pool", 10), ("truncate", 10), ("split", 40)):
            with open_store(f"qdrant://{stub.address}/{plan}", identity=embed.identity) as store:
                assert store.max_rows == 20
                report = ingest(corpus(), embed, store, long_documents=LongDocuments(plan=plan))
                assert report.documents == store.count() >= documents
                assert report.rejected_count == (5 if plan == "error" else 0)
                assert max(map(len, stored_rows(store).values())) <= 20
    finally:
        stub.close()


def test_a_collection_moves_to_a_store_of_fewer_rows(embed, tmp_path):
    plan = LongDocuments(plan="pool", max_rows=30)
    with MemoryStore(embed.identity) as source, MemoryStore(embed.identity) as target:
        ingest(corpus(), embed, source)
        transfer.export_parquet(source, tmp_path / "x.parquet")
        for move in (
            lambda **options: transfer.copy(source, target, **options),
            lambda **options: transfer.import_parquet(tmp_path / "x.parquet", target, **options),
        ):
            with pytest.raises(DocumentError, match="choose a plan"):
                move(long_documents=LongDocuments(max_rows=30))
            assert move(long_documents=plan) == 10
            before, after = stored_rows(source), stored_rows(target)
            for name, rows in before.items():
                np.testing.assert_allclose(after[name], pool_rows(rows, 30), atol=1e-6)
            target.delete(list(after))


def test_an_array_on_a_milvus_server_is_a_limit():
    from benchmarks.stubs.milvus_stub import MilvusStub

    stub = MilvusStub()
    try:
        with open_store(f"{stub.url}/notes", identity=IDENTITY) as store:
            assert store.max_rows == 4096
    finally:
        stub.close()


def test_an_index_pools_and_counts(embed):
    plan = LongDocuments(plan="pool", max_rows=30)
    with HybridIndex(embed, MemoryStore(embed.identity), long_documents=plan) as index:
        report = index.add(corpus(), batch_size=3)
        assert (report.documents, report.passages, report.long_documents) == (10, 10, 5)


# --- cutting


@given(TEXT, st.integers(30, 50), st.integers(0, 9), st.sampled_from(["", "the title"]))
def test_passages_are_short_and_lose_nothing(tokenizer, text, max_tokens, overlap, title):
    document = Document("d", text, title, {"a": 1})
    passages = Splitter(tokenizer, max_tokens=max_tokens, overlap=overlap).split(document)
    if len(passages) == 1:
        assert passages == [document]
        assert tokenizer.count([document.content])[0] <= max_tokens
        return
    end = 0
    for number, passage in enumerate(passages, start=1):
        part = passage.passage
        assert (part.document, part.number, part.count) == ("d", number, len(passages))
        assert passage.id == ("d" if number == 1 else f"d¶{number}")
        assert passage.text == text[part.start : part.stop]
        assert part.start <= end < part.stop, "no gap, and each goes further"
        assert part.start == end or overlap
        assert passage.title == title
        assert tokenizer.count([passage.content])[0] <= max_tokens
        assert passage.payload["a"] == 1
        end = part.stop
    assert end == len(text)


def test_passages_end_between_words_and_share_some(tokenizer):
    text = long_text(60, 3)
    passages = Splitter(tokenizer, max_tokens=22, overlap=5).split(Document("d", text))
    assert len(passages) > 3
    words = [passage.text.split() for passage in passages]
    for before, after in pairwise(words):
        assert all(word in WORDS for word in after)
        assert before[-5:] == after[:5], "these words are one token each"
    assert [word for passage in Splitter(tokenizer, max_tokens=22).split(Document("d", text))
            for word in passage.text.split()] == text.split()  # fmt: skip


def test_a_title_that_leaves_no_room(tokenizer):
    with pytest.raises(DocumentError, match="shorten the title"):
        Splitter(tokenizer, max_tokens=32).split(Document("d", "text " * 90, long_text(30, 1)))


def test_passages_out_of_range(tokenizer, embed):
    for max_tokens, overlap in ((9, 0), (20, 10)):
        with pytest.raises(ConfigError, match="passages of"):
            Splitter(tokenizer, max_tokens=max_tokens, overlap=overlap)
    encode = staticmethod(lambda texts: None)
    stranger = type("Stranger", (), {"identity": IDENTITY, "encode_documents": encode, "encode_queries": encode})()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        HybridIndex(stranger, MemoryStore(IDENTITY), long_documents=LongDocuments(plan="split"))


# --- splitting


SPLIT = LongDocuments(plan="split")


def test_hits_are_documents_with_the_score_of_their_best_passage(opened, embed):
    documents, query = corpus(), "the sparse token model und die Straße"
    with HybridIndex(embed, opened, long_documents=SPLIT) as index:
        report = index.add(documents, batch_size=4)
        assert (report.documents, report.long_documents) == (10, 5)
        assert index.count() == report.passages > 20
        splitter = Splitter(embed.tokenizer, max_tokens=embed.max_length)
        asked = embed.encode_queries([query])[0]
        best = {}
        for document in documents:
            passages = splitter.split(document)
            encoded = embed.encode_documents([passage.content for passage in passages])
            scores = [hybrid_score(score(asked, one), Weights()) for one in encoded]
            best[document.id] = max(zip(scores, (passage.text for passage in passages), strict=True))
        expected = sorted(best, key=lambda name: -best[name][0])
        for offset, limit in ((0, 10), (0, 3), (4, 2), (8, 5)):
            hits = index.query(query, offset=offset, limit=limit, explain=True)
            assert [hit.document.id for hit in hits] == expected[offset : offset + limit]
            for hit in hits:
                assert (hit.score, hit.document.text) == (pytest.approx(best[hit.document.id][0], rel=1e-4),
                                                          best[hit.document.id][1])  # fmt: skip
                assert hit.parts is not None
                assert hit.document.passage is None
                assert hit.document.payload.keys() == {"kind", "n"}
                assert (hit.passage is not None) == hit.document.id.startswith("long")
        assert {hit.document.id for hit in index.query(query, filter={"kind": "long", "n": [1, 2]})} == {
            "long1",
            "long2",
        }
        # One candidate is one passage.
        assert len(index.query(query, limit=1, candidates=1)) == 1
        with pytest.raises(ConfigError, match=r"limit=10 hits of candidates=1, .*pass candidates=10"):
            index.query(query, limit=10, candidates=1)
        with pytest.raises(ConfigError, match="limit=0"):
            index.query(query, limit=0)


def test_get_replace_and_delete_whole_documents(opened, embed):
    documents = corpus()
    with HybridIndex(embed, opened, long_documents=LongDocuments(plan="split", overlap=4, max_rows=30)) as index:
        index.add(documents)
        everything = index.count()
        assert index.get(["long3", "no", "short1", "long0"]) == [documents[3], documents[6], documents[0]]
        passages = opened.get(["long3"])[0].passage.count
        assert passages > 4
        index.add([Document("long3", "short now")])
        assert index.count() == everything - passages + 1
        assert index.get(["long3"]) == [Document("long3", "short now")]
        passages = opened.get(["long4"])[0].passage.count
        index.delete(["long4", "long3", "no"])
        assert index.count() == everything - read_passage_count(documents[3], embed) - passages
        assert index.get(["long4"]) == []
        assert "long4" not in {hit.document.id for hit in index.query(documents[4].text[:60], limit=10)}


def read_passage_count(document: Document, embed: M3EmbeddingFunction) -> int:
    return len(Splitter(embed.tokenizer, max_tokens=31, overlap=4).split(document))


def test_ingest_splits_skips_what_is_unchanged_and_removes_what_is_left_over(opened, embed):
    documents = corpus()
    report = ingest(documents, embed, opened, long_documents=SPLIT)
    passages = report.documents
    assert (report.long_documents, report.truncated, report.rejected_count) == (5, 0, 0)
    assert opened.count() == passages > 20
    again = ingest(documents, embed, opened, long_documents=SPLIT)
    assert (again.documents, again.unchanged) == (0, passages)

    last = opened.get(["long4"])[0].passage.count
    shorter = Document("long4", documents[4].text[:700], payload={"kind": "long", "n": 4})
    report = ingest([shorter], embed, opened, long_documents=SPLIT)
    left = opened.get(["long4"])[0].passage.count
    assert 1 < left < last
    assert opened.count() == passages - last + left
    assert HybridIndex(embed, opened).get(["long4"]) == [shorter]

    # Another plan leaves no passages either, nor does a run that encodes everything again.
    ingest(documents, embed, opened, long_documents=LongDocuments(plan="truncate"), skip_unchanged=False)
    assert opened.count() == 10
    assert HybridIndex(embed, opened).get(["long4"])[0].text == documents[4].text


def test_bad_rows_pass_the_splitter_and_are_rejected_as_ever(embed):
    bad = [
        Document("surrogate", "\ud800"), Document("", "no id"), Document("x¶7", "reserved"),
        Document("number", 7), Document("payload", "text", payload=[1]),
    ]  # fmt: skip
    with MemoryStore(embed.identity) as store:
        report = ingest([*bad, Document("good", long_text(100, 0))], embed, store, long_documents=SPLIT)
        assert report.rejected_count == 5
        assert report.long_documents == 1
        assert [one.kind for one in report.rejected] == ["not storable"] * 5
        assert HybridIndex(embed, store).get(["good"])[0].text == long_text(100, 0)


def test_a_passage_that_is_missing_is_a_gap_and_no_error(embed):
    document = Document("d", long_text(200, 1))
    with HybridIndex(embed, store := MemoryStore(embed.identity), long_documents=SPLIT) as index:
        index.add([document])
        part = store.get(["d¶2"])[0].passage
        store.delete(["d¶2"])
        assert index.get(["d"])[0].text == document.text[: part.start] + document.text[part.stop :]


def test_all_plans_are_tested():
    assert set(PLANS) == {"error", "truncate", "pool", "split"}
