"""BM25 against scores computed by hand, and its tokens in scripts without spaces."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.evaluation.bm25 import BM25, tokenize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World_2!", ["hello", "world_2"]),
        ("\uff21\uff22\uff23 \uff11\uff12", ["abc", "12"]),  # full-width forms: NFKC
        ("数据库", ["数据", "据库"]),
        ("库", ["库"]),
        ("Qt 数据库abc", ["qt", "数据", "据库", "abc"]),
        ("カタカナ", ["カタ", "タカ", "カナ"]),
        ("データ・ベース", ["デー", "ータ", "ベー", "ース"]),
        ("한국어 글", ["한국", "국어", "글"]),
        ("สวัสดี", ["สว", "วั", "ัส", "สด", "ดี"]),
        ("ខ្មែរ។", ["ខ្", "្ម", "មែ", "ែរ"]),
        ("Привет мир", ["привет", "мир"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


def test_scores_of_documents_of_equal_length() -> None:
    # Every document has the average length, so that a term found once weighs 1 / (1 + k1) = 1 / 2.2.
    index = BM25(["red apple", "green apple", "green pear"])
    red = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5)) / 2.2
    apple = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5)) / 2.2
    assert index.scores("red apple").tolist() == pytest.approx([red + apple, apple, 0.0], rel=1e-5)
    assert [position for position, _ in index.search("red apple", 10)] == [0, 1]


def test_scores_with_term_frequency_and_length() -> None:
    # The average length is 2; lengths 1 and 3 give
    # 1.2 * (0.25 + 0.75 * 1/2) = 0.75 and 1.2 * (0.25 + 0.75 * 3/2) = 1.65.
    scores = BM25(["red", "red red red"]).scores("red")
    idf = math.log(1 + 0.5 / 2.5)
    assert scores.tolist() == pytest.approx([idf * 1 / 1.75, idf * 3 / 4.65], rel=1e-5)


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    assert [position for position, _ in BM25(["a b", "a c", "a d", "e f"]).search("a", 2)] == [0, 1]


def test_unknown_words_and_empty_indexes_find_nothing() -> None:
    assert BM25(["red apple"]).search("blue", 5) == []
    assert BM25([]).search("blue", 5) == []


@given(
    st.lists(st.text(alphabet="abc 数据", max_size=12), min_size=1, max_size=8),
    st.text(alphabet="abc 数据", max_size=8),
)
def test_search_is_the_sorted_list_of_positive_scores(texts: list[str], query: str) -> None:
    index = BM25(texts)
    scores = index.scores(query).tolist()
    expected = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: (-scores[i], i))
    assert [position for position, _ in index.search(query, 3)] == expected[:3]


def lucene(texts: list[str], query: str) -> list[float]:
    """BM25Similarity as Lucene's documentation has it, term by term of the query, repeated ones each time."""
    documents = [Counter(tokenize(text)) for text in texts]
    average = sum(map(Counter.total, documents)) / len(documents)
    scores = [0.0] * len(texts)
    for term in tokenize(query):
        held = sum(term in document for document in documents)
        idf = math.log(1 + (len(documents) - held + 0.5) / (held + 0.5))
        for i, document in enumerate(documents):
            norm = 1.2 * (1 - 0.75 + 0.75 * document.total() / average)
            scores[i] += idf * document[term] / (document[term] + norm)
    return scores


@pytest.mark.parametrize("query", ["red", "red red apple", "数据库", "green unknown pear", "数据 red"])
def test_scores_are_those_of_lucene(query: str) -> None:
    texts = ["red apple, red pear and a green one", "数据库 red", "green pear"]
    assert BM25(texts).scores(query).tolist() == pytest.approx(lucene(texts, query), rel=1e-5)


def test_a_bigram_is_found_inside_of_a_longer_run() -> None:
    index = BM25(["向量数据库搜索", "数学", "据此"])
    assert [position for position, _ in index.search("数据", 3)] == [0]
