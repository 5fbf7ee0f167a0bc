"""Exact words as the fourth part of the score: one behaviour, every store that has them; the others say why not.

The scores are worked out here from the definitions (``m3_vdb.scoring``), not by a store.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.bm25 import bm25_document, bm25_query
from m3_vdb.errors import CollectionMismatchError, ConfigError
from m3_vdb.scoring import bm25_score, hybrid_score, score
from m3_vdb.stores import CollectionOptions, open_store
from m3_vdb.stores.fusion import SOURCE_VECTORS, words_limit
from m3_vdb.stores.points import point_id
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries

DOCUMENTS = 80
WITH_WORDS = CollectionOptions(bm25=True)
WORDS = [f"{word}{i}" for word in ("pump", "AB-12/", "m3_vdb.", "filter", "中文") for i in range(30)]
WEIGHTS = {"four": (1, 0.3, 1, 0.6), "two": (0.5, 0, 0, 2), "words": (0, 0, 0, 1), "tokens": (0, 1, 0, 1)}


def documents(n=DOCUMENTS):
    """Different words in every document, so that no two scores are equal; some have none."""
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 60))) if i % 9 else f"– {i and '…'}" for i in range(n)]
    texts = [text if any(map(str.isalnum, text)) else "word" for text in texts]
    return [replace(one, text=text, title="") for one, text in zip(make_documents(n), texts, strict=True)]


def questions(n=4):
    rng = random.Random(8)
    return [replace(one, bm25=bm25_query(" ".join(rng.sample(WORDS, 4)))) for one in make_queries(n)]


def shards_of(backend):
    """Qdrant counts the holders of a word in each shard by itself."""
    return 3 if backend.name == "rest-shards" else 1


def expected(query, weights, source="union", candidates=DOCUMENTS, shards=1):
    """Id → (fused score, parts) of every candidate, by the definition."""
    found = documents()
    vectors = [bm25_document(one.content) for one in found]
    homes = [uuid.UUID(point_id(one.id)).int % shards for one in found]  # as the stub spreads them
    holders, count = defaultdict(Counter), Counter()
    for vector, home in zip(vectors, homes, strict=True):
        holders[home].update(vector.ids.tolist())
        count[home] += len(vector.ids) > 0
    parts = {
        one.id: replace(
            score(query, embedding),
            bm25=bm25_score(query.bm25, vector, documents=count[home], holders=holders[home]),
        )
        for one, vector, home, embedding in zip(found, vectors, homes, make_embeddings(DOCUMENTS), strict=True)
    }
    chosen = set()
    for name in (*SOURCE_VECTORS[source], *(["bm25"] if source == "union" and weights.bm25 else [])):
        by_score = sorted(parts, key=lambda i: -getattr(parts[i], name))
        most = words_limit(candidates) if name == "bm25" else candidates
        chosen |= {i for i in by_score[:most] if name == "dense" or getattr(parts[i], name) > 0}
    return {i: (hybrid_score(parts[i], weights), parts[i]) for i in chosen}


def refused(backend):
    """Whether the store says why it has no exact words."""
    if not backend.name.startswith("milvus"):
        return False
    with pytest.raises(ConfigError, match=r"bm25=True: Milvus adds weighted scores only.*keep exact words in a folder"):
        backend.open(IDENTITY, options=WITH_WORDS)
    return True


def assert_exact(store, *, shards, sources=SOURCE_VECTORS):
    for query in questions():
        for given in WEIGHTS.values():
            for source in sources:
                truth = expected(query, Weights(*given), source, shards=shards)
                best = sorted((total for total, _ in truth.values()), reverse=True)[:20]
                ranking = store.rank(query, weights=given, limit=20, candidates=DOCUMENTS, source=source)
                assert [total for _, total in ranking] == pytest.approx(best, rel=1e-5, abs=1e-6)
                assert {i: truth[i][0] for i, _ in ranking} == pytest.approx(dict(ranking), rel=1e-5, abs=1e-6)


def test_every_candidate_has_its_exact_score_of_four_parts(backend):
    if refused(backend):
        return
    with backend.open(IDENTITY, options=WITH_WORDS) as store:
        store.upsert(documents(), make_embeddings(DOCUMENTS))
        assert store.has_bm25
        assert_exact(store, shards=shards_of(backend))
        of_four = partial(expected, weights=Weights(*WEIGHTS["four"]), shards=shards_of(backend))
        for query in questions():
            hits = store.query(query, weights=WEIGHTS["four"], candidates=DOCUMENTS, explain=True)
            truth = of_four(query)
            for hit in hits:
                assert hit.parts.as_dict() == pytest.approx(truth[hit.document.id][1].as_dict(), rel=1e-5, abs=1e-6)
            few = store.query(query, weights=WEIGHTS["four"], candidates=5)
            assert {hit.document.id for hit in few} <= of_four(query, candidates=5).keys()
            filtered = store.query(
                query, weights=WEIGHTS["four"], limit=99, candidates=DOCUMENTS, filter={"lang": "de"}
            )
            matching = [i for i in of_four(query) if int(i[1:]) % 3 == 0]
            assert sorted(hit.document.id for hit in filtered) == sorted(matching)


def test_without_a_weight_nothing_changes(backend):
    """The parts are shown where they are asked for; score and order are those of three parts."""
    if refused(backend):
        return
    with backend.open(IDENTITY, options=WITH_WORDS) as store:
        store.upsert(documents(), make_embeddings(DOCUMENTS))
        query = questions(1)[0]
        plain = store.query(replace(query, bm25=None), explain=True)
        assert all(hit.parts.bm25 is None for hit in plain)
        shown = store.query(query, explain=True)
        assert [replace(hit, parts=replace(hit.parts, bm25=None)) for hit in shown] == plain
        assert any(hit.parts.bm25 > 0 for hit in shown)


@pytest.mark.parametrize("fusion", ["rrf", "dbsf"])
def test_other_fusions_are_those_of_the_oracle(backend, fusion):
    if refused(backend):
        return
    if shards_of(backend) > 1:
        pytest.skip("the oracle is not of several shards")
    with (
        open_store("memory://", IDENTITY, options=WITH_WORDS) as oracle,
        backend.open(IDENTITY, options=WITH_WORDS) as store,
    ):
        for one in (oracle, store):
            one.upsert(documents(), make_embeddings(DOCUMENTS))
        for query in questions():
            for weights in WEIGHTS.values():
                asked = {"weights": weights, "fusion": fusion, "candidates": DOCUMENTS}
                theirs = {hit.document.id: hit.score for hit in oracle.query(query, limit=DOCUMENTS, **asked)}
                mine = {hit.document.id: hit.score for hit in store.query(query, **asked)}
                assert {i: theirs[i] for i in mine} == pytest.approx(mine, rel=1e-4)


def test_a_collection_that_exists_gets_them_even_after_an_interruption(backend, monkeypatch):
    if not backend.keeps or backend.name.startswith("milvus"):
        pytest.skip("always new, or without exact words")
    with backend.open(IDENTITY) as store:
        store.upsert(documents(), make_embeddings(DOCUMENTS))
        before = store.query(questions(1)[0], explain=True)
        assert not store.has_bm25
        with pytest.raises(ConfigError, match=r"weights give bm25 1, .* has no exact words: make it with"):
            store.query(questions(1)[0], weights=(0, 0, 0, 1))
    kind, batches = type(store), []

    def interrupted(self, words, put=kind._put_words):
        if batches:
            raise KeyboardInterrupt
        batches.append(words)
        put(self, words)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_put_words", interrupted)
        patch.setattr("m3_vdb.stores.qdrant.collection.READ_AT_ONCE", 30)
        with pytest.raises(KeyboardInterrupt):
            backend.open(IDENTITY, options=WITH_WORDS)
    with backend.open(IDENTITY) as store:  # it has them now, and half of the documents lack theirs
        assert store.has_bm25
    with backend.open(IDENTITY, options=WITH_WORDS) as store:
        assert_exact(store, shards=shards_of(backend), sources=["union"])
        assert store.query(replace(questions(1)[0], bm25=None), explain=True) == before
        store.update(["d3"], {"lang": "xx"})
        assert_exact(store, shards=shards_of(backend), sources=["union"])  # a new payload leaves them


def test_a_replaced_document_has_the_words_of_its_new_text(backend):
    if refused(backend):
        return
    with backend.open(IDENTITY, options=WITH_WORDS) as store:
        store.upsert(documents(), make_embeddings(DOCUMENTS))
        new = replace(documents()[4], text="zebra E-99", title="")
        store.upsert([new], make_embeddings(DOCUMENTS)[4:5])
        for text, found in (("ZEBRA", ["d4"]), ("e-99", ["d4"])):
            query = replace(make_queries(1)[0], bm25=bm25_query(text))
            hits = store.query(query, weights=(0, 0, 0, 1), score_threshold=1e-9)
            assert [hit.document.id for hit in hits] == found


def test_a_query_without_words_is_refused_only_where_they_count():
    with open_store("memory://", IDENTITY, options=WITH_WORDS) as store:
        store.upsert(documents(), make_embeddings(DOCUMENTS))
        query = make_queries(1)[0]
        with pytest.raises(ConfigError, match=r"weights give bm25 0\.5, and the query has no exact words: dataclasses"):
            store.query(query, weights=(1, 0.3, 1, 0.5))
        wordless = replace(query, bm25=bm25_query("… !"))
        assert [hit.score for hit in store.query(wordless, weights=(1, 0.3, 1, 0.5))] == [
            hit.score for hit in store.query(query)
        ]


def test_the_request_of_three_parts_is_what_it_was_and_that_of_four_is_one_request():
    """On a collection with exact words and on one without."""
    stub = RestStub()
    bodies = {}
    for name, options in (("without", CollectionOptions()), ("with", WITH_WORDS)):
        with open_store(f"qdrant://{stub.address}/{name}", IDENTITY, options=options) as store:
            store.upsert(documents(), make_embeddings(DOCUMENTS))
            stub.bodies.clear()
            store.query(questions(1)[0])
            bodies[name] = [body for _, path, _, body in stub.bodies if "query" in path]
            if name == "with":
                stub.bodies.clear()
                store.query(questions(1)[0], weights=WEIGHTS["four"])
                (four,) = [body for _, path, _, body in stub.bodies if "query" in path]
    stub.close()
    assert bodies["with"] == bodies["without"]
    assert len(bodies["with"]) == 1
    score = "$score[3]"
    *_, words = four["query"]["formula"]["sum"]
    assert words == {"mult": [0.6, {"div": {"left": score, "right": {"sum": [score, 10.0]}, "by_zero_default": 0.0}}]}
    assert [one["using"] for one in four["prefetch"][1]["prefetch"]] == ["dense", "sparse", "bm25"]


def test_an_old_server_says_what_it_needs():
    stub = RestStub(version="1.17.1")
    open_store(f"qdrant://{stub.address}/old", IDENTITY).close()
    with pytest.raises(ConfigError, match=r"from version 1\.18 on \(this one: 1\.17\.1\): upgrade it, or ingest into"):
        open_store(f"qdrant://{stub.address}/old", IDENTITY, options=WITH_WORDS)
    open_store(f"qdrant://{stub.address}/new", IDENTITY, options=WITH_WORDS).close()
    stub.close()


def test_a_vector_of_that_name_without_idf_is_refused():
    stub = RestStub()
    open_store(f"qdrant://{stub.address}/c", IDENTITY, options=WITH_WORDS).close()
    stub.engine.collections["c"].created.sparse_vectors["bm25"].modifier = None
    with pytest.raises(CollectionMismatchError, match="its vector bm25 lacks the modifier idf"):
        open_store(f"qdrant://{stub.address}/c", IDENTITY)
    stub.close()
