"""Answers in passages: against FlagEmbedding's values, against a second statement of the rule, and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import category, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.evaluation.answers import AnswerMatcher, judge, mkqa_passage, tokens
from m3_vdb.evaluation.metrics import measure, per_query
from m3_vdb.types import Document

GOLDEN = json.loads((Path(__file__).parent / "answers_golden.json").read_text(encoding="utf-8"))


def as_list(text: str) -> list[str]:
    return tokens(text)[1:-1].split("\n") if tokens(text) != "\n" else []


def restated(text: str) -> list[str]:
    """The rule once more, character by character."""
    found: list[str] = []
    inside = False
    for character in normalize("NFD", text):
        kind = category(character)[0]
        if kind in "LNM" and inside:
            found[-1] += character
        elif kind not in "ZC":
            found.append(character)
        inside = kind in "LNM"
    return [token.lower() for token in found]


@pytest.mark.parametrize(("text", "expected"), GOLDEN["tokens"])
def test_tokens_are_flagembeddings(text, expected):
    assert as_list(text) == expected


@pytest.mark.parametrize(("answers", "passage", "expected"), GOLDEN["has_answer"])
def test_an_answer_is_found_where_flagembedding_finds_it(answers, passage, expected):
    assert AnswerMatcher(answers).found_in(passage) is expected
    found = judge({"q": ["d"]}, [Document("d", passage)], {"q": answers})
    assert found == {"q": {"d": int(expected)}}


@pytest.mark.parametrize(("text", "expected"), GOLDEN["plain"])
def test_a_passage_of_mkqa_is_what_flagembedding_makes_of_it(text, expected):
    assert mkqa_passage(text) == expected


def test_recall_is_flagembeddings():
    documents = [
        Document(f"{i}-{j}", f"p {i} {j}" + " answer" * ((7 * i + 3 * j) % 23 == 0 and i != 3))
        for i in range(12)
        for j in range(100)
    ]
    ranked = {f"q{i}": [f"{i}-{j}" for j in range(100)] for i in range(12)}
    judgements = judge(ranked, documents, dict.fromkeys(ranked, ("answer",)))
    expected = GOLDEN["recall"]["at"]
    run = {query: {name: -float(rank) for rank, name in enumerate(names)} for query, names in ranked.items()}
    values = measure(run, judgements, [f"Success@{k}" for k in expected])
    assert values == pytest.approx({f"Success@{k}": value for k, value in expected.items()})


@given(st.text())
def test_tokens_are_those_of_a_second_statement(text):
    assert as_list(text) == restated(text)


word = st.sampled_from(["a", "b", "á", "c.", "ไ", "ที่", "東", "-", "1"])


@given(st.lists(st.lists(word, max_size=3).map(" ".join), max_size=4), st.lists(word, max_size=9).map(" ".join))
def test_many_answers_are_found_as_one_by_one(answers, passage):
    there = restated(passage)
    wanted = [restated(answer) for answer in answers]
    expected = any(
        answer and answer == there[start : start + len(answer)] for answer in wanted for start in range(len(there))
    )
    assert AnswerMatcher(answers).found_in(passage) is expected


@pytest.mark.parametrize("answers", [[], [""], [" "], ["\u200b", "\n"]])
def test_an_answer_without_tokens_is_never_found(answers):
    assert not AnswerMatcher(answers).found_in("anything")
    assert not AnswerMatcher(answers).found_in("")
    assert judge({"q": ["d"]}, [Document("d", "anything")], {"q": answers}) == {"q": {"d": 0}}


def test_judging_reads_the_title_and_only_what_was_retrieved():
    documents = [Document("1", "text", "The Answer"), Document("2", "the answer"), Document("3", "no")]
    found = judge({"q": ["1", "3", "unknown", "3"], "other": ["1"]}, documents, {"q": ["the answer"], "r": ["text"]})
    assert found == {"q": {"1": 1, "3": 0}, "r": {}}


def test_recall_looks_at_the_first_k_of_every_judged_query():
    judgements = {"late": {"x": 0, "y": 1}, "never": {"x": 0}, "missing": {"y": 1}}
    run = {"late": {"x": 2.0, "y": 1.0}, "never": {"x": 1.0}, "not judged": {"y": 1.0}}
    assert per_query(run, judgements, ["Success@1", "Success@2"]) == {
        "Success@1": {"late": 0.0, "never": 0.0, "missing": 0.0},
        "Success@2": {"late": 1.0, "never": 0.0, "missing": 0.0},
    }
