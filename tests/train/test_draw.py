"""Drawing groups: what is in them, that a draw can be repeated, and the shuffling of segments."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain, combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.encoding.tokenizer import Tokenizer
from train.contrastive.batch import Batch
from train.contrastive.draw import Draw, draw_batch, shuffle_segments
from train.words import word_starts

SEVERAL = settings(max_examples=100, deadline=None, derandomize=True)
STARTS = np.arange(60) >= 30
"""A vocabulary of 60 pieces: those from 30 on begin a word."""


def record(row: int, positives: int, negatives: int, *, scores: str = "") -> dict[str, Any]:
    """Row ``row``: passage k has tokens 0 … 2 with row·100 + k between, that number as key, and a tenth as score."""
    names = [row * 100 + k for k in range(positives)], [row * 100 + 50 + k for k in range(negatives)]
    return {
        "query": [0, 1000 + row, 2],
        "query_key": -row,
        "positives": [[0, name, 2] for name in names[0]],
        "positive_keys": names[0],
        "positive_scores": [name / 10 for name in names[0]] if "p" in scores else [],
        "negatives": [[0, name, name, 2] for name in names[1]],
        "negative_keys": names[1],
        "negative_scores": [name / 10 for name in names[1]] if "n" in scores else [],
    }


def groups(batch: Batch) -> list[list[int]]:
    """Keys of each query's passages."""
    return [part.tolist() for part in np.split(batch.passage_keys, np.cumsum(batch.group_sizes)[:-1])]


def tokens(batch: Batch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.passages.ids, batch.passages.offsets[1:-1])]


def drawn(records: list[dict[str, Any]], draw: Draw, *, numbers: list[int] | None = None, epoch: int = 0) -> Batch:
    return draw_batch(records, numbers or list(range(len(records))), draw, epoch=epoch, share=0.25)


ROWS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=5)


@SEVERAL
@given(ROWS, st.integers(1, 9), st.integers(0, 20), st.integers(0, 3))
def test_a_group_is_one_positive_and_then_distinct_negatives(sizes, group_size, seed, epoch):
    records = [record(row, *counts) for row, counts in enumerate(sizes)]
    batch = drawn(records, Draw(group_size, seed), epoch=epoch)
    for row, (fields, group) in enumerate(zip(records, groups(batch), strict=True)):
        assert len(group) == batch.group_sizes[row] == 1 + min(group_size - 1, len(fields["negatives"]))
        assert group[0] in fields["positive_keys"]
        assert set(group[1:]) <= set(fields["negative_keys"])
        assert len(set(group)) == len(group)
    # tokens, keys and sizes speak of the same passages, in the same order
    expected = {
        key: text
        for r in records
        for side in ("positive", "negative")
        for key, text in zip(r[f"{side}_keys"], r[f"{side}s"], strict=True)
    }
    assert tokens(batch) == [expected[key] for key in batch.passage_keys]
    assert batch.queries.ids.tolist() == [token for r in records for token in r["query"]]
    assert batch.query_keys.tolist() == [r["query_key"] for r in records]
    assert batch.share == 0.25
    assert len(batch.queries) == len(records)
    assert len(batch.passages) == sum(batch.group_sizes)


@SEVERAL
@given(ROWS, st.integers(0, 20))
def test_a_draw_depends_on_seed_epoch_and_row_and_on_nothing_else(sizes, seed):
    records = [record(row, *counts) for row, counts in enumerate(sizes)]
    numbers = [row + 7 for row in range(len(records))]
    together = groups(drawn(records, Draw(4, seed), numbers=numbers, epoch=2))
    random.seed(1)
    np.random.default_rng()
    assert groups(drawn(records, Draw(4, seed), numbers=numbers, epoch=2)) == together
    back = groups(drawn(records[::-1], Draw(4, seed), numbers=numbers[::-1], epoch=2))
    assert back == together[::-1]
    alone = [groups(drawn([r], Draw(4, seed), numbers=[n], epoch=2))[0] for r, n in zip(records, numbers, strict=True)]
    assert alone == together


def test_epochs_seeds_and_rows_draw_differently():
    fields = record(1, 3, 6)
    varied = {
        "epoch": [groups(drawn([fields], Draw(4, 0), epoch=epoch))[0] for epoch in range(100)],
        "seed": [groups(drawn([fields], Draw(4, seed)))[0] for seed in range(100)],
        "row": groups(drawn([fields] * 100, Draw(4, 0))),
    }
    for name, found in varied.items():
        assert {group[0] for group in found} == set(fields["positive_keys"]), name
        assert set(chain.from_iterable(group[1:] for group in found)) == set(fields["negative_keys"]), name
        assert len(set(map(tuple, found))) > 60, name
    assert varied["epoch"] != varied["seed"] != varied["row"] != varied["epoch"]


def test_positives_and_negatives_are_drawn_evenly():
    found = groups(drawn([record(0, 4, 8)] * 4000, Draw(3, 0)))
    for counts, share in (
        (Counter(group[0] for group in found), 1 / 4),
        (Counter(chain.from_iterable(group[1:] for group in found)), 2 / 8),
    ):
        assert all(abs(count / 4000 - share) < 0.035 for count in counts.values())  # five standard deviations


@SEVERAL
@given(ROWS, st.integers(1, 5), st.sampled_from(["pn", "p", "n", ""]), st.integers(0, 5))
def test_reranker_scores_follow_their_passages(sizes, group_size, scores, seed):
    records = [record(row, *counts, scores=scores) for row, counts in enumerate(sizes)]
    batch = drawn(records, Draw(group_size, seed))
    ends = np.cumsum(batch.group_sizes)[:-1]
    assert batch.reranker.dtype == np.float32
    for keys, found in zip(groups(batch), np.split(batch.reranker, ends), strict=True):
        if scores == "pn" or (scores == "p" and len(keys) == 1):
            assert found.tolist() == np.array(keys, dtype=np.float32).__truediv__(np.float32(10)).tolist()
        else:  # a group is scored as a whole, or not at all
            assert np.isnan(found).all()


def test_rows_with_and_without_scores_share_a_batch():
    batch = drawn([record(0, 1, 1, scores="pn"), record(1, 1, 1), record(2, 1, 1, scores="pn")], Draw(2, 0))
    np.testing.assert_array_equal(batch.reranker, np.float32([0, 5, np.nan, np.nan, 20, 25]))


def test_answers_are_all_positives_of_each_query_repeated_to_fill():
    batch = drawn([record(1, 3, 2), record(2, 1, 2), record(3, 2, 0)], Draw(3, 0))
    assert batch.answers.tolist() == [[100, 101, 102], [200, 200, 200], [300, 301, 300]]
    for array in (batch.answers, batch.passage_keys, batch.query_keys, batch.group_sizes):
        assert array.dtype == np.int64


def word_text(rng: np.random.Generator, words: int) -> list[int]:
    """``<s> … </s>`` of words of one to three tokens."""
    inner = [[rng.integers(30, 60), *rng.integers(4, 30, rng.integers(0, 3))] for _ in range(words)]
    return [0, *map(int, chain.from_iterable(inner)), 2]


def words(text: list[int], starts: np.ndarray = STARTS) -> list[tuple[int, ...]]:
    """The words of a text, tokens together."""
    cuts = [place for place, token in enumerate(text[1:-1]) if starts[token]]
    assert cuts[0] == 0
    return [tuple(text[1:-1][a:b]) for a, b in zip(cuts, [*cuts[1:], None], strict=True)]


def is_three_segments_in_another_order(text: list[int], shuffled: list[int], starts: np.ndarray = STARTS) -> bool:
    """Whether some two cuts at word starts, and some order other than the present one, make one of the other."""
    inner, wanted = text[1:-1], shuffled[1:-1]
    places = [place for place, token in enumerate(inner) if place and starts[token]]
    for a, b in combinations(places, 2):
        segments = [inner[:a], inner[a:b], inner[b:]]
        orders = list(permutations(segments))[1:]
        if any(list(chain.from_iterable(order)) == wanted for order in orders):
            return True
    return False


@SEVERAL
@given(st.integers(0, 2**32 - 1), st.integers(12, 40), st.integers(0, 3))
def test_segments_are_permuted_at_word_starts_only(seed, count, chance):
    text = word_text(np.random.default_rng(seed), count)
    before = list(text)
    shuffled = shuffle_segments(text, STARTS, random.Random(chance))
    assert text == before
    assert (shuffled[0], shuffled[-1]) == (0, 2)
    assert Counter(shuffled) == Counter(text)
    assert Counter(words(shuffled)) == Counter(words(text))  # no word is torn
    assert is_three_segments_in_another_order(text, shuffled)


def test_no_word_of_a_real_text_is_torn(tiny_tokenizer_json):
    """Words of one piece, of several, and of characters."""
    starts, tokenizer = word_starts(tiny_tokenizer_json), Tokenizer(tiny_tokenizer_json)
    text = "the vector searches Straßen repeatedly hello 数据 worlds как поиски; and indexed queries of some models"
    ids = tokenizer.encode([text], max_length=200).ids.tolist()
    whole = Counter(words(ids, starts))
    assert len(whole) == 16
    assert max(map(len, whole)) > 4
    orders = {tuple(shuffle_segments(ids, starts, random.Random(seed))) for seed in range(60)}
    for shuffled in orders:
        assert Counter(words(list(shuffled), starts)) == whole
    assert len(orders) == 5  # all orders of three segments but the present one


def test_a_share_of_one_shuffles_every_positive_alone():
    rng = np.random.default_rng(0)
    records = [record(row, 1, 3) for row in range(50)]
    for fields in records:
        fields |= {"query": word_text(rng, 20), "positives": [word_text(rng, 20)]}
        fields["negatives"] = [word_text(rng, 20) for _ in range(3)]
    plain = drawn(records, Draw(3, 0))
    batch = drawn(records, Draw(3, 0, 1.0, STARTS))
    assert batch.queries.ids.tolist() == plain.queries.ids.tolist()
    assert batch.passage_keys.tolist() == plain.passage_keys.tolist()  # a shuffled text is the same text
    for place, (before, after) in enumerate(zip(tokens(plain), tokens(batch), strict=True)):
        if place % 3:
            assert after == before
        else:
            assert is_three_segments_in_another_order(before, after)
    assert tokens(drawn(records, Draw(3, 0, 1.0, STARTS))) == tokens(batch)
    assert tokens(drawn(records, Draw(3, 0, 1.0, STARTS), epoch=1)) != tokens(batch)
    assert tokens(drawn(records, Draw(3, 0, 0.0, STARTS))) == tokens(plain)


def test_the_papers_share_of_texts_is_shuffled():
    text = word_text(np.random.default_rng(1), 30)
    batch = drawn([record(0, 1, 0) | {"positives": [text]}] * 20_000, Draw(1, 0, 0.002, STARTS))
    shuffled = sum(found != text for found in tokens(batch))
    assert 0.001 < shuffled / 20_000 < 0.003  # 40 expected, standard deviation 6
    again = drawn([record(0, 1, 0) | {"positives": [text]}] * 20_000, Draw(1, 0, 0.002, STARTS), epoch=1)
    assert [found != text for found in tokens(again)] != [found != text for found in tokens(batch)]


@pytest.mark.parametrize("text", [[0, 2], [0, 40, 2], [0, 40, 40, 40, 2], [0, 5, 5, 5, 5, 5, 5, 2]])
def test_texts_without_another_order_stay_as_they_are(text):
    assert shuffle_segments(text, STARTS, random.Random(0)) == text


def test_a_text_of_two_words_is_turned_round():
    assert shuffle_segments([0, 41, 42, 2], STARTS, random.Random(0)) == [0, 42, 41, 2]


def test_a_text_without_word_starts_is_cut_between_tokens():
    text = [0, *range(4, 28), 2]
    shuffled = shuffle_segments(text, STARTS, random.Random(0))
    assert is_three_segments_in_another_order(text, shuffled, np.ones(60, dtype=np.bool_))
