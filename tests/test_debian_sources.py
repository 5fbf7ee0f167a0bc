"""How the sources of the Debian benchmark are read and cleaned: small inline samples, no network."""

import json
from pathlib import Path

import pytest

from benchmarks.debian import ddtp, udhr
from benchmarks.debian.deb822 import Description, parse_description, stanzas
from benchmarks.debian.fixture import cut
from benchmarks.debian.records import Record, is_query

JAPANESE = """\
Package: 3dchess
Description-md5: 12d0
Description-ja: 3 つの盤でチェスをプレイ!
 縦に積まれた三つの盤面があります。96 駒のうちほとんどは伝統的チェスの駒と同
 じですが、二つほど追加があります。
 .
 動ける方向:
  * 26 方向
  * 上下

Package: other
Description-md5: 77aa
Description-ja: 別
"""


def test_a_ddtp_stanza_is_split_into_its_parts() -> None:
    first, second = stanzas(JAPANESE.splitlines(keepends=True))
    assert (first["Package"], first["Description-md5"], second["Package"]) == ("3dchess", "12d0", "other")
    entry = parse_description(first["Description-ja"], package="3dchess")
    assert entry.short == "3 つの盤でチェスをプレイ!"
    assert entry.long == (
        # Japanese lines are joined without a blank, list items stay on lines of their own.
        "縦に積まれた三つの盤面があります。96 駒のうちほとんどは伝統的チェスの駒と同じですが、二つほど追加があります。",
        "動ける方向:",
        "* 26 方向",
        "* 上下",
    )


def test_lines_of_a_spaced_script_are_joined_with_a_blank() -> None:
    assert parse_description("x\n one\n two\n .\n three").long == ("one two", "three")


def _description(package: str, short: str, *long: str) -> Description:
    return Description(package, short, long)


def test_a_family_is_joined_by_source_first_paragraph_or_short_line() -> None:
    shared = "The foo library reads and writes version 1 of every foo file that has ever been seen."
    english = {
        "a": _description("libfoo1", "foo library", shared),
        "b": _description("foo-tools", "tools for foo", shared.replace("1", "22")),  # the same but for a digit
        "c": _description("libfoo-dev", "headers of foo", "Only for developers."),  # the same source as "a"
        "d": _description("bar", "bar 3 game", "A game."),
        "e": _description("bar4", "Bar 4 game", "Another text."),  # the same short line but for a digit and case
        "f": _description("baz", "baz", "A game."),  # a shared paragraph this short joins nothing
    }
    found = ddtp.families(english, {"libfoo1": "foo", "libfoo-dev": "foo"})
    assert found == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f"}


def test_an_untranslated_description_is_dropped_and_an_untranslated_title_is_no_query() -> None:
    paragraph, translated = "A long text about the game of chess. " * 4, "Ein langer Text ueber das Schachspiel. " * 4
    english = _description("chess", "GNU Chess", paragraph, "Second part of this text.")
    assert ddtp.make_record("c", "de", _description("chess", "Schach", paragraph, "Zweiter Teil."), english) is None
    record = ddtp.make_record("c", "de", _description("chess", "GNU Chess", translated, "GNU Chess"), english)
    assert record is not None
    assert (record.title, record.query) == ("", "")
    assert record.text == translated, "a paragraph that repeats the title is removed from the body"


def test_language_tags_become_ddtp_codes() -> None:
    assert [ddtp.ddtp_code(lang) for lang in ("de", "pt-br", "zh-cn")] == ["de", "pt_BR", "zh_CN"]


def test_articles_of_the_declaration() -> None:
    page = '<article data-number="3"><h2>Article 3</h2><p>Everyone has the right to life.</p></article>'
    assert udhr.parse_articles(page.encode()) == {3: ("Article 3", "Everyone has the right to life.")}


INDEX = "".join(
    f"{{\n    bcp47: '{tag}',\n    code: '{code}',\n    direction: 'ltr',\n    iso6393: '{language}',\n  }}"
    for tag, code, language in [
        *(("de-1901", "deu_1901", "deu"), ("de-1996", "deu_1996", "deu"), ("pt-PT", "por_PT", "por")),
        *(("pt-BR", "por_BR", "por"), ("und", "017", "und"), ("sr-Latn", "srp_latn", "srp"), ("sr", "srp", "srp")),
    ]
)


def test_one_edition_of_the_declaration_is_chosen_per_language() -> None:
    assert udhr.choose_editions(INDEX) == {"de": "deu_1996", "pt-br": "por_BR", "sr": "srp"}


def test_articles_in_english_answer_those_of_the_other_languages(tmp_path: Path) -> None:
    editions = {lang: {1: ("", f"{lang} one"), 2: ("", f"{lang} two")} for lang in ("en", "sw")}
    counts = udhr.write(editions, tmp_path)
    assert counts == {"languages": 1, "documents": 2, "test_queries": 2, "test_judgements": 2}
    qrels = (tmp_path / "udhr" / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert qrels[1:] == ["q-sw-01\t01\t1", "q-sw-02\t02\t1"]
    queries = [json.loads(line) for line in (tmp_path / "udhr" / "queries.jsonl").read_text("utf-8").splitlines()]
    assert queries[0] == {"_id": "q-sw-01", "text": "sw one", "metadata": {"lang": "sw"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Short.", "Short."),
        ("One sentence. Another one that is too long", "One sentence."),
        ("一句话。另一句话很长很长很长很长很长很长很长很长", "一句话。"),
        ("no sentence end in here at all", "no sentence end in"),
    ],
)
def test_fixture_texts_end_where_a_sentence_ends(text: str, expected: str) -> None:
    assert cut(text, 12 if "。" in text else 20) == expected


def test_queries_must_be_words() -> None:
    assert [is_query(text) for text in ("ab", "表", "图表", "123", "abc", "x" * 161)] == [
        *(False, False, True, False, True, False)
    ]


def test_the_query_is_one_of_the_candidates_and_stays_the_same() -> None:
    record = Record("lo/a", "libreoffice", "de", "Titel", ("Stichwort", "Titel", "ab"), "text")
    assert record.candidates == ("Titel", "Stichwort")
    assert record.query in record.candidates
    assert record.query == Record("lo/a", "other", "de", "Titel", ("Stichwort",), "other text").query
