"""Settings, reading, sampling and passages: everything before a question is asked."""

from __future__ import annotations

import json
import random
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError, DocumentError
from train.synthesis.articles import (
    Article,
    choose_passages,
    draw_sample,
    letter_share,
    paragraphs,
    parse_article,
    plain,
)
from train.synthesis.config import SynthesizeConfig

PROSE = {
    "en": "The lighthouse keeper wrote letters every evening. Nobody on the mainland ever answered them! Why not? ",
    "zh": "灯塔看守人每天晚上都写信。大陆上从来没有人回信！为什么呢？他把所有的信都放进一个木箱里。",
    "ja": "灯台守は毎晩手紙を書いた。本土からは誰も返事をしなかった。なぜだろうか？彼は箱にしまった。",
    "th": "ผู้ดูแลประภาคารเขียนจดหมายทุกเย็น ไม่มีใครบนแผ่นดินใหญ่ตอบกลับ เขาเก็บจดหมายทั้งหมดไว้ในกล่องไม้ ",
    "ar": "كان حارس المنارة يكتب الرسائل كل مساء. لم يجب عليه أحد في البر؟ لماذا لم يجب أحد؟ ",
    "hi": "प्रकाशस्तंभ का रखवाला हर शाम पत्र लिखता था। मुख्य भूमि से किसी ने उत्तर नहीं दिया। क्यों नहीं? ",
}


def settings(tmp_path: Path, **changes: object) -> SynthesizeConfig:
    small = {
        "min_characters": 200,
        "max_characters": 5_000,
        "min_passage_characters": 30,
        "max_passage_characters": 120,
        "model": "stub",
    }
    files = {"articles": [tmp_path / "a.jsonl"], "out": tmp_path / "out.jsonl"}
    return SynthesizeConfig(**files | small | changes)


def write(path: Path, rows: list[object]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def ids(config: SynthesizeConfig) -> list[str]:
    return [article.id for article in draw_sample(config).articles(config)]


# --- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"articles": []}, "articles is empty"),
        ({"questions_per_article": 0}, "questions_per_article=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"max_characters": 150}, "below min_characters=200"),
        ({"max_passage_characters": 59}, "at least twice"),
        ({"max_passage_characters": 200}, "would be the whole article"),
        ({"model": ""}, "model is empty"),
        ({"base_url": "localhost:8000"}, "http://host:8000/v1"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, message):
    settings(tmp_path)
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


@pytest.mark.parametrize("changes", [{"api_key_env": "sk-secret-1"}, {"base_url": "https://me:sk-secret-1@host/v1"}])
def test_a_key_in_the_settings_is_refused_and_not_repeated(tmp_path, changes):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **changes)
    assert "secret" not in str(caught.value)


# --- reading and sampling

BAD = {
    "no JSON": '{"text": "x",',
    "a list": '["x"]',
    "no text": '{"id": "7"}',
    "blank text": '{"text": " \\n"}',
    "text is a number": '{"text": 7}',
    "title is a list": '{"text": "x", "title": ["y"]}',
    "id is true": '{"text": "x", "id": true}',
    "empty id": '{"text": "x", "id": ""}',
    "lone surrogate": '{"text": "x\\ud800"}',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_a_bad_line_stops_the_run_or_is_counted(tmp_path, line):
    good = [{"id": str(i), "text": PROSE["en"] * 5} for i in range(2)]
    write(tmp_path / "a.jsonl", [good[0], line, "", good[1]])
    with pytest.raises(DocumentError, match=r"a\.jsonl, line 2: ") as caught:
        draw_sample(settings(tmp_path))
    assert caught.value.index == 1
    config = settings(tmp_path, on_bad_row="skip")
    sample = draw_sample(config)
    assert (sample.read, sample.rejected) == (2, {"bad row": 1})
    assert [article.id for article in sample.articles(config)] == ["0", "1"]


def test_lines_that_are_not_utf8_are_bad_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DocumentError, match="line 1: not JSON in UTF-8"):
        draw_sample(settings(tmp_path))


def test_an_id_is_used_once_over_all_files(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, [{"id": 7, "text": PROSE["en"] * 5}])
    config = settings(tmp_path, articles=[tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    with pytest.raises(DocumentError, match=r"b\.jsonl, line 1: id '7' was used before"):
        draw_sample(config)


def test_an_article_without_id_is_named_by_its_content():
    one, same, other = (parse_article(json.dumps({"text": text}).encode(), Path("a"), 0) for text in ("a", "a", "b"))
    assert one.id == same.id != other.id


def test_only_articles_of_suitable_length_are_drawn(tmp_path):
    rows = [{"id": name, "text": "x" * size} for name, size in [("a", 199), ("b", 200), ("c", 300), ("d", 301)]]
    write(tmp_path / "a.jsonl", rows)
    config = settings(tmp_path, max_characters=300)
    sample = draw_sample(config)
    assert [article.id for article in sample.articles(config)] == ["b", "c"]
    assert sample.rejected == {"article below min_characters": 1, "article above max_characters": 1}
    with pytest.raises(ConfigError, match="no article of 400 to 5000 characters among 4"):
        draw_sample(settings(tmp_path, min_characters=400))


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl cannot be read"):
        draw_sample(settings(tmp_path))


def test_the_sample_does_not_depend_on_the_order_of_lines_and_files(tmp_path):
    rows = [{"id": f"article {i}", "text": PROSE["en"] * 3} for i in range(60)]
    write(tmp_path / "a.jsonl", rows)
    config = settings(tmp_path, max_articles=20)
    expected = ids(config)
    assert len(expected) == 20
    assert expected == sorted(expected, key=lambda name: int(name.split()[1])), "rows come in the files' order"

    random.Random(0).shuffle(rows)
    write(tmp_path / "b.jsonl", rows[:25])
    write(tmp_path / "c.jsonl", rows[25:])
    split = replace(config, articles=[tmp_path / "c.jsonl", tmp_path / "b.jsonl"])
    assert set(ids(split)) == set(expected)
    assert set(ids(replace(config, max_articles=30))) > set(expected), "a larger sample holds the smaller"
    assert set(ids(replace(config, seed=1))) != set(expected)


# --- passages


def test_paragraphs_are_passages_and_short_ones_join_the_next():
    first, second, third = (PROSE["en"].strip() + f" Number {name}." for name in ("one", "two", "three"))
    text = f"Heading\n\n{first}\n\n{second}\n \n{third}\n\nThe end."
    found = [text[start:end] for start, end in paragraphs(text, minimum=30, maximum=150)]
    assert found == [f"Heading\n\n{first}", second, third], "'The end.' is too short"


def test_lines_are_paragraphs_where_there_are_no_blank_lines():
    line = PROSE["en"].strip()
    assert paragraphs(f"{line}\n{line}\n{line}", minimum=30, maximum=len(line)) == [
        (i * (len(line) + 1), i * (len(line) + 1) + len(line)) for i in range(3)
    ]


@pytest.mark.parametrize("lang", ["en", "zh", "ja", "ar", "hi"])
def test_a_text_without_paragraphs_is_cut_between_sentences(lang):
    text = PROSE[lang].strip() * 6
    found = [text[start:end] for start, end in paragraphs(text, minimum=20, maximum=60)]
    assert len(found) > 4
    assert all(passage[-1] in ".!?。！？؟।" for passage in found)


def test_a_text_without_sentence_marks_is_cut_at_spaces():
    text = PROSE["th"] * 6
    phrases = set(PROSE["th"].split())
    found = [text[start:end] for start, end in paragraphs(text, minimum=30, maximum=80)]
    assert len(found) > 4
    assert {phrase for passage in found for phrase in passage.split()} <= phrases


def test_figures_are_no_passage():
    table = "\n".join(f"{year} {year * 7 % 1000} {year * 13 % 977}.{year % 97} kg" for year in range(1900, 1960))
    assert letter_share(table) < 0.3
    config = settings(Path("unused"), questions_per_article=9)
    chosen = choose_passages(Article("id", f"{table}\n\n{PROSE['en']}"), config)
    assert [passage.text for passage in chosen] == [PROSE["en"].strip()]
    assert choose_passages(Article("id", table), config) == []


def test_a_decimal_point_ends_no_sentence():
    text = "It weighs 3.5 tons and more than 20.25 of them. " * 4
    assert {text[start:end] for start, end in paragraphs(text, minimum=20, maximum=60)} == {text[:47]}


TRICKY = st.text(
    "a .\r\n\u0301\u0e17\u0e35\u0e48\u0e33\u0915\u094d\u0937\u200d\u200c\ufe0f\u20e3\u0600\u1112\u1161\u11ab👩👧🏽🇩🇪",
    max_size=40,
)


def boundaries(text: str) -> set[int]:
    """Where graphemes of the Unicode standard end."""
    return {0} | {match.end() for match in regex.finditer(r"\X", text)}


@given(TRICKY, st.integers(1, 12))
def test_passages_stand_in_order_are_short_and_cut_no_grapheme(text, limit):
    spans = paragraphs(text, minimum=1, maximum=limit)
    edges = [at for span in spans for at in span]
    assert edges == sorted(edges)
    assert {*edges} <= boundaries(text)
    assert all(0 < end - start <= limit for start, end in spans)


ARTICLES = st.lists(st.sampled_from([*PROSE.values(), "\n", "\n\n", "1 2 3 4 5 6 7 8 9 ", "e\u0301" * 20]), max_size=40)


@given(ARTICLES.map("".join), st.integers(0, 3))
@example(PROSE["zh"] * 10, 0)
def test_a_passage_is_a_whole_part_of_its_article(text, seed):
    config = settings(Path("unused"), seed=seed, questions_per_article=2)
    article = Article("id", text)
    chosen = choose_passages(article, config)
    assert len(chosen) <= 2
    for passage in chosen:
        end = passage.start + len(passage.text)
        assert article.text[passage.start : end] == passage.text == passage.text.strip()
        assert config.min_passage_characters <= len(passage.text) <= config.max_passage_characters
        assert {passage.start, end} <= boundaries(text)
        assert letter_share(passage.text) >= 0.7


@pytest.mark.parametrize("lang", PROSE)
def test_a_passage_is_found_in_every_script(lang):
    text = PROSE[lang] * 8
    chosen = choose_passages(Article("id", text), settings(Path("unused"), questions_per_article=3))
    assert len(chosen) == 3
    assert len({passage.start for passage in chosen}) == 3
    assert not any(unicodedata.category(passage.text[0]).startswith("M") for passage in chosen)


def test_the_draw_of_passages_depends_on_seed_and_id():
    text = "\n\n".join(f"{PROSE['en']} Paragraph {number}." for number in range(20))

    def starts(name: str = "id", **changes: object) -> set[int]:
        return {p.start for p in choose_passages(Article(name, text), settings(Path("unused"), **changes))}

    assert starts() == starts()
    assert len({frozenset(starts(seed=seed)) for seed in range(20)}) > 5
    assert len({frozenset(starts(name=str(name))) for name in range(20)}) > 5
    assert starts(questions_per_article=3) > starts(questions_per_article=2) > starts()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Who — wrote IT?", "who wrote it"), ("ＡＢＣ！", "abc"), ("कि  क्षि।", "कि क्षि"), ("เมื่อ?", "เมื่อ"), ("?!", "")],
)
def test_plain_forms_keep_words_and_marks(text, expected):
    assert plain(text) == expected
