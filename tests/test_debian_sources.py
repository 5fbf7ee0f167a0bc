"""How the sources of the Debian benchmark are read and cleaned: small inline samples, no network."""

import pytest

from benchmarks.debian import ddtp, libreoffice, udhr
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


HELP = """<html><body><header><p id="par_id0">menu</p></header><div id="DisplayArea">
<meta itemprop="keywords" content="Anker;Optionen"><meta itemprop="keywords" content="objects, anchoring">
<h1 id="hd_id1"><a name="x"></a>Objekte positionieren</h1>
<p id="par_id2">Ein Objekt wird mit einem <span class="emph">Anker</span> an einem anderen Element befestigt, so
   dass es sich mit diesem bewegt. Druecken Sie <span class="switchinline"><span class="MAC">Befehl</span><span
   >Strg</span></span>.</p>
<p id="par_id3">This paragraph has not been translated.</p>
<h2 id="hd_id4">Objekte positionieren</h2>
<div class="howtoget"><div class="embedded"><p id="par_id5">Choose Format - Anchor.</p></div></div>
<p id="par_id6" class="code">print(1)</p>
<div class="relatedtopics"><p id="par_id7">Siehe auch</p></div>
</div></body></html>"""

ENGLISH = libreoffice.Page(
    "Positioning objects",
    ("objects anchoring",),
    {
        "par_id2": "An object is anchored to another element and moves with it. Press Ctrl. " * 3,
        "par_id3": "This paragraph has not been translated.",
        "hd_id4": "Positioning objects",
    },
)


def test_a_help_page_gives_title_keywords_and_its_own_blocks() -> None:
    page = libreoffice.parse_page(HELP.encode())
    assert page is not None
    assert page.title == "Objekte positionieren"
    assert page.keywords == ("Anker Optionen", "objects anchoring")
    assert list(page.blocks) == ["par_id2", "par_id3", "hd_id4"], "embedded text, code and links are left out"
    assert page.blocks["par_id2"].endswith("Druecken Sie Strg.")


def test_a_help_page_loses_what_is_english_and_what_repeats_its_title() -> None:
    page = libreoffice.parse_page(HELP.encode())
    assert page is not None
    record = libreoffice.make_record("swriter/x", "de", page, ENGLISH)
    assert record is not None
    assert record.concept_id == "lo/swriter/x"
    assert record.candidates == ("Objekte positionieren", "Anker Optionen"), "the English keyword is dropped"
    assert record.text.startswith("Ein Objekt wird")
    assert "\n" not in record.text
    assert "not been translated" not in record.text


def test_a_mostly_english_help_page_is_dropped() -> None:
    page = libreoffice.parse_page(HELP.encode())
    assert page is not None
    blocks = {**page.blocks, "par_id9": "English. " * 100}
    mostly = libreoffice.Page(page.title, page.keywords, blocks)
    english = libreoffice.Page(ENGLISH.title, ENGLISH.keywords, {**ENGLISH.blocks, "par_id9": "English. " * 100})
    assert libreoffice.make_record("x", "de", mostly, english) is None


def test_page_paths_are_the_same_in_every_language() -> None:
    names = [f"usr/share/libreoffice/help/{tag}/text/scalc/main.html" for tag in ("de", "pt-BR")]
    assert {libreoffice.page_path(name) for name in names} == {"scalc/main"}
    assert libreoffice.page_path("usr/share/libreoffice/help/index.html") == ""
    assert libreoffice.package_name("en") == "libreoffice-help-en-us"


def test_articles_of_the_declaration() -> None:
    page = '<article data-number="3"><h2>Article 3</h2><p>Everyone has the right to life.</p></article>'
    assert udhr.parse_articles(page.encode()) == {3: ("Article 3", "Everyone has the right to life.")}


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
