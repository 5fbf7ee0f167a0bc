"""The exact engine against brute force over ``m3_vdb.scoring``: one block and several, in memory and on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from m3_vdb import scoring
from m3_vdb.stores import exact
from m3_vdb.stores.exact import Block, ExactIndex
from tests.train._retrieval import packed, random_embeddings

PASSAGES, QUERIES = random_embeddings(0, 60), random_embeddings(1, 7)
PARTS = ("dense", "sparse", "multi_vector")


def cut(embeddings, *starts):
    """Blocks that begin at 0 and at every start."""
    ends = [*starts, len(embeddings)]
    return [Block.of(embeddings[a:b], first=a) for a, b in zip([0, *starts], ends, strict=True)]


def index(*lexical):
    """One block with lexical weights alone."""
    return ExactIndex([Block.of(packed(None, lexical, None, count=len(lexical)))])


@pytest.mark.parametrize("at_once", [1 << 24, 1000])
@pytest.mark.parametrize("starts", [(), (100, 333)])
def test_dense_search_is_that_of_numpy(monkeypatch, starts, at_once):
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", at_once)
    passages, queries = random_embeddings(2, 500, dim=32), random_embeddings(3, 40, dim=32)
    similarity = queries.dense @ passages.dense.T
    expected = np.argsort(-similarity, axis=1)[:, :50]
    found = ExactIndex(cut(passages, *starts)).best("dense", queries, 50)
    assert np.array_equal(found.rows, expected)
    np.testing.assert_allclose(found.scores, np.take_along_axis(similarity, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("part", ["dense", "sparse"])
def test_results_are_among_the_allowed(part):
    whole = ExactIndex(cut(PASSAGES, 20)).best(part, QUERIES, 60)
    some = ExactIndex(cut(PASSAGES, 20)).best(part, QUERIES, 5, allowed=np.arange(60) % 3 == 0)
    for i in range(len(QUERIES)):
        assert some.hits(i)[0].tolist() == [row for row in whole.hits(i)[0].tolist() if row % 3 == 0][:5]


def test_sparse_search_needs_no_other_part():
    found = index({5: 2.0, 7: 0.5}, {}, {7: 3.0, 9: 1.0}).best(
        "sparse", packed(None, [{5: 0.25, 7: 2.0, 8: 9.0}, {}, {8: 1.0}], None, count=3), 20
    )
    # 7: 2 · 3; and 5: 0.25 · 2 with 7: 2 · 0.5; a passage without a common id is not a result
    assert [hits.tolist() for hits in found.hits(0)] == [[2, 0], [6.0, 1.5]]
    assert [found.hits(i)[0].tolist() for i in (1, 2)] == [[], []]


def test_passages_without_a_single_token_have_no_lexical_results():
    assert index({}, {}).best("sparse", QUERIES, 5).hits(0)[0].tolist() == []


def test_of_equal_scores_at_the_edge_the_first_are_results():
    found = index({5: 1.0}, {5: 2.0}, {5: 1.0}, {5: 3.0}, {5: 1.0})
    assert found.best("sparse", packed(None, [{5: 1.0}], None, count=1), 3).rows.tolist() == [[3, 1, 0]]


def test_chosen_pairs_have_their_exact_scores_and_no_passage_has_none(monkeypatch):
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 4)  # several groups, and passages that are longer than one
    rows = np.array([[3, -1, 41, 59], [0, 1, 2, -1]])
    found = ExactIndex(cut(PASSAGES, 20, 50)).scores(QUERIES[:2], rows, PARTS)
    for i, j in np.ndindex(rows.shape):
        values = [float(found[part][i, j]) for part in PARTS]
        if rows[i, j] < 0:
            assert set(values) == {-np.inf}
        else:
            expected = scoring.score(QUERIES[i], PASSAGES[int(rows[i, j])])
            assert values == pytest.approx([getattr(expected, part) for part in PARTS], abs=1e-5)


def test_blocks_on_disk_are_mapped_and_not_held_open(tmp_path):
    folders = [tmp_path / str(block.first) for block in cut(PASSAGES, *range(1, 12))]
    for block, folder in zip(cut(PASSAGES, *range(1, 12)), folders, strict=True):
        block.save(folder)
    kept = ExactIndex(folders)
    assert isinstance(next(iter(kept)).dense, np.memmap)
    for part in ("dense", "sparse"):
        ours, theirs = (one.best(part, QUERIES, 9) for one in (kept, ExactIndex(cut(PASSAGES))))
        assert np.array_equal(ours.rows, theirs.rows)
    if Path("/proc/self/fd").is_dir():
        before = len(os.listdir("/proc/self/fd"))
        kept.best("dense", QUERIES, 3)
        assert len(os.listdir("/proc/self/fd")) - before < 12  # seven arrays per block would be 84


def test_a_block_that_was_not_written_whole_does_not_count(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(np, "save", lambda path, array: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            cut(PASSAGES)[0].save(tmp_path / "0")
    assert not (tmp_path / "0").exists()
    cut(PASSAGES)[0].save(tmp_path / "0")
    assert not list(tmp_path.glob("*.partial"))
