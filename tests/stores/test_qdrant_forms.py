"""The four forms of a search on a Qdrant server, each chosen by what the server allows, all with the same scores.

The servers are the REST stub: the requests are real, and so are the scores of the engine behind; strict mode's refusals
and the shards are the stub's, written after the server's source.
"""

from __future__ import annotations

import pytest
from qdrant_client import models

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.scoring import hybrid_score
from m3_vdb.stores import MemoryStore, open_store
from m3_vdb.weights import Weights
from tests.stores._corpus import IDENTITY, assert_same_hits, make_documents, make_embeddings, make_queries

STRICT = models.StrictModeConfig(enabled=True, search_allow_exact=False)
NARROW = models.StrictModeConfig(enabled=True, search_allow_exact=False, search_max_batchsize=1)
BATCH, QUERY, POINTS = "points/query/batch", "points/query", "points"
FORMS = {  # shards, strict mode, what is asked for, the requests that this takes
    "one request": (1, None, {}, [QUERY]),
    "one request, two leaves": (1, None, {"source": "union"}, [QUERY]),
    "the same, then a batch to explain": (1, None, {"explain": True}, [QUERY, BATCH]),
    "a batch, in strict mode": (1, STRICT, {}, [BATCH, POINTS]),
    "batches of one, in strict mode": (1, NARROW, {"explain": True}, [BATCH] * 3 + [POINTS]),
    "two steps": (3, None, {}, [BATCH, QUERY]),
    "two steps, two leaves": (3, None, {"source": "union"}, [BATCH, QUERY]),
    "two steps, to explain": (3, None, {"explain": True}, [BATCH, QUERY, BATCH]),
    "two steps, in strict mode": (3, STRICT, {"explain": True}, [BATCH, BATCH, POINTS]),
}
N, CANDIDATES = 240, 150
"""More candidates than 128, from where on a server asks each of several shards for fewer than it may have."""
FILTER = {"lang": ["de", "en"]}


@pytest.fixture(scope="module")
def oracle():
    store = MemoryStore(IDENTITY)
    store.upsert(make_documents(N), make_embeddings(N))
    return store


@pytest.fixture(scope="module")
def servers():
    """(stub, open store) by number of shards and strict mode."""
    opened = {}
    for shards, strict, _, _ in FORMS.values():
        if (shards, id(strict)) not in opened:
            stub = RestStub(shards=shards, strict=strict)
            store = open_store(f"qdrant://{stub.address}/c", identity=IDENTITY)
            store.upsert(make_documents(N), make_embeddings(N))
            opened[shards, id(strict)] = stub, store
    yield opened
    for stub, store in opened.values():
        store.close()
        stub.close()


@pytest.fixture(params=FORMS)
def served(request, servers):
    """(stub, open store, arguments, paths of the requests of one search)."""
    shards, strict, args, paths = FORMS[request.param]
    return *servers[shards, id(strict)], args, paths


def test_the_form_is_what_the_server_allows(served):
    stub, store, args, paths = served
    stub.bodies.clear()
    store.query(make_queries(1)[0], limit=20, candidates=CANDIDATES, filter=FILTER, **args)
    assert [path.removeprefix("/collections/c/") for _, path, _, _ in stub.bodies] == paths


@pytest.mark.parametrize("weights", [Weights(), Weights(0.15, 0.5, 0.35), Weights(0, 1, 0)], ids=str)
@pytest.mark.parametrize("condition", [None, FILTER], ids=["all", "filtered"])
def test_every_form_gives_the_oracles_scores_and_parts(served, oracle, weights, condition):
    _, store, args, _ = served
    for query in make_queries(3):
        asked = {"weights": weights, "candidates": CANDIDATES, "filter": condition, **args}
        hits = store.query(query, limit=40, **asked)
        truth = oracle.query(query, limit=60, **{**asked, "explain": True})
        assert_same_hits(hits, truth, limit=40)
        parts = {hit.document.id: hit.parts for hit in truth}
        for hit in hits if args.get("explain") else []:
            theirs = parts[hit.document.id]
            for name in ("dense", "sparse", "multi_vector"):
                assert getattr(hit.parts, name) == pytest.approx(getattr(theirs, name), rel=1e-5, abs=1e-7)
            assert hit.score == pytest.approx(hybrid_score(hit.parts, weights), rel=1e-6)


def test_there_are_candidates_that_the_lexical_list_lacks(oracle):
    """A guard: of these the lexical score is 0, and a form that did not know would lose or misplace them."""
    for query in make_queries(3):
        hits = oracle.query(query, limit=CANDIDATES, candidates=CANDIDATES, explain=True)
        assert 5 < sum(hit.parts.sparse == 0 for hit in hits) < CANDIDATES - 5


def test_offset_and_threshold_are_of_the_fused_score(served):
    _, store, args, _ = served
    query = make_queries(1)[0]
    whole = store.query(query, limit=30, candidates=CANDIDATES, **args)
    page = store.query(query, limit=10, offset=10, candidates=CANDIDATES, **args)
    assert [hit.document.id for hit in page] == [hit.document.id for hit in whole[10:20]]
    middle = (whole[14].score + whole[15].score) / 2
    above = store.query(query, limit=30, candidates=CANDIDATES, score_threshold=middle, **args)
    assert [hit.document.id for hit in above] == [hit.document.id for hit in whole[:15]]


def test_an_empty_answer_asks_for_nothing_more(served):
    stub, store, args, _ = served
    stub.bodies.clear()
    assert store.query(make_queries(1)[0], filter={"lang": "none"}, **args) == []
    assert not [path for _, path, _, _ in stub.bodies if path.endswith(POINTS)]
