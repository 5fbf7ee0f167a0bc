"""Every ranking against brute force over ``m3_vdb.scoring``, on one shard and on several."""

from __future__ import annotations

import numpy as np
import pytest

from m3_vdb import scoring
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.protocol import MODES
from m3_vdb.types import Scores
from tests.train._retrieval import packed, random_embeddings
from train.retrieval import exact
from train.retrieval.exact import pair_scores
from train.retrieval.options import SearchOptions
from train.retrieval.search import Index, rank
from train.retrieval.shards import Shards, make_shard

PASSAGES, QUERIES = random_embeddings(0, 60), random_embeddings(1, 7)
OPTIONS = SearchOptions(rerank=12)
DEPTH = 20


def part(embeddings, start, stop):
    """Texts start … stop − 1 as embeddings of their own."""
    some = [embeddings[i] for i in range(start, stop)]
    lexical = [one.sparse.as_dict() for one in some]
    return packed(np.stack([one.dense for one in some]), lexical, [one.multi_vector for one in some], count=len(some))


def sharded(embeddings, *cuts):
    """Shards that begin at 0 and at every cut."""
    ends = [*cuts, len(embeddings)]
    return Shards([make_shard(part(embeddings, a, b), first=a) for a, b in zip([0, *cuts], ends, strict=True)])


def brute_force(query, mode, options, *, both=False):
    """(row, score) of one query, best first, by the words of the paper."""
    parts = {row: scoring.score(query, passage) for row, passage in enumerate(PASSAGES)}

    def top(rows, weights, count):
        scored = [(row, scoring.hybrid_score(parts[row], weights)) for row in rows]
        return sorted(scored, key=lambda hit: -hit[1])[:count]

    lexical = [row for row in parts if parts[row].sparse > 0]
    dense, sparse = (top(rows, options.weights_of(m), DEPTH) for m, rows in (("dense", parts), ("sparse", lexical)))
    if mode in ("dense", "sparse"):
        return dense if mode == "dense" else sparse
    best = DEPTH if mode == "dense_sparse" else options.rerank
    candidates = {row for row, _ in dense[:best]}
    if mode == "dense_sparse" or both:
        candidates |= {row for row, _ in sparse[:best]}
    return top(candidates, options.weights_of(mode), DEPTH)


@pytest.mark.parametrize("cuts", [(), (1, 22, 59)])
@pytest.mark.parametrize("mode", MODES)
def test_a_ranking_is_that_of_brute_force(mode, cuts):
    ranking = rank(Index(sharded(PASSAGES, *cuts)), QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
    for i, query in enumerate(QUERIES):
        rows, scores = ranking.hits(i)
        expected = brute_force(query, mode, OPTIONS)
        assert rows.tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)
    assert ranking.rows.shape[1] <= DEPTH


def test_the_modes_differ_or_the_comparison_says_nothing():
    found = rank(Index(sharded(PASSAGES)), QUERIES, MODES, OPTIONS, depth=DEPTH)
    assert list(found) == list(MODES)
    assert len({tuple(found[mode].hits(0)[0][:5].tolist()) for mode in MODES}) == 5


def test_all_modes_together_are_each_as_if_alone():
    index = Index(sharded(PASSAGES, 30))
    together = rank(index, QUERIES, MODES, OPTIONS, depth=DEPTH)
    for mode in MODES:
        alone = rank(index, QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
        assert np.array_equal(alone.rows, together[mode].rows)
        assert np.array_equal(alone.scores, together[mode].scores)


@pytest.mark.parametrize("mode", ["multi_vector", "all"])
def test_rerank_sparse_adds_the_sparse_results_to_what_is_re_ranked(mode):
    options = SearchOptions(rerank=12, rerank_sparse=True)
    index = Index(sharded(PASSAGES, 30))
    found = rank(index, QUERIES, [mode], options, depth=DEPTH)[mode]
    expected = [[row for row, _ in brute_force(query, mode, options, both=True)] for query in QUERIES]
    assert [found.hits(i)[0].tolist() for i in range(len(QUERIES))] == expected
    narrow = rank(index, QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
    assert any(len(narrow.hits(i)[0]) < len(rows) for i, rows in enumerate(expected))


def test_weights_are_those_of_the_options():
    options = SearchOptions(rerank=60, weights="0,0.5,2", dense_sparse_weights="long_dense_sparse")
    index = Index(sharded(PASSAGES))
    found = rank(index, QUERIES, ["all", "dense_sparse"], options, depth=60)
    parts = scoring.score(QUERIES[0], PASSAGES[int(found["all"].rows[0, 0])])
    assert found["all"].scores[0, 0] == pytest.approx(0.5 * parts.sparse + 2 * parts.multi_vector, abs=1e-5)
    parts = scoring.score(QUERIES[0], PASSAGES[int(found["dense_sparse"].rows[0, 0])])
    assert found["dense_sparse"].scores[0, 0] == pytest.approx(0.2 * parts.dense + 0.8 * parts.sparse, abs=1e-5)


def test_dense_search_is_exactly_that_of_numpy():
    passages, queries = random_embeddings(2, 500, dim=32), random_embeddings(3, 40, dim=32)
    similarity = queries.dense @ passages.dense.T
    expected = np.argsort(-similarity, axis=1)[:, :50]
    for cuts in ((), (100, 333)):
        found = Index(sharded(passages, *cuts)).dense(queries, 50)
        assert np.array_equal(found.rows, expected)
        np.testing.assert_allclose(found.scores, np.take_along_axis(similarity, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize(("factory", "recall"), [("HNSW32", 0.99), ("IVF16,Flat", 0.7), ("IVF4,PQ8x4", 0.5)])
def test_an_approximate_index_finds_most_and_scores_it_exactly(factory, recall):
    passages, queries = random_embeddings(2, 600, dim=32), random_embeddings(3, 40, dim=32)
    shards = sharded(passages, 200)
    best, found = Index(shards).dense(queries, 100), Index(shards, factory=factory).dense(queries, 100)
    hits = [len(set(a.tolist()) & set(b.tolist())) / 100 for a, b in zip(best.rows, found.rows, strict=True)]
    assert np.mean(hits) > recall
    similarity = queries.dense @ passages.dense.T
    rows, scores = found.hits(0)
    np.testing.assert_allclose(scores, similarity[0, rows], atol=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("factory", ["Bogus", "IVF1000,Flat"])
def test_an_index_that_faiss_cannot_build_is_a_config_error(factory):
    with pytest.raises(ConfigError, match=f"index='{factory}'.*60 passages.*Flat for an exact search"):
        Index(sharded(PASSAGES), factory=factory)


def test_without_faiss_the_message_is_the_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[train\]'"):
        Index(sharded(PASSAGES)).dense(QUERIES, 3)
    assert Index(sharded(PASSAGES)).sparse(QUERIES, 3).rows.shape == (7, 3)


def test_sparse_search_alone_needs_no_other_part():
    lexical = [{5: 2.0, 7: 0.5}, {}, {7: 3.0, 9: 1.0}]
    queries = packed(None, [{5: 0.25, 7: 2.0, 8: 9.0}, {}, {8: 1.0}], None, count=3)
    index = Index(Shards([make_shard(packed(None, lexical, None, count=3))]))
    found = rank(index, queries, ["sparse"], OPTIONS, depth=DEPTH)["sparse"]
    # 7: 2 · 3; and 5: 0.25 · 2 with 7: 2 · 0.5; a passage without a common id is no result
    assert [hits.tolist() for hits in found.hits(0)] == [[2, 0], [6.0, 1.5]]
    assert [found.hits(i)[0].tolist() for i in (1, 2)] == [[], []]


def test_a_corpus_without_a_single_token_has_no_lexical_results():
    index = Index(Shards([make_shard(packed(None, [{}, {}], None, count=2))]))
    assert index.sparse(QUERIES, 5).hits(0)[0].tolist() == []


@pytest.mark.parametrize("cuts", [(), (2,)])
@pytest.mark.parametrize("mode", ["dense", "sparse", "dense_sparse"])
def test_equal_scores_rank_in_the_order_of_the_corpus(mode, cuts):
    same = packed(np.eye(3)[[0] * 5].astype(np.float32), [{5: 1.0}] * 5, [np.eye(3)[:1]] * 5, count=5)
    found = rank(Index(sharded(same, *cuts)), part(same, 0, 1), [mode], OPTIONS, depth=5)[mode]
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_of_equal_lexical_scores_at_the_edge_the_first_are_results():
    passages = packed(None, [{5: 1.0}, {5: 2.0}, {5: 1.0}, {5: 3.0}, {5: 1.0}], None, count=5)
    found = Index(Shards([make_shard(passages)])).sparse(packed(None, [{5: 1.0}], None, count=1), 3)
    assert found.rows.tolist() == [[3, 1, 0]]


def test_passages_are_compared_in_blocks_of_bounded_rows(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_ROWS", 4)
    lengths = np.array([3, 1, 2, 9, 1, 1])
    assert list(exact._blocks(lengths)) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6)]


def test_chosen_pairs_have_their_exact_scores_and_no_passage_has_none(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_ROWS", 4)  # several blocks, and passages that are longer than one
    rows = np.array([[3, -1, 41, 59], [0, 1, 2, -1]])
    found = pair_scores(sharded(PASSAGES, 20, 50), part(QUERIES, 0, 2), rows, ["dense", "sparse", "multi_vector"])
    for i, j in np.ndindex(rows.shape):
        values = {name: float(scores[i, j]) for name, scores in found.items()}
        if rows[i, j] < 0:
            assert set(values.values()) == {-np.inf}
        else:
            expected = scoring.score(QUERIES[i], PASSAGES[int(rows[i, j])])
            assert values == pytest.approx(vars_of(expected), abs=1e-5)


def vars_of(scores: Scores) -> dict[str, float]:
    return {"dense": scores.dense, "sparse": scores.sparse, "multi_vector": scores.multi_vector}
