"""The order of hits: by score, then by id; one list, whatever the page, and the same with and without explain.

600 documents, 60 of them equal and among the best. One behaviour, every store.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import ConfigError
from m3_vdb.index import HybridIndex
from m3_vdb.stores import MemoryStore, ModelIdentity, open_store
from m3_vdb.stores.fusion import Found, best_first, page_window, take_page
from m3_vdb.stores.options import Search
from m3_vdb.types import Document, M3Embedding, M3Embeddings, Passage, SparseVector
from m3_vdb.weights import Weights

IDENTITY = ModelIdentity(name="small", fingerprint="f00d", dense_dim=8, multi_vector_dim=4)
N, EQUAL = 300, 30


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(5)
QUERY = M3Embedding(
    _unit(RNG.normal(size=8)),
    SparseVector(np.array([10, 12], np.int32), np.array([1.0, 0.5], np.float32)),
    _unit(RNG.normal(size=(3, 4))),
)


def embeddings(n, equal):
    """n texts of three tokens; every tenth of the first ``10 * equal`` has the same vectors, near to the query's."""
    dense, rows = _unit(RNG.normal(size=(n, 8))), _unit(RNG.normal(size=(n, 2, 4)))
    weights = RNG.uniform(0.1, 1, size=(n, 3)).astype(np.float32)
    same = np.arange(n) % 10 == 0 if equal < n else np.ones(n, bool)
    dense[same], rows[same], weights[same] = _unit(QUERY.dense + 0.5 * _unit(RNG.normal(size=8))), rows[0], weights[0]
    return M3Embeddings(
        token_counts=np.full(n, 3, np.int32),
        truncated=np.zeros(n, np.bool_),
        dense=dense,
        sparse_ids=np.tile(np.array([10, 11, 12], np.int32), n),
        sparse_weights=weights.ravel(),
        sparse_offsets=np.arange(n + 1) * 3,
        multi_vector=rows.reshape(-1, 4),
        multi_vector_offsets=np.arange(n + 1) * 2,
    )


DOCUMENTS = [Document(f"d{i}", "t", payload={"even": i % 20 < 10}) for i in range(N)]
SOME_EQUAL, ALL_EQUAL = embeddings(N, EQUAL), embeddings(N, N)
SHUFFLED = np.random.default_rng(1).permutation(N)  # ids in no order, so that none is kept by chance


def fill(store, packed):
    parts = [packed[int(i)] for i in SHUFFLED]
    store.upsert(
        [DOCUMENTS[i] for i in SHUFFLED],
        M3Embeddings(
            packed.token_counts,
            packed.truncated,
            packed.dense[SHUFFLED],
            packed.sparse_ids,
            np.concatenate([part.sparse.weights for part in parts]),
            packed.sparse_offsets,
            np.concatenate([part.multi_vector for part in parts]),
            packed.multi_vector_offsets,
        ),
    )


def ranked(hits):
    return [(hit.document.id, hit.score) for hit in hits]


def paged(store, size, candidates, **args):
    """All pages, until one is empty."""
    hits, offset = [], 0
    while page := store.query(QUERY, limit=size, offset=offset, candidates=candidates, **args):
        hits += page
        offset += size
    return ranked(hits)


@pytest.fixture
def opened(backend):
    with backend.open(IDENTITY) as store:
        yield store


@pytest.fixture(scope="module")
def filled(shared_backend):
    """Some documents are equal. For all tests of this file: do not change it."""
    with shared_backend.open(IDENTITY) as store:
        fill(store, SOME_EQUAL)
        yield store


def test_pages_of_every_size_are_one_list_explained_or_not(filled):
    oracle = MemoryStore(IDENTITY)
    fill(oracle, SOME_EQUAL)
    for args in (
        {},
        {"filter": {"even": True}},
        {"fusion": "rrf"},
        {"fusion": "dbsf"},
        {"source": "union", "weights": Weights(0.2, 0.8, 0)},
    ):
        whole = paged(filled, 100, 100, **args)
        assert whole == sorted(whole, key=lambda pair: (-pair[1], pair[0]))
        assert len(dict(whole)) == len(whole) >= 100
        assert len(dict(whole).keys() & {f"d{i}" for i in range(0, N, 10)}) >= EQUAL // 2, "equal ones are among them"
        for size in (45, *(() if args else (17,))):
            assert paged(filled, size, 100, **args) == whole, (args, size)
        assert paged(filled, 45, 100, explain=True, **args) == whole, args
        if "fusion" not in args:
            assert filled.rank(QUERY, limit=100, candidates=100, **args) == whole[:100]
        assert_same_order(whole, ranked(oracle.query(QUERY, limit=100, candidates=100, **args)))


def assert_same_order(got, oracle):
    """Stores agree wherever scores differ by more than 1e-6."""
    place = {name: i for i, (name, _) in enumerate(got)}
    for (first, high), (second, low) in pairwise(oracle):
        if high == low or high - low > 1e-6:
            assert place[first] < place[second]


def test_more_equal_documents_than_candidates(opened):
    fill(opened, ALL_EQUAL)
    for args in ({}, {"fusion": "rrf"}, {"source": "dense"}, {"source": "sparse"}):
        whole = paged(opened, 120, 120, **args)
        # Two lists may hold different ones.
        assert 120 <= len(dict(whole)) <= (120 if "source" in args else 2 * 120)
        assert [name for name, _ in whole] == sorted(dict(whole))
        for again in ({}, {"explain": True}):
            assert paged(opened, 50, 120, **args, **again) == whole


def test_a_page_that_starts_within_equal_scores_and_a_threshold(filled):
    whole = ranked(filled.query(QUERY, limit=200, candidates=200))
    scores = [score for _, score in whole]
    tied = max(set(scores), key=scores.count)
    first, last = scores.index(tied), len(scores) - scores[::-1].index(tied)
    for offset in (first - 1, first, first + 1, last - 1, last):
        if offset >= 0:
            assert ranked(filled.query(QUERY, limit=3, offset=offset)) == whole[offset : offset + 3]
    assert ranked(filled.query(QUERY, limit=9, offset=last - 2, score_threshold=tied - 1e-6)) == whole[last - 2 : last]


def test_beyond_the_candidates_there_is_nothing_or_the_number_to_pass(filled):
    assert len(filled.query(QUERY, limit=30, offset=90, candidates=100, source="dense")) == 10
    for offset in (100, 5000):
        assert filled.query(QUERY, limit=10, offset=offset, candidates=100, source="dense") == []
    assert filled.query(QUERY, limit=10, offset=200, candidates=100) == []
    for ask in (filled.query, filled.rank):
        with pytest.raises(ConfigError, match=r"limit=101 .*candidates=100.*pass candidates=101"):
            ask(QUERY, limit=101, candidates=100, source="dense")
        with pytest.raises(ConfigError, match=r"limit=250 .*candidates=100.*pass candidates=250"):
            ask(QUERY, limit=250, candidates=100)
    assert len(filled.query(QUERY, limit=101, candidates=101)) == 101
    few = {"even": True, "$not": {"even": False}}
    assert len(filled.query(QUERY, limit=100_000, candidates=N // 2, filter=few)) == N // 2  # all there are


def test_few_documents_come_back_whole_whatever_the_limit(opened):
    opened.upsert(DOCUMENTS[:17], embeddings(17, 2))
    assert len(opened.query(QUERY, limit=100_000)) == len(opened.rank(QUERY, limit=100_000)) == 17
    assert len(opened.query(QUERY, limit=100_000, candidates=17)) == 17


@pytest.mark.parametrize("shards", [1, 3])
def test_what_equal_scores_cost_on_a_server(shards):
    """30 equal documents, the best ones, in pages of 10: each comes once. Where they cross an edge it costs more."""
    same = np.arange(N) % 10 == 0
    dense, rows = SOME_EQUAL.dense.copy(), SOME_EQUAL.multi_vector.reshape(N, 2, 4).copy()
    dense[same], rows[same] = QUERY.dense, QUERY.multi_vector[:2]
    best = sorted(f"d{i}" for i in range(0, N, 10))
    rest = RestStub(shards=shards)
    grpc = GrpcStub(rest.engine)
    urls = {f"qdrant://{rest.address}/notes": rest.bodies, f"qdrant+grpc://127.0.0.1:{grpc.port}/notes": grpc.calls}
    for url, calls in urls.items():
        with open_store(url, IDENTITY) as store:
            fill(store, replace(SOME_EQUAL, dense=dense, multi_vector=rows.reshape(-1, 4)))
            found, requests = [], []
            for offset in range(0, EQUAL + 20, 10):
                calls.clear()
                hits = store.query(QUERY, limit=10, offset=offset, weights=Weights(1, 0.1, 0.1))
                found += [hit.document.id for hit in hits]
                requests.append(len(calls) - (shards > 1))  # over shards the candidates are searched first
        assert found[:EQUAL] == best
        assert len(set(found)) == len(found)
        assert requests == [3, 3, 3, 1, 1]
    grpc.close()
    rest.close()


class Embedder:
    identity = IDENTITY

    def encode_documents(self, texts):
        raise NotImplementedError

    def encode_queries(self, texts):
        packed = embeddings(1, 0)
        return [QUERY for _ in texts] or packed


def test_pages_of_documents_that_were_split_are_one_list_too(opened):
    """300 passages of 75 documents: found by their best passage, and paged over the same candidates."""
    passages = []
    for i, one in enumerate(DOCUMENTS):
        name, number = f"d{i // 4}", i % 4 + 1
        stored = name if number == 1 else f"{name}¶{number}"
        passages.append(Document(stored, "t", payload=one.payload, passage=Passage(name, number, 4, 0, 1)))
    opened.upsert(passages, SOME_EQUAL)
    index = HybridIndex(Embedder(), opened)
    whole = ranked(index.query("x", limit=150))
    assert len(dict(whole)) == len(whole) > 60
    for size in (20, 50):
        hits = [hit for offset in range(0, 150, size) for hit in index.query("x", limit=size, offset=offset)]
        assert ranked(hits) == whole
    assert ranked(index.query("x", limit=40, offset=10, explain=True)) == whole[10:50]
    with pytest.raises(ConfigError, match="pass candidates=10"):
        index.query("x", limit=10, candidates=1)


SCORES = st.lists(st.integers(0, 4).map(lambda i: i / 4), max_size=24)


@given(SCORES, st.integers(0, 26), st.integers(1, 26), st.randoms(use_true_random=False))
def test_a_page_is_cut_from_an_engine_that_orders_ties_at_random(scores, offset, limit, random):
    names = [f"{i:02}" for i in range(len(scores))]
    random.shuffle(names)
    hits = list(zip(names, scores, strict=True))
    random.shuffle(hits)
    ranked = [Found(name, score, {}) for name, score in sorted(hits, key=lambda hit: -hit[1])]
    search = Search(limit=limit, offset=offset)
    start, count = page_window(search, len(hits))
    page = take_page(ranked[start : start + count], search)
    expected = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[offset : offset + limit]
    edges = sorted(scores, reverse=True)
    assert (page is None) == any(0 < at < len(edges) and edges[at - 1] == edges[at] for at in (offset, offset + limit))
    assert (best_first(dict(hits), search) if page is None else [(one.id, one.score) for one in page]) == expected
    assert (count == 0) == (offset >= len(hits))
