"""Fusion by ranks and by normalised scores, and thresholds: one behaviour, every store."""

from __future__ import annotations

import pytest

from m3_vdb.scoring import score
from m3_vdb.stores.fusion import fuse
from m3_vdb.stores.options import Search
from m3_vdb.types import Scores
from m3_vdb.weights import Weights
from tests.stores._corpus import SHARED, make_embeddings, make_queries

CANDIDATES = 25


def test_three_candidates_by_hand():
    parts = {7: Scores(0.9, 0.0, 0.2), 8: Scores(0.6, 2.0, 0.8), 9: Scores(0.3, 1.0, 0.5)}
    assert fuse(parts, Search(weights=Weights(1, 0.3, 1))) == pytest.approx({7: 1.1, 8: 2.0, 9: 1.1})
    by_rank = fuse(parts, Search(fusion="rrf"))
    assert by_rank == pytest.approx({7: 1 / 61 + 1 / 63, 8: 1 / 62 + 1 / 61 + 1 / 61, 9: 1 / 63 + 1 / 62 + 1 / 62})
    # dense: mean 0.6, sample deviation 0.3, so 0.9 is one deviation above: 0.5 + 1/6
    normalised = fuse(parts, Search(fusion="dbsf", weights=Weights(1, 0, 0)))
    assert normalised == pytest.approx({7: 0.5 + 1 / 6, 8: 0.5, 9: 0.5 - 1 / 6})
    lexical = fuse(parts, Search(fusion="rrf", weights=Weights(0, 1, 0)))
    assert lexical == pytest.approx({8: 1 / 61, 9: 1 / 62})  # 7 shares no token: it is in no list


def test_equal_scores_normalise_to_one_half():
    parts = {1: Scores(0.4, 0, 0), 2: Scores(0.4, 0, 0)}
    assert fuse(parts, Search(fusion="dbsf", weights=Weights(1, 0, 0))) == {1: 0.5, 2: 0.5}
    assert fuse({1: Scores(0.4, 0, 0)}, Search(fusion="dbsf", weights=Weights(1, 0, 0))) == {1: 0.5}


@pytest.mark.parametrize("fusion", ["rrf", "dbsf"])
@pytest.mark.parametrize("source", ["dense", "union"])
@pytest.mark.parametrize("weights", [Weights(1, 0.3, 1), Weights(1, 1, 0), Weights(0, 0, 1)], ids=str)
def test_every_store_fuses_as_defined(shared, source, fusion, weights):
    for query in make_queries(3):
        parts = {i: score(query, passage) for i, passage in enumerate(make_embeddings(SHARED))}
        dense = sorted(parts, key=lambda i: -parts[i].dense)[:CANDIDATES]
        lexical = sorted((i for i in parts if parts[i].sparse > 0), key=lambda i: -parts[i].sparse)[:CANDIDATES]
        chosen = {*dense, *(lexical if source == "union" else [])}
        truth = fuse({i: parts[i] for i in sorted(chosen)}, Search(fusion=fusion, weights=weights))
        hits = shared.query(query, weights=weights, limit=10, candidates=CANDIDATES, source=source, fusion=fusion)
        assert [hit.score for hit in hits] == pytest.approx(sorted(truth.values(), reverse=True)[:10], rel=1e-4)
        assert {hit.document.id: hit.score for hit in hits} == pytest.approx(
            {hit.document.id: truth[int(hit.document.id[1:])] for hit in hits}, rel=1e-4
        )


def test_score_threshold_keeps_what_reaches_it(shared):
    query = make_queries(1)[0]
    whole = shared.query(query, limit=20, candidates=CANDIDATES)
    between = (whole[6].score + whole[7].score) / 2
    assert whole[6].score > whole[7].score
    kept = shared.query(query, limit=20, candidates=CANDIDATES, score_threshold=between)
    assert [hit.document.id for hit in kept] == [hit.document.id for hit in whole[:7]]


def test_ef_changes_no_score(shared):
    query = make_queries(1)[0]
    assert dict(shared.rank(query)) == {h.document.id: h.score for h in shared.query(query, ef=500)}
