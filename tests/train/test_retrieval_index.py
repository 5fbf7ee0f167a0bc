"""Every ranking against brute force over ``m3_vdb.scoring``; passages encoded once, and found again on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from m3_vdb import scoring
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.protocol import MODES, PARTS
from m3_vdb.stores.exact import Block, ExactIndex
from m3_vdb.types import Document
from tests.train._retrieval import TableEncoder, packed, random_embeddings
from train.retrieval.config import SearchOptions, no_report
from train.retrieval.data import Corpus
from train.retrieval.index import FaissIndex, encode, encode_passages
from train.retrieval.index import rank as rank_requests

PASSAGES, QUERIES = random_embeddings(0, 60), random_embeddings(1, 7)
OPTIONS = SearchOptions(rerank=12)
DEPTH = 20


def blocks(embeddings, *cuts):
    """Blocks that begin at 0 and at every cut."""
    ends = [*cuts, len(embeddings)]
    return [Block.of(embeddings[a:b], first=a, half=True) for a, b in zip([0, *cuts], ends, strict=True)]


def rank(index, queries, modes, options, *, depth):
    return rank_requests(index, queries, {mode: options.request(mode, depth=depth) for mode in modes})


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
    ranking = rank(ExactIndex(blocks(PASSAGES, *cuts)), QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
    for i, query in enumerate(QUERIES):
        rows, scores = ranking.hits(i)
        expected = brute_force(query, mode, OPTIONS)
        assert rows.tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)
    assert ranking.rows.shape[1] <= DEPTH


def test_the_modes_differ_or_the_comparison_says_nothing():
    found = rank(ExactIndex(blocks(PASSAGES)), QUERIES, MODES, OPTIONS, depth=DEPTH)
    assert list(found) == list(MODES)
    assert len({tuple(found[mode].hits(0)[0][:5].tolist()) for mode in MODES}) == 5


def test_all_modes_together_are_each_as_if_alone():
    index = ExactIndex(blocks(PASSAGES, 30))
    together = rank(index, QUERIES, MODES, OPTIONS, depth=DEPTH)
    for mode in MODES:
        alone = rank(index, QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
        assert np.array_equal(alone.rows, together[mode].rows)
        assert np.array_equal(alone.scores, together[mode].scores)


@pytest.mark.parametrize("mode", ["multi_vector", "all"])
def test_rerank_sparse_adds_the_sparse_results_to_what_is_re_ranked(mode):
    options = SearchOptions(rerank=12, rerank_sparse=True)
    index = ExactIndex(blocks(PASSAGES, 30))
    found = rank(index, QUERIES, [mode], options, depth=DEPTH)[mode]
    expected = [[row for row, _ in brute_force(query, mode, options, both=True)] for query in QUERIES]
    assert [found.hits(i)[0].tolist() for i in range(len(QUERIES))] == expected
    narrow = rank(index, QUERIES, [mode], OPTIONS, depth=DEPTH)[mode]
    assert any(len(narrow.hits(i)[0]) < len(rows) for i, rows in enumerate(expected))


def test_weights_are_those_of_the_options():
    options = SearchOptions(rerank=60, weights="0,0.5,2", dense_sparse_weights="long_dense_sparse")
    index = ExactIndex(blocks(PASSAGES))
    found = rank(index, QUERIES, ["all", "dense_sparse"], options, depth=60)
    parts = scoring.score(QUERIES[0], PASSAGES[int(found["all"].rows[0, 0])])
    assert found["all"].scores[0, 0] == pytest.approx(0.5 * parts.sparse + 2 * parts.multi_vector, abs=1e-5)
    parts = scoring.score(QUERIES[0], PASSAGES[int(found["dense_sparse"].rows[0, 0])])
    assert found["dense_sparse"].scores[0, 0] == pytest.approx(0.2 * parts.dense + 0.8 * parts.sparse, abs=1e-5)


@pytest.mark.parametrize(("factory", "recall"), [("HNSW32", 0.99), ("IVF16,Flat", 0.7), ("IVF4,PQ8x4", 0.5)])
def test_an_approximate_index_finds_most_and_scores_it_exactly(factory, recall):
    passages, queries = random_embeddings(2, 600, dim=32), random_embeddings(3, 40, dim=32)
    pieces = blocks(passages, 200)
    best, found = (index.best("dense", queries, 100) for index in (ExactIndex(pieces), FaissIndex(pieces, factory)))
    hits = [len(set(a.tolist()) & set(b.tolist())) / 100 for a, b in zip(best.rows, found.rows, strict=True)]
    assert np.mean(hits) > recall
    similarity = queries.dense @ passages.dense.T
    rows, scores = found.hits(0)
    np.testing.assert_allclose(scores, similarity[0, rows], atol=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("factory", ["Bogus", "IVF1000,Flat"])
def test_an_index_that_faiss_cannot_build_is_a_config_error(factory):
    with pytest.raises(ConfigError, match=f"index='{factory}'.*60 passages.*Flat for an exact search"):
        FaissIndex(blocks(PASSAGES), factory)


def test_without_faiss_the_message_is_the_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"index='HNSW32'.*pip install 'm3-vdb\[train\]'"):
        FaissIndex(blocks(PASSAGES), "HNSW32")


@pytest.mark.parametrize("cuts", [(), (2,)])
@pytest.mark.parametrize("mode", ["dense", "sparse", "dense_sparse"])
def test_equal_scores_rank_in_the_order_of_the_corpus(mode, cuts):
    same = packed(np.eye(3)[[0] * 5].astype(np.float32), [{5: 1.0}] * 5, [np.eye(3)[:1]] * 5, count=5)
    found = rank(ExactIndex(blocks(same, *cuts)), same[:1], [mode], OPTIONS, depth=5)[mode]
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]


TEXTS = [f"passage {i}" for i in range(11)]
ASKED = ["first query", "second query"]


def encoder() -> TableEncoder:
    dense, sparse = (
        {(q, t): float(v) for (q, t), v in zip([(q, t) for q in ASKED for t in TEXTS], values, strict=True)}
        for values in (np.linspace(-0.6, 0.6, 22)[np.random.default_rng(0).permutation(22)], np.arange(22) % 7)
    )
    return TableEncoder(dense, sparse=sparse)


def run(encoder, *, work=None, shard_size=4, parts=PARTS, max_length=16, texts=TEXTS, report=no_report):
    options = SearchOptions(passage_max_length=max_length, shard_size=shard_size, work=work)
    return encode_passages(encoder, Corpus([Document("", text) for text in texts]), parts, options, report=report)


def rankings(index):
    queries = encode(encoder(), ASKED, max_length=16, parts=PARTS)
    return rank(index, queries, MODES, SearchOptions(), depth=6)


@pytest.mark.parametrize("shard_size", [1, 4, 11, 100])
def test_where_a_corpus_lies_and_how_it_is_cut_changes_no_result(tmp_path, shard_size):
    whole, pieces = rankings(run(encoder(), shard_size=100)), run(encoder(), work=tmp_path, shard_size=shard_size)
    for mode, ranking in rankings(pieces).items():
        assert np.array_equal(ranking.rows, whole[mode].rows), mode
        np.testing.assert_allclose(ranking.scores, whole[mode].scores, atol=1e-6)
    assert (whole["dense"].scores[:, 0] > 0.4).all()


def test_a_second_run_encodes_nothing(tmp_path):
    first, second = encoder(), encoder()
    run(first, work=tmp_path)
    found = rankings(run(second, work=tmp_path))
    assert first.encoded == TEXTS
    assert second.encoded == []
    assert np.array_equal(found["all"].rows, rankings(run(first))["all"].rows)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    class Interrupted(TableEncoder):
        def encode_documents(self, texts, **options):
            if TEXTS[8] in texts:
                raise KeyboardInterrupt
            return super().encode_documents(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(encoder().tables["dense"], sparse=encoder().tables["sparse"]), work=tmp_path)
    again = encoder()
    index = run(again, work=tmp_path)
    assert again.encoded == TEXTS[8:]
    assert [block.first for block in index] == [0, 4, 8]
    assert np.array_equal(rankings(index)["all"].rows, rankings(run(encoder()))["all"].rows)


@pytest.mark.parametrize(
    "change",
    [{"parts": ("dense",)}, {"max_length": 17}, {"shard_size": 5}, {"texts": [*TEXTS[:-1], "other"]}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_or_texts_are_encoded_anew_and_the_old_stay(tmp_path, change):
    run(encoder(), work=tmp_path)
    again, last = encoder(), encoder()
    run(again, work=tmp_path, **change)
    assert again.encoded == change.get("texts", TEXTS)
    run(last, work=tmp_path)
    assert last.encoded == []


def test_another_model_is_encoded_anew(tmp_path):
    run(encoder(), work=tmp_path)
    other = encoder()
    other.identity = replace(other.identity, fingerprint="2")
    run(other, work=tmp_path)
    assert other.encoded == TEXTS


def test_progress_is_reported_after_every_shard():
    lines: list[str] = []
    run(encoder(), report=lines.append)
    assert lines == [f"encoded {n} of 11 passages" for n in (4, 8, 11)]
