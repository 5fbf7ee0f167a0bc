"""Training rows of the Debian benchmark: nothing held out is in them, negatives are wrong, rows are capped."""

import itertools
from pathlib import Path

import pytest

from benchmarks.debian import pairs, parallel, training, training_long, training_windows
from benchmarks.debian.build import build
from benchmarks.debian.pool import HeldOut, hold_out, make_pool, make_shelf
from benchmarks.debian.records import HELD_OUT, estimate_tokens, key, side_of
from benchmarks.debian.texts import Translation
from benchmarks.debian.training_windows import Frame
from tests.test_debian_build import (
    LANGUAGES,
    MADE_UP,
    OFFLINE,
    ROWS,
    collections_of,
    made_up_long_texts,
    made_up_paragraphs,
    made_up_records,
    read_lines,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "out", folder / "cache", LANGUAGES, sources=[MADE_UP], tasks=OFFLINE)
    return folder / "out"


def test_no_training_row_touches_a_held_out_query_text_or_concept(built: Path) -> None:
    pools = [make_pool(lang, made_up_records(lang)) for lang in LANGUAGES]
    held = hold_out(pools, [make_shelf(lang, made_up_long_texts(lang)) for lang in LANGUAGES])
    sections = {section.concept_id: section for text in made_up_long_texts("en") for section in text.sections}
    hidden = {f"y{name.removeprefix('long/')}" for name in sections if side_of(name) in HELD_OUT}
    judged = {key(str(row["text"])) for path in collections_of(built) for row in read_lines(path / "queries.jsonl")}
    assert judged <= held.queries
    assert {"called xx1w2 xx1w3", "headed xx1x2 xx1x3"} <= held.queries
    assert hidden
    for name in ROWS:
        rows = read_lines(built / name)
        assert len(rows) > 60, name
        for row in rows:
            texts = [str(text) for text in (*row["pos"], *row.get("neg", []))]  # type: ignore[misc]
            assert key(str(row["query"])) not in held.queries | held.texts
            if " of " in str(row["query"]):  # a paragraph, which says what concept it belongs to
                assert not held.touches_concept(f"s/{str(row['query']).split()[-1]}")
            assert not (held.texts | held.queries) & set(map(key, texts))
            if "concept" in row:
                assert side_of(str(row["concept"])) == "train"
                assert row["concept"] not in held.concepts
            if row["source"] == "books":
                lines = itertools.chain.from_iterable(text.splitlines() for text in texts)
                assert not held.queries & set(map(key, lines))
                assert not {word[2:] for text in texts for word in text.split() if word[2:3] == "y"} & hidden


def test_negatives_are_wrong_and_there_are_four_to_seven(built: Path) -> None:
    text_to_record = {record.text: record for lang in LANGUAGES for record in made_up_records(lang)}
    kinds = set()
    for row in read_lines(built / "train.jsonl"):
        kinds.add((row["lang"], row["doc_lang"]))
        negatives = [text_to_record[str(text)] for text in row["neg"]]  # type: ignore[attr-defined]
        assert 4 <= len(set(negatives)) == len(negatives) <= 7
        for negative in negatives:
            assert negative.concept_id != row["concept"]
            assert negative.lang == row["doc_lang"]
            assert key(str(row["query"])) not in map(key, negative.candidates)
    assert {("en", "en"), ("xx", "xx"), ("en", "xx"), ("xx", "en")} <= kinds


@pytest.mark.parametrize(("name", "source"), [("parallel.jsonl", "libreoffice"), ("messages.jsonl", "catalogs")])
def test_a_translation_has_its_original_and_those_most_like_it(built: Path, name: str, source: str) -> None:
    rows = read_lines(built / name)
    assert {row["source"] for row in rows} == {source}
    assert {(row["lang"], row["doc_lang"]) for row in rows} == {("de", "en"), ("xx", "en")}
    for row in rows:
        (original,) = row["pos"]  # type: ignore[misc]
        assert str(row["query"]).split()[-1] == str(original).split()[-1]
        assert original not in row["neg"]  # type: ignore[operator]
        assert len(set(row["neg"])) == parallel.NEGATIVES  # type: ignore[call-overload]
        words = set(str(original).split()[:3])
        assert all(len(words & set(str(text).split())) >= 1 for text in row["neg"])  # type: ignore[attr-defined]


def test_a_paragraph_that_is_almost_the_original_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "NEGATIVES", 1)
    changed = "Chosen files are saved once more when the window of the program closes at the end"
    original = f"{changed} today"
    another = "Chosen pages are printed once more when the window of the printer opens at noon"
    concept = next(name for name in map(str, range(100)) if side_of(name) == "train")
    texts = (original, changed, another)
    translated = {
        lang: [Translation(concept, f"{lang} {number}", text) for number, text in enumerate(texts)]
        for lang in map("language {}".format, range(20))
    }
    rows = [row for row in parallel.paragraph_rows(translated, HeldOut()) if row["pos"] == [original]]
    assert len(rows) > 3
    assert all(row["neg"] == [another] for row in rows)


def test_every_title_and_index_entry_asks_once_for_all_its_english_texts(built: Path) -> None:
    english = {record.concept_id: record.text for record in made_up_records("en")}
    pools = {lang: make_pool(lang, made_up_records(lang)) for lang in ("de", "xx")}
    rows = read_lines(built / "questions.jsonl")
    assert len({(row["lang"], row["query"]) for row in rows}) == len(rows)
    kinds = set()
    for row in rows:
        query, lang = str(row["query"]), str(row["lang"])
        answers = [pools[lang].records[position].concept_id for position in pools[lang].relevant(query)]
        assert sorted(row["pos"]) == sorted(english[concept] for concept in answers)  # type: ignore[call-overload]
        assert row["pos"][0] == english[str(row["concept"])]  # type: ignore[index]
        assert row["doc_lang"] == "en"
        kinds.add((lang, "topic" in query))
    assert kinds == {(lang, is_entry) for lang in pools for is_entry in (False, True)}


def test_a_long_positive_has_lost_its_heading_and_no_negative_is_the_same_text(built: Path) -> None:
    for row in read_lines(built / "train_long.jsonl"):
        (positive,) = row["pos"]  # type: ignore[misc]
        assert key(str(row["query"])) not in map(key, str(positive).splitlines())
        assert len(set(row["neg"])) == training_long.NEGATIVES  # type: ignore[call-overload]
        opening = set(str(positive).split()[-40:])
        assert all(set(str(text).split()[-40:]) != opening for text in row["neg"])  # type: ignore[attr-defined]


def test_a_window_has_the_section_that_is_asked_for_and_not_its_heading(built: Path) -> None:
    sizes = []
    for row in read_lines(built / "train_windows.jsonl"):
        (window,) = row["pos"]  # type: ignore[misc]
        words = str(window).split()
        assert f"{row['lang']}y{str(row['concept']).removeprefix('long/')}" in words
        assert key(str(row["query"])) not in map(key, str(window).splitlines())
        sizes.append(estimate_tokens(window))
    assert min(sizes) >= 0.8 * training_windows.SHORTEST  # where lines are too long to fill it up
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.parametrize(
    ("tokens", "before", "begins", "window"),
    [
        (3, 0, 4, "efg"),
        (4, 0.5, 4, "cdef"),
        (4, 0.5, 1, "abcd"),  # there is too little before it
        (4, 0.5, 8, "ghij"),
        (4, 0, 9, "ghij"),  # there is too little behind it
        (99, 0.7, 4, "abcdefghij"),
        (0.1, 0, 4, "e"),
    ],
)
def test_a_window_is_cut_where_its_frame_says(
    monkeypatch: pytest.MonkeyPatch, tokens: float, before: float, begins: int, window: str
) -> None:
    monkeypatch.setattr(training_windows, "estimate_tokens", len)
    assert training_windows.cut(list("abcdefghij"), begins, Frame(tokens, before)) == "\n".join(window)


def test_a_heading_that_is_held_out_in_another_language_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_long, "MAX_ROWS_PER_TEXT", 99)
    shelves = [make_shelf(lang, made_up_long_texts(lang)) for lang in ("de", "xx")]
    held = hold_out([], shelves)
    texts = training_long.trainable(shelves[1], held)
    asked = {section.query for _, section in training_long.questions(texts, held, "xx")}
    offered = {section.query for text in texts.values() for section in text.sections}
    assert len(asked) > 60
    assert "Headed xx1x2 xx1x3" in offered - asked


def test_rows_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_ROWS", 7)
    monkeypatch.setattr(training_long, "MAX_ROWS", 5)
    monkeypatch.setattr(training_windows, "MAX_ROWS", 4)
    monkeypatch.setattr(pairs, "MAX_TITLES", 6)
    monkeypatch.setattr(pairs, "MAX_PARAGRAPHS", 9)
    pool, shelf = make_pool("xx", made_up_records("xx")), make_shelf("xx", made_up_long_texts("xx"))
    held = hold_out([pool], [shelf])
    assert len(training.rows([pool], held)) == 2 * 7
    assert len(training_long.rows([shelf], held)) == 5
    assert len(training_windows.rows([shelf], held)) == 4
    assert len(pairs.rows([pool], {"xx": made_up_paragraphs("xx")}, held)) == 2 * 6 + 9


def test_texts_are_cut_at_a_blank_where_there_is_one() -> None:
    assert training.clip("aaaa bbbb cccc", 9) == "aaaa bbbb"
    assert training.clip("aaaa bbbb cccc", 11) == "aaaa bbbb"
    assert training.clip("数" * 20, 9) == "数" * 9
