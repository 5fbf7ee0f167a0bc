"""What the sources of the Debian benchmark make of their files: small samples in, pages and records out; no network."""

import gzip
import io
import json
import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from benchmarks.debian import catalogues, ddtp, docbook, faq, help_pages, manpages, udhr
from benchmarks.debian.fixture import cut
from benchmarks.debian.pages import Page, PageSource, by_chapter, by_volume, edition, is_heading, number_blocks
from benchmarks.debian.pool import HeldOut
from benchmarks.debian.records import LANGUAGES, LongText, Record, Translation, estimate_tokens, is_query, language_tag


def read(source: PageSource, files: dict[str, str]) -> list[tuple[str, Page]]:
    """Language and page of what a package with these files has."""
    matches = ((source.pattern.search(name), text.encode()) for name, text in sorted(files.items()))
    return list(source.parse((match, content) for match, content in matches if match))


CHAPTER = """<html><head><link rel="up" href="index.html"><link rel="next" href="sect.b.html"></head><body>
<ul class="docnav"><li>menu</li></ul><div class="chapter"><div class="titlepage"><div><div>
<h2 class="title">Kapitel 11.\xa0Netzwerkdienste: Postfix</h2></div></div></div>
<div class="toc"><dl><dt>11.1. LDAP</dt></dl></div>
<div class="para">Erster Absatz.</div></div></body></html>"""
SECTION = """<html><head><link rel="up" href="network.html"><link rel="next" href="sect.a.html"></head><body>
<div class="section"><div class="titlepage"><div><div><h2 class="title"><a id="x"></a>11.7. LDAP-Verzeichnis</h2>
</div></div></div>
<div class="para">第一\n   行. Text mit <code>Code</code>.</div><pre class="screen">$ ldapsearch</pre>
<div class="itemizedlist"><ul><li class="listitem"><div class="para">Ein Punkt.</div></li></ul></div>
<div class="section"><div class="titlepage"><h3>11.7.1. Installieren</h3></div><div class="para">Darunter.</div></div>
</div></body></html>"""
LAST = SECTION.replace("sect.a.html", "none.html").replace("LDAP-Verzeichnis", "Zuletzt")
GUIDE = """<html><head><link rel="up" href="ch06.html"></head><body><div class="navheader"><table><tr><th>6.1. Wie</th>
</tr></table></div><div class="sect1"><div class="titlepage"><div><div><h2 class="title"><a name="idm1"></a>D.1. Wie der
Installer funktioniert</h2></div></div></div><p>Text.</p><table><tr><td>Zelle</td><td><p>Absatz</p></td></tr></table>
<div class="sect2"><div class="titlepage"><h3>6.1.1.\xa0Mehr</h3></div><p>Unten.</p></div></div></body></html>"""


def test_a_handbook_is_read_in_the_order_of_its_links() -> None:
    folder = "usr/share/doc/debian-handbook/html/de-DE"
    index = '<html><head><link rel="next" href="network.html"></head><body></body></html>'
    files = {"sect.a": LAST, "sect.b": SECTION, "network": CHAPTER, "index": index}
    found = read(docbook.HANDBOOK, {f"{folder}/{name}.html": text for name, text in files.items()})
    assert {lang for lang, _ in found} == {"de"}
    pages = [page for _, page in found]
    assert [(page.path, page.part) for page in pages] == [
        *(("network/network/0", "network"), ("network/sect.b/0", "network"), ("network/sect.b/1", "network")),
        *(("network/sect.a/0", "network"), ("network/sect.a/1", "network")),
    ]
    assert [page.title for page in pages[:3]] == ["Netzwerkdienste: Postfix", "LDAP-Verzeichnis", "Installieren"]
    assert list(pages[0].blocks.values()) == ["Erster Absatz."]
    assert list(pages[1].blocks.values()) == ["第一行. Text mit Code.", "Ein Punkt."]
    assert list(pages[2].blocks.values()) == ["Darunter."]


def test_an_installation_guide_is_read_without_its_navigation() -> None:
    name = "usr/share/doc/installation-guide-amd64/zh_CN/ch06s01.html"
    (lang, first), (_, second) = read(docbook.GUIDE, {name: GUIDE})
    assert (lang, first.path, first.title) == ("zh-cn", "ch06s01/ch06s01/0", "Wie der Installer funktioniert")
    assert list(first.blocks.values()) == ["Text.", "Zelle", "Absatz"]
    assert (second.title, list(second.blocks.values())) == ("Mehr", ["Unten."])


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        *(
            ("Kapitel 11. Netz", "Netz"),
            ("第 11 章 网络", "网络"),
            ("11장. Network", "Network"),
        ),
        *(
            ("Appendix\xa0B.\xa0Short Course", "Short Course"),
            ("付録 B 簡単", "簡単"),
            ("Preface", "Preface"),
        ),
    ],
)
def test_the_number_of_a_chapter_is_not_part_of_its_title(heading: str, expected: str) -> None:
    assert docbook.strip_number(heading, chapter=True) == expected


MAN = r"""
.\" a comment
.TH LS 1 "2022"
.de Xx
.B hidden
..
.SH BEZEICHNUNG
ls \- Verzeichnis\%inhalte \fBauflisten\fP
.SH \[u00DC]BERSICHT
.BR ls " [\fIOPTION\/\fP]" ... \" the end
.SS "Zwei Worte"
.PP
Ein Absatz
\(lqmit\(rq zwei Zeilen \(em und \e.
.if t .B printed
.ie n \{ .B conditional
hidden too
.\}
.TP
\fB\-a\fR, \fB\-\-all\fR
nichts auslassen
.IP \(bu 2
ein Punkt
.TS
l l.
Wert	Sinn
.TE
"""
MDOC = """.Dd today
.Sh NAME
.Nm biff
.Nd says that mail is there
.Sh SYNOPSIS
.Nm
.Op Fl n Ar file
.Sh
DESCRIPTION
.Nm
is old, see
.Xr sh 1 .
"""


def man_page(path: str, text: str) -> Page | None:
    """A manual page of a Danish package, read as it is stored."""
    return manpages.parse_page(path, gzip.compress(text.encode()))


def test_a_manual_page_is_asked_for_by_the_line_that_names_it_which_its_text_lacks() -> None:
    page = man_page("ls.1", MAN)
    assert page is not None
    assert page.title == "Verzeichnisinhalte auflisten"
    assert list(page.blocks.values()) == [
        *("\xdcBERSICHT", "ls [OPTION]...", "Zwei Worte"),
        "Ein Absatz \u201cmit\u201d zwei Zeilen \u2014 und \\.",
        *("-a, --all", "nichts auslassen", "\u2022", "ein Punkt Wert Sinn"),
    ]
    assert man_page("x.1", ".so man1/y.1\n") is None


def test_mdoc_is_read_as_well() -> None:
    page = man_page("biff.1", MDOC)
    assert page is not None
    assert page.title == "says that mail is there"
    assert list(page.blocks.values()) == ["SYNOPSIS", "biff -n file", "DESCRIPTION", "biff is old, see sh(1) ."]


def test_the_converted_script_of_chinese_is_left_out_and_old_pages_are_latin_1() -> None:
    places = {lang: f"usr/share/man/{lang}man1/x.1.gz" for lang in ("", "zh_CN/", "zh_TW/")}
    pattern = manpages.MANPAGES.pattern
    assert [bool(pattern.search(place)) for place in places.values()] == [True, True, False]
    old = manpages.parse_page("x.1", gzip.compress(".SH NAME\nx \\- für\n".encode("latin-1")))
    assert old is not None
    assert old.title == "für"


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

ENGLISH = Page(
    "swriter/x",
    "Positioning objects",
    ("objects anchoring",),
    {
        "par_id2": "An object is anchored to another element and moves with it. Press Ctrl. " * 3,
        "par_id3": "This paragraph has not been translated.",
        "hd_id4": "Positioning objects",
    },
)


def help_page() -> Page:
    ((lang, page),) = read(help_pages.LIBREOFFICE, {"usr/share/libreoffice/help/de/text/swriter/x.html": HELP})
    assert (lang, page.path) == ("de", "swriter/x")
    return page


def record_of(
    page: Page, english: Page = ENGLISH, lang: str = "de", source: PageSource = help_pages.LIBREOFFICE
) -> Record | None:
    """The record of a page, if it has one."""
    records = edition({page.path: page}, {page.path: english}, lang, source).records
    return records[0] if records else None


def test_a_help_page_gives_title_keywords_and_its_own_blocks() -> None:
    page = help_page()
    assert page.title == "Objekte positionieren"
    assert page.keywords == ("Anker Optionen", "objects anchoring")
    assert list(page.blocks) == ["par_id2", "par_id3", "hd_id4"], "embedded text, code and links are left out"
    assert page.blocks["par_id2"].endswith("Druecken Sie Strg.")


def test_a_help_page_loses_what_is_english_and_what_repeats_its_title() -> None:
    record = record_of(help_page())
    assert record is not None
    assert record.concept_id == "lo/swriter/x"
    assert record.candidates == ("Objekte positionieren", "Anker Optionen"), "the English keyword is dropped"
    assert record.text.startswith("Ein Objekt wird")
    assert "\n" not in record.text
    assert "not been translated" not in record.text


def test_a_mostly_english_help_page_is_dropped() -> None:
    more = {"par_id9": "English. " * 100}
    mostly = replace(help_page(), blocks={**help_page().blocks, **more})
    assert record_of(mostly, replace(ENGLISH, blocks={**ENGLISH.blocks, **more})) is None


def test_the_same_page_is_joined_over_the_languages_by_its_path() -> None:
    names = [f"usr/share/libreoffice/help/{tag}/text/scalc/main.html" for tag in ("de", "pt-BR", "en-US")]
    files = dict.fromkeys((*names, "usr/share/libreoffice/help/index.html"), HELP)
    found = read(help_pages.LIBREOFFICE, files)
    assert sorted((lang, page.path) for lang, page in found) == [(lang, "scalc/main") for lang in ("de", "en", "pt-br")]
    packages = help_pages.LIBREOFFICE.packages(["de"])
    assert packages == ["libreoffice-help-de", "libreoffice-help-en-us"], "English is always among them"


MALLARD = """<?xml version="1.0"?>
<page xmlns="http://projectmallard.org/1.0/" xmlns:mal="http://projectmallard.org/1.0/" type="topic" id="x">
  <info><desc>Eine <em>Weltuhr</em> hinzufügen.</desc><title type="link">Uhr</title>
    <credit><name>Somebody</name></credit><mal:credit><mal:name>A translator</mal:name></mal:credit></info>
  <title>Die Uhr <!-- no text --> stellen</title>
  <p>Die Uhr geht
     vor. Gehen Sie zu <guiseq><gui>Einstellungen</gui><gui>Uhr</gui></guiseq>.</p>
  <steps><title>So geht es:</title>
  <item><p>Drücken Sie <keyseq><key>Strg</key><key>N</key></keyseq>.</p></item></steps>
  <code>date --set</code>
  <links type="topic"><title>Andere Seiten</title></links>
</page>"""


def test_a_mallard_page_gives_title_description_and_prose() -> None:
    files = {f"usr/share/help/{tag}/gnome-help/x.page": MALLARD for tag in ("C", "de", "pt_BR")}
    (english, _), (lang, page), (brazilian, _) = read(help_pages.GNOME, files)
    assert (english, lang, brazilian) == ("en", "de", "pt-br")
    assert (page.path, page.title, page.keywords) == (
        "gnome-help/x",
        "Die Uhr stellen",
        ("Eine Weltuhr hinzufügen.",),
    )
    assert list(page.blocks.values()) == [
        "Die Uhr geht vor. Gehen Sie zu Einstellungen Uhr .",
        "So geht es:",
        "Drücken Sie Strg N .",
    ]


def _page(*blocks: str, title: str = "A title of four words") -> Page:
    return Page("part/x", title, (), number_blocks(blocks))


ORIGINAL = _page("English text that is long enough to count as something. " * 2, "More English text. " * 4)


def test_a_page_in_a_foreign_folder_that_is_english_is_rejected() -> None:
    half = _page(
        "Anderer Text, der lang genug ist, um etwas zu gelten, und noch mehr davon. " * 2, ORIGINAL.blocks["1"]
    )
    less = _page(half.blocks["0"], *(ORIGINAL.blocks.values()))

    def kept(page: Page, lang: str, min_translated: float) -> Record | None:
        return record_of(page, ORIGINAL, lang, replace(help_pages.GNOME, min_translated=min_translated))

    assert kept(ORIGINAL, "hi", 0.70) is None
    assert kept(half, "de", 0.70) is None, "0.66 of it are translated"
    assert kept(less, "de", 0.40) is not None
    record = kept(half, "de", 0.60)
    assert record is not None
    assert record.text == half.blocks["0"], "the English block is dropped"
    assert record.title == "", "the English title is not a query"


def test_a_heading_needs_three_words_or_eight_characters() -> None:
    good = ["Setting the clock", "设置网络接口参数", "LDAP 目录服务"]
    assert all(map(is_heading, good))
    assert not any(map(is_heading, ["Installing", "Two words", "安装系统"]))
    short = _page("text " * 30, title="Clock")
    titles = [record_of(short, ORIGINAL, "en", source) for source in (docbook.HANDBOOK, help_pages.GNOME)]
    assert [record.title for record in titles if record] == ["", "Clock"], "a book has many headings that say little"


def test_parallel_paragraphs_are_those_that_somebody_has_translated() -> None:
    local = {
        "a": "Ein Absatz, der auf Englisch anders lautet, und zwar so.",
        "b": "Same in both languages, word for word, yes.",
    }
    english = {"a": "A paragraph that reads differently in English, like this.", "b": local["b"], "c": "x" * 50}
    pages = {"m/x": Page("m/x", "t", (), {**local, "c": "kurz"})}
    found = edition(pages, {"m/x": Page("m/x", "t", (), english)}, "de", help_pages.LIBREOFFICE)
    assert found.paragraphs == [Translation("lo/m/x", local["a"], english["a"])]


def _pages(count: int, text: str) -> dict[str, Page]:
    pages = [Page(f"m{n // 6}/{n:02}", f"The title of {n}", (), number_blocks([text] * 10)) for n in range(count)]
    return {page.path: page for page in pages}


def test_volumes_are_consecutive_pages_of_one_module() -> None:
    pages = _pages(12, "Ein Satz mit einigen Worten darin. " * 20)
    volumes = list(by_volume(list(pages.values())))
    assert [page.path for _, volume in volumes for page in volume] == list(pages)
    assert len({name for name, _ in volumes}) == len(volumes) > 2
    for name, volume in volumes:
        assert {page.part for page in volume} == {name.split("/")[0]}
        size = sum(estimate_tokens(text) for page in volume for text in page.blocks.values())
        assert size <= 5_000 or len(volume) == 1


BOOK = replace(docbook.HANDBOOK, name="help", prefix="lo", is_book=False, grouping=by_chapter)


def test_a_long_text_is_long_and_mostly_translated() -> None:
    english = _pages(6, "A sentence with some words in it. " * 20)
    german = _pages(6, "Ein Satz mit einigen Worten darin. " * 20)
    mixed = {**german, **{f"m0/{n:02}": english[f"m0/{n:02}"] for n in range(4)}}

    def long_texts(pages: dict[str, Page], source: PageSource = BOOK) -> list[LongText]:
        return list(edition(pages, english, "de", source).long_texts)

    assert long_texts(dict(list(german.items())[:1])) == [], "too short"
    assert long_texts(mixed) == [], "too English"
    (text,) = long_texts({**german, "m0/00": replace(german["m0/00"], title="Ein deutscher Titel")})
    assert (text.identifier, text.source, text.lang) == ("lo/m0", "help", "de")
    assert [section.query for section in text.sections[:2]] == ["Ein deutscher Titel", ""], "the rest are English"
    assert text.sections[1].heading == "The title of 1"
    apart = long_texts(german, replace(BOOK, title_apart=True))
    assert {section.heading for section in apart[0].sections} == {""}


def test_english_prose_is_recognised_where_there_is_no_english_page() -> None:
    prose = "This is the name of the file that is to be read from the disk. "
    other = "Dies ist der Name der Datei, die von der Platte gelesen wird, for example. "
    for text, count in ((prose, 0), (other, 1)):
        assert len(edition(_pages(6, text * 20), {}, "de", BOOK).long_texts) == count


def test_folders_are_called_by_language_tags() -> None:
    names = ["C", "pt_BR", "de-DE", "zh-CN", "sr@latin", "en-US"]
    assert [language_tag(name) for name in names] == ["en", "pt-br", "de", "zh-cn", "sr@latin", "en"]
    assert "sr@latin" not in LANGUAGES


PATH = "usr/lib/libreoffice/program/resource/pt_BR/LC_MESSAGES/sw.mo"


def catalogue(*strings: tuple[str, str, str]) -> bytes:
    """A binary catalogue of (context, English, translation)."""
    made = Catalog(locale="pt_BR")
    for context, english, text in strings:
        made.add(english, text, context=context)
    out = io.BytesIO()
    write_mo(out, made)
    return out.getvalue()


def strings(content: bytes) -> list[tuple[str, Translation]]:
    match = help_pages.STRINGS_PATTERN.search(PATH)
    return list(help_pages.libreoffice_strings([(match, content)])) if match else []


def test_a_string_is_read_with_its_original_and_language() -> None:
    content = catalogue(("tablemenu|insert", "_Insert Table...", "_Inserir tabela..."))
    ((lang, message),) = strings(content)
    assert (lang, message.text, message.english) == ("pt-br", "Inserir tabela", "Insert Table")


def test_the_same_english_string_is_one_concept_in_every_place() -> None:
    content = catalogue(("one", "_Name:", "Nome:"), ("two", "Name", "O nome"))
    assert len({message.concept_id for _, message in strings(content)}) == 1


@pytest.mark.parametrize(
    "string",
    [
        ("page|extended_tip|width", "Enter the width.", "Insira a largura."),  # a sentence of the help
        ("same", "Firebird", "Firebird"),
        ("untranslated", "Table", ""),
        ("placeholder", "Delete $(ARG1)", "Excluir $(ARG1)"),
        ("short", "A", "O"),
        ("digits", "100", "cem"),
    ],
)
def test_what_says_nothing_or_belongs_to_the_help_is_left_out(string: tuple[str, str, str]) -> None:
    assert not strings(catalogue(string))


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ("Form control~s", "Form controls"),
        ("表(_T)...", "表"),
        ("Nome do arquivo:", "Nome do arquivo"),
        ("a_b", "ab"),
        ("Wait…", "Wait"),
        ("two\n lines", "two lines"),
    ],
)
def test_a_string_is_trained_on_as_it_is_seen(message: str, seen: str) -> None:
    assert help_pages.as_shown(message) == seen


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


PACKAGES = "Package: 3dchess\nSource: chess (1.0)\nVersion: 2\n\nPackage: other\nVersion: 1\n"


def test_descriptions_are_read_from_the_files_of_apt(tmp_path: Path) -> None:
    english = JAPANESE.replace("-ja", "-en")
    for name, text in {"i18n_Translation-ja": JAPANESE, "i18n_Translation-en": english, "Packages": PACKAGES}.items():
        (tmp_path / f"mirror_main_{name}").write_text(text, encoding="utf-8")
    (record,) = ddtp.records(tmp_path, ["en"])
    assert (record.concept_id, record.title) == ("ddtp/12d0", "3 つの盤でチェスをプレイ!")
    assert record.text.splitlines() == [
        # Japanese lines are joined without a blank, list items stay on lines of their own.
        "縦に積まれた三つの盤面があります。96 駒のうちほとんどは伝統的チェスの駒と同じですが、二つほど追加があります。",
        *("動ける方向:", "* 26 方向", "* 上下"),
    ]


def test_lines_of_a_spaced_script_are_joined_with_a_blank() -> None:
    assert ddtp.parse_description("x\n one\n two\n .\n three").long == ("one two", "three")


def _description(package: str, short: str, *long: str) -> ddtp.Description:
    return ddtp.Description(package, short, long)


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


def test_an_untranslated_description_is_dropped_and_an_untranslated_title_is_not_a_query() -> None:
    paragraph, translated = "A long text about the game of chess. " * 4, "Ein langer Text ueber das Schachspiel. " * 4
    english = _description("chess", "GNU Chess", paragraph, "Second part of this text.")
    assert ddtp.make_record("c", "de", _description("chess", "Schach", paragraph, "Zweiter Teil."), english) is None
    record = ddtp.make_record("c", "de", _description("chess", "GNU Chess", translated, "GNU Chess"), english)
    assert record is not None
    assert (record.title, record.query) == ("", "")
    assert record.text == translated, "a paragraph that repeats the title is removed from the body"


def test_language_tags_become_ddtp_codes() -> None:
    assert [ddtp.code(lang) for lang in ("de", "pt-br", "zh-cn")] == ["de", "pt_BR", "zh_CN"]


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
    qrels = (tmp_path / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert qrels[1:] == ["q-sw-01\t01\t1", "q-sw-02\t02\t1"]
    queries = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text("utf-8").splitlines()]
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


HANDBOOK = """<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//KDE//DTD" "dtd" [<!ENTITY kappname "&kmines;">]>
<book><chapter id="faq"><qandaset>
<qandaentry><question><para>{0}</para></question>
<answer><para>{1} <menuchoice><guimenu>Game</guimenu><guimenuitem>&kmines;</guimenuitem></menuchoice>.</para>
<screenshot><mediaobject>picture</mediaobject></screenshot></answer></qandaentry>
<qandaentry><question><para>{2}</para></question><answer><para>{3}</para></answer></qandaentry>
</qandaset></chapter></book>"""


def test_entries_of_a_handbook_are_the_same_in_every_language_and_untranslated_ones_are_left_out() -> None:
    texts = {
        "en": HANDBOOK.format("Can I save?", "Yes, choose", "Is there sound?", "No."),
        "de": HANDBOOK.format("Kann ich  speichern?", "Ja, mit", "Is there sound?", "No."),
        "pt_BR": HANDBOOK.format("Posso salvar?", "Sim,", "Há som?", "Não."),
    }
    names = [f"usr/share/doc/kde/HTML/{lang}/kmines/index.docbook" for lang in texts]
    files = [(faq.PATTERN.search(name), text.encode()) for name, text in zip(names, texts.values(), strict=True)]
    assert faq.entries([(match, text) for match, text in files if match]) == {
        "en": {
            "kmines/index/0": ("Can I save?", "Yes, choose Game kmines."),
            "kmines/index/1": ("Is there sound?", "No."),
        },
        "de": {"kmines/index/0": ("Kann ich speichern?", "Ja, mit Game kmines.")},
        "pt-br": {
            "kmines/index/0": ("Posso salvar?", "Sim, Game kmines."),
            "kmines/index/1": ("Há som?", "Não."),
        },
    }


def test_strings_of_a_catalogue_are_rows_half_of_them_from_stories() -> None:
    def catalogue(strings: dict[str, str]) -> bytes:
        catalog = Catalog(locale="de")
        for english, text in strings.items():
            catalog.add(english, text)
        file = io.BytesIO()
        write_mo(file, catalog)
        return file.getvalue()

    def files(strings: dict[str, str]) -> list[tuple[re.Match[str], bytes]]:
        match = catalogues.PATTERN.search("usr/share/locale/de/LC_MESSAGES/x.mo")
        assert match
        return [(match, catalogue(strings))]

    program = {f"Please open the file number {n}": f"Bitte öffnen Sie die Datei {n}" for n in range(900)}
    same = "This one is not translated"
    left_out = {"Open": "Öffnen", same: same, "Open %s in a new window": "Öffne %s im Fenster"}
    story = {f"The knight rides to village {n}": f"Der Ritter reitet ins Dorf {n}" for n in range(500)}
    found = [*catalogues.strings(files(program | left_out), False), *catalogues.strings(files(story), True)]
    assert len(found) == 1_400
    held = HeldOut(queries={"bitte öffnen sie die datei 7"})
    rows = catalogues.choose(found, held)
    assert len(rows) == catalogues.MAX_ROWS
    assert sum("Ritter" in row["query"] for row in rows) == catalogues.MAX_ROWS // 2
    assert not any(row["query"] == "Bitte öffnen Sie die Datei 7" for row in rows)
    assert {(row["lang"], row["doc_lang"], row["source"]) for row in rows} == {("de", "en", "catalogues")}
    assert catalogues.choose(found[: catalogues.MIN_ROWS - 1], held) == []


def test_notice_has_the_licence_of_every_package_of_pages() -> None:
    sources = (help_pages.LIBREOFFICE, help_pages.GNOME, docbook.HANDBOOK, docbook.GUIDE, docbook.REFERENCE)
    packages = {name for source in (*sources, manpages.MANPAGES) for name in source.packages(LANGUAGES)}
    words = re.findall(r"[\w*-]+", (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8"))
    assert not {name for name in packages if not any(fnmatch(name, word) for word in words if word.strip("*"))}
