"""An encoded corpus on disk: the same as in memory, complete or not there, and never encoded twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from m3_vdb.evaluation.protocol import MODES, PARTS
from m3_vdb.types import Document
from tests.train._retrieval import TableEncoder
from train.retrieval.corpus import Corpus
from train.retrieval.options import SearchOptions
from train.retrieval.search import Index, rank
from train.retrieval.shards import encode_corpus

TEXTS = [f"passage {i}" for i in range(11)]
QUERIES = ["first query", "second query"]


def encoder() -> TableEncoder:
    dense, sparse = (
        {(q, t): float(v) for (q, t), v in zip([(q, t) for q in QUERIES for t in TEXTS], values, strict=True)}
        for values in (np.linspace(-0.6, 0.6, 22)[np.random.default_rng(0).permutation(22)], np.arange(22) % 7)
    )
    return TableEncoder(dense, sparse=sparse)


def run(encoder, *, work=None, shard_size=4, parts=PARTS, max_length=16, texts=TEXTS):
    corpus = Corpus([Document("", text) for text in texts])
    return encode_corpus(encoder, corpus, parts=parts, max_length=max_length, shard_size=shard_size, work=work)


def rankings(shards):
    queries = encoder().encode(QUERIES, max_length=16, parts=PARTS)
    return rank(Index(shards), queries, MODES, SearchOptions(), depth=6)


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
        def encode(self, texts, **options):
            if TEXTS[8] in texts:
                raise KeyboardInterrupt
            return super().encode(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(encoder().tables["dense"], sparse=encoder().tables["sparse"]), work=tmp_path)
    again = encoder()
    shards = run(again, work=tmp_path)
    assert again.encoded == TEXTS[8:]
    assert [shard.first for shard in shards] == [0, 4, 8]
    assert np.array_equal(rankings(shards)["all"].rows, rankings(run(encoder()))["all"].rows)


def test_a_shard_that_was_not_finished_does_not_count(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(np, "save", lambda path, array: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            run(encoder(), work=tmp_path)
    again = encoder()
    run(again, work=tmp_path)
    assert again.encoded == TEXTS
    assert not list(tmp_path.rglob("*.partial"))


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
    other.version = "2"
    run(other, work=tmp_path)
    assert other.encoded == TEXTS


def test_shards_on_disk_are_mapped_and_not_held_open(tmp_path):
    shards = run(encoder(), work=tmp_path, shard_size=1)
    first = next(iter(shards))
    assert isinstance(first.dense, np.memmap)
    assert first.multi_vector.dtype == np.float16
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts the process' open files in /proc")
    before = len(os.listdir("/proc/self/fd"))
    kept = Index(run(encoder(), work=tmp_path, shard_size=1))
    assert len(os.listdir("/proc/self/fd")) - before < 11  # seven arrays a shard would be 77
    assert kept.dense(encoder().encode(QUERIES, max_length=16, parts=PARTS), 3).rows.shape == (2, 3)


def test_progress_is_reported_after_every_shard():
    lines: list[str] = []
    corpus = Corpus([Document("", text) for text in TEXTS])
    encode_corpus(encoder(), corpus, parts=PARTS, max_length=16, shard_size=4, report=lines.append)
    assert lines == [f"encoded {n} of 11 passages" for n in (4, 8, 11)]
