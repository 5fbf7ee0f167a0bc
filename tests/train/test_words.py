from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError
from train.words import segment_cuts, word_starts


def test_word_starts_are_the_pieces_with_a_space(tiny_tokenizer_json):
    starts = word_starts(tiny_tokenizer_json)
    pieces = [piece for piece, _ in json.loads(tiny_tokenizer_json)["model"]["vocab"]]
    assert [pieces[i] for i in np.flatnonzero(starts)] == [p for p in pieces if p.startswith("▁")]
    assert starts.dtype == np.bool_
    assert len(starts) == len(pieces)
    assert not starts[:4].any()
    assert not starts[pieces.index("<mask>")]


def test_word_starts_agree_with_the_serving_form_of_the_tokenizer(tiny_tokenizer_json):
    from m3_vdb.encoding.tokenizer import Tokenizer

    assert np.array_equal(word_starts(Tokenizer(tiny_tokenizer_json).to_json()), word_starts(tiny_tokenizer_json))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {"vocab": {"▁a": 0}}}', '{"model": {"vocab": [1]}}', '{"model": {"vocab": 3}}']
)
def test_other_vocabularies_are_refused(text):
    with pytest.raises(ConfigError, match="Unigram"):
        word_starts(text)


def cuts(words: str, parts: int = 3) -> list[int]:
    """Cuts of a text given as one character a token, a capital beginning a word."""
    starts = np.array([False] * 26 + [True] * 26)
    ids = [26 + ord(c) - ord("A") if c.isupper() else ord(c) - ord("a") for c in words]
    return segment_cuts(np.array(ids, dtype=np.int32), starts, parts)


def test_cuts_move_to_the_nearest_word_start():
    assert cuts("AaaaaBaaCaaa") == [5, 8]
    assert cuts("AaaBaaaaaCaa") == [3, 9]
    assert cuts("AaaBaBaaaaaa", parts=2) == [5]


def test_without_word_starts_near_a_cut_stays_between_two_tokens():
    assert cuts("aaaaaaaaaaaa") == [4, 8]
    assert cuts("Aaaaaaaaaaaa") == [4, 8]


def test_texts_shorter_than_the_segments():
    assert cuts("") == []
    assert cuts("A") == []
    assert cuts("AB") == [1]
    assert cuts("ABC") == [1, 2]


@given(st.text("aB", max_size=60), st.integers(1, 6))
def test_segments_are_never_empty_nor_twice_too_long(text, parts):
    found = cuts(text, parts)
    assert found == sorted(set(found))
    edges = [0, *found, len(text)]
    if len(text) >= parts:
        assert len(found) == parts - 1
        assert all(0 < b - a <= 2 * len(text) / parts + 1e-9 for a, b in pairwise(edges))
    else:
        assert all(0 < cut < len(text) for cut in found)
