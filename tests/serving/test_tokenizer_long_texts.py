"""The beginning of a long text gets the ids that it has in the whole text, and quickly."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb import find_bundle
from m3_vdb.encoding.tokenizer import CHARACTERS_PER_TOKEN, Tokenizer

MILLION = 10**6
FIXTURE = Path(__file__).parents[1] / "fixtures" / "multilingual.jsonl"
# What makes cuts dangerous: long words, repetition (a tie that the far end decides), combining marks, characters that
# grow, shrink or vanish in normalisation, and every kind of white space.
FRAGMENTS = [
    *("a", "aa", "aaa", "ab", "vector", "Straßenverkehrsordnung", "数据库", "検索", "。", "…", "<s>"),
    *(
        "🙂",
        "👩\u200d💻",
        "𝕏",
        "ｶﾞ",
        "ﷺ",
        "㍿",
        "e\u0301",
        "\u0301",
        "ำ",
        "각",
        "ᄀ",
        "\u0600",
        "\u200b",
        "\u200d",
        "\0",
        "\x1c",
    ),
    *(" ", "  ", " " * 30, "\n", "\r\n", "\t", "\u00a0", "\u3000", "\x85", "\u2028"),
]
MAX_LENGTHS = [3, 4, 7]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(find_bundle().path / "tokenizer.json")


def fixture_texts() -> list[str]:
    return [json.loads(line)["text"] for line in FIXTURE.read_text(encoding="utf-8").splitlines()]


def whole_then_cut(tokenizer: Tokenizer, text: str, max_length: int) -> tuple[list[int], bool]:
    """The definition: all tokens of the whole text, then the cut."""
    ids = tokenizer.encode([text], max_length=len(text) * 20 + 3).ids.tolist()
    return (ids, False) if len(ids) <= max_length else ([*ids[: max_length - 1], ids[-1]], True)


def assert_as_defined(tokenizer: Tokenizer, text: str, max_length: int) -> None:
    batch = tokenizer.encode([text], max_length=max_length)
    assert (batch.ids.tolist(), bool(batch.truncated[0])) == whole_then_cut(tokenizer, text, max_length)


def long_text(name: str) -> str:
    draw = random.Random(20240205)
    letters = "abcdefghijklmnopqrstuvwxyz"
    characters = "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着"
    return {
        "chinese": lambda: "".join(draw.choices(characters, k=MILLION)),
        "chinese lines": lambda: "\n".join("".join(draw.choices(characters, k=999)) for _ in range(MILLION // 1000)),
        "letters": lambda: "".join(draw.choices(letters, k=MILLION)),
        "one letter": lambda: "a" * MILLION,
        "words": lambda: "".join(draw.choices(letters + "    ", k=MILLION)),
        "spaces": lambda: " " * MILLION,
        "spaces, then a word": lambda: " " * MILLION + "vector",
    }[name]()


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("chinese", 8),  # one word: all of it is read
        ("letters", 8),
        ("one letter", 8),
        ("spaces", 8),
        ("spaces, then a word", 8),
        ("chinese lines", 0.5),  # white space here and there: only the beginning is read
        ("words", 0.5),
    ],
)
def test_a_million_characters_are_cut_as_if_all_were_tokenized(tokenizer, name, seconds):
    text = long_text(name)
    start = time.process_time()
    batch = tokenizer.encode([text], max_length=512)
    elapsed = time.process_time() - start
    assert (batch.ids.tolist(), bool(batch.truncated[0])) == whole_then_cut(tokenizer, text, 512)
    assert elapsed < seconds, "processor time, eight times what was measured"


def test_only_the_beginning_of_a_text_with_white_space_is_tokenized(tokenizer, monkeypatch):
    read: list[int] = []

    def remember(texts: list[str]) -> list[list[int]]:
        read.extend(len(text) for text in texts)
        return ids(texts)

    ids = tokenizer._ids
    monkeypatch.setattr(tokenizer, "_ids", remember)
    tokenizer.encode([long_text("words")], max_length=512)
    assert len(read) == 1
    assert read[0] <= 512 * CHARACTERS_PER_TOKEN


def test_words_across_the_end_of_the_window_are_not_cut(tokenizer):
    # Regression: the window once ended inside a word, and pieces of half a word were taken for those of the whole.
    draw = random.Random(7)
    words = sorted({word for text in fixture_texts() for word in text.split() if 8 < len(word) < 40})
    harmful = 0
    for word in draw.sample(words, 500):
        max_length = draw.choice(MAX_LENGTHS)
        window = (max_length - 1) * CHARACTERS_PER_TOKEN
        text = " " * (window - draw.randint(2, len(word) - 1)) + word + " x" * 10
        assert_as_defined(tokenizer, text, max_length)
        expected = whole_then_cut(tokenizer, text, max_length)
        harmful += tokenizer.encode([text[:window]], max_length=max_length).ids.tolist() != expected[0]
    assert harmful > 50, "else the test shows nothing"


@pytest.mark.parametrize("length", [48, 49, 50, 51, 1000, 1001])
def test_a_long_word_whose_segmentation_depends_on_its_end(length):
    import numpy as np

    from train.import_base import tokenizer_json

    # "aa" is better than two "a": a word of odd length has one single "a", and only its end says that it is odd.
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "aa", "▁a", "<mask>"]
    scores = np.array([0, 0, 0, 0, -3, -4, -5, -3.5, 0], dtype=np.float32)
    assert_as_defined(Tokenizer(tokenizer_json(pieces, scores)), "a" * length, 4)


@settings(max_examples=200)
@given(
    st.integers(0, 160),
    st.lists(st.sampled_from(FRAGMENTS), min_size=40, max_size=160),
    st.sampled_from(MAX_LENGTHS),
)
def test_mixed_fragments_are_cut_as_if_all_were_tokenized(tokenizer, blanks, fragments, max_length):
    # Blanks in front, so that the window often ends after a few characters of text.
    assert_as_defined(tokenizer, " " * blanks + "".join(fragments), max_length)


@pytest.mark.parametrize("max_length", MAX_LENGTHS)
def test_real_texts_are_cut_as_if_all_were_tokenized(tokenizer, max_length):
    window = (max_length - 1) * CHARACTERS_PER_TOKEN
    longer = [text for text in fixture_texts() if len(text) > window]
    assert len(longer) > 100
    for text in longer:
        assert_as_defined(tokenizer, text, max_length)
