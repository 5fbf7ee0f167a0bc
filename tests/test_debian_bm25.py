"""BM25 of the Debian benchmark against scores computed by hand, and its tokens in scripts without spaces."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.debian.bm25 import BM25, tokenize


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


def test_the_baseline_reads_beir_and_gives_the_gain_of_the_second_rank(tmp_path: Path) -> None:
    from benchmarks.debian.baseline import evaluate

    corpus = [{"_id": "a", "title": "", "text": "red red pear"}, {"_id": "b", "title": "", "text": "red apple tree"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "red"}\n', encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\n", encoding="utf-8")
    assert evaluate(tmp_path) == {"nDCG@10": round(1 / math.log2(3), 4), "R@100": 1.0}
