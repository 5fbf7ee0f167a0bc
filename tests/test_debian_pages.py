"""Pages of the Debian benchmark: how LibreOffice help and GNOME help are read, and what counts as translated."""

from pathlib import Path

import pytest

from benchmarks.debian import libreoffice, mallard, parsed, texts
from benchmarks.debian.languages import LANGUAGES, language_tag
from benchmarks.debian.pages import Kind, Page, is_heading, looks_english, make_record, number_blocks, translated_share

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


def test_a_help_page_gives_title_keywords_and_its_own_blocks() -> None:
    page = libreoffice.parse_page("swriter/x", HELP.encode())
    assert page is not None
    assert page.title == "Objekte positionieren"
    assert page.keywords == ("Anker Optionen", "objects anchoring")
    assert list(page.blocks) == ["par_id2", "par_id3", "hd_id4"], "embedded text, code and links are left out"
    assert page.blocks["par_id2"].endswith("Druecken Sie Strg.")


def test_a_help_page_loses_what_is_english_and_what_repeats_its_title() -> None:
    page = libreoffice.parse_page("swriter/x", HELP.encode())
    assert page is not None
    record = make_record(page, ENGLISH, "de", libreoffice.KIND)
    assert record is not None
    assert record.concept_id == "lo/swriter/x"
    assert record.candidates == ("Objekte positionieren", "Anker Optionen"), "the English keyword is dropped"
    assert record.text.startswith("Ein Objekt wird")
    assert "\n" not in record.text
    assert "not been translated" not in record.text


def test_a_mostly_english_help_page_is_dropped() -> None:
    page = libreoffice.parse_page("swriter/x", HELP.encode())
    assert page is not None
    blocks = {**page.blocks, "par_id9": "English. " * 100}
    mostly = Page("x", page.title, page.keywords, blocks)
    english = Page("x", ENGLISH.title, ENGLISH.keywords, {**ENGLISH.blocks, "par_id9": "English. " * 100})
    assert make_record(mostly, english, "de", libreoffice.KIND) is None


def test_the_same_page_is_joined_over_the_languages_by_its_path() -> None:
    names = [f"usr/share/libreoffice/help/{tag}/text/scalc/main.html" for tag in ("de", "pt-BR", "en-US")]
    files = [(name, HELP.encode()) for name in (*names, "usr/share/libreoffice/help/index.html")]
    assert [(lang, page.path) for lang, page in libreoffice.parse(files)] == [
        *(("de", "scalc/main"), ("en", "scalc/main"), ("pt-br", "scalc/main"))
    ]
    assert libreoffice.package_name("en") == "libreoffice-help-en-us"


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
    files = [(f"usr/share/help/{tag}/gnome-help/x.page", MALLARD.encode()) for tag in ("de", "C", "pt_BR")]
    (english, _), (lang, page), (brazilian, _) = mallard.parse(files)
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
    kind = Kind("gnome", "gnome", 0.70)
    half = _page(
        "Anderer Text, der lang genug ist, um etwas zu gelten, und noch mehr davon. " * 2, ORIGINAL.blocks["1"]
    )
    less = _page(half.blocks["0"], *(ORIGINAL.blocks.values()))
    assert translated_share(list(half.blocks.values()), ORIGINAL.blocks.values()) == pytest.approx(0.66, abs=0.02)
    assert make_record(ORIGINAL, ORIGINAL, "hi", kind) is None
    assert make_record(half, ORIGINAL, "de", kind) is None
    assert make_record(less, ORIGINAL, "de", Kind("gnome", "gnome", 0.40)) is not None
    kept = make_record(half, ORIGINAL, "de", Kind("gnome", "gnome", 0.60))
    assert kept is not None
    assert kept.text == half.blocks["0"], "the English block is dropped"
    assert kept.title == "", "the English title is no query"


def test_a_heading_needs_three_words_or_eight_characters() -> None:
    good = ["Setting the clock", "设置网络接口参数", "LDAP 目录服务"]
    assert all(map(is_heading, good))
    assert not any(map(is_heading, ["Installing", "Two words", "安装系统"]))
    book, help_pages = Kind("handbook", "handbook", 0.6, is_book=True), Kind("gnome", "gnome", 0.6)
    titles = [make_record(_page("text " * 30, title="Clock"), ORIGINAL, "en", kind) for kind in (book, help_pages)]
    assert [record.title for record in titles if record] == ["", "Clock"]


def test_parallel_paragraphs_are_those_that_somebody_has_translated() -> None:
    local = {
        "a": "Ein Absatz, der auf Englisch anders lautet, und zwar so.",
        "b": "Same in both languages, word for word, yes.",
    }
    english = {"a": "A paragraph that reads differently in English, like this.", "b": local["b"], "c": "x" * 50}
    pages = {"m/x": Page("m/x", "t", (), {**local, "c": "kurz"})}
    found = list(texts.paragraphs(pages, {"m/x": Page("m/x", "t", (), english)}, libreoffice.KIND))
    assert found == [texts.Translation("lo/m/x", local["a"], english["a"])]


def test_folders_are_called_by_language_tags() -> None:
    names = ["C", "pt_BR", "de-DE", "zh-CN", "sr@latin", "en-US"]
    assert [language_tag(name) for name in names] == ["en", "pt-br", "de", "zh-cn", "sr@latin", "en"]
    assert "sr@latin" not in LANGUAGES


def test_a_package_is_parsed_once_per_content_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def read(deb: Path, suffix: str) -> list[tuple[str, bytes]]:
        reads.append(deb.name)
        return [("usr/share/help/de/gnome-help/x.page", MALLARD.encode())]

    monkeypatch.setattr(parsed, "read_package", read)
    deb = tmp_path / "a_1_all.deb"
    deb.write_bytes(b"1")
    parser = parsed.Parser(".page", mallard.parse, ("mallard",))
    first = parsed.parse_packages(tmp_path, [deb], parser)
    assert parsed.parse_packages(tmp_path, [deb], parser) == first
    assert parsed.languages(first) == ["de"]
    assert parsed.load(first, "de")["gnome-help/x"].title == "Die Uhr stellen"
    assert reads == ["a_1_all.deb"]
    deb.write_bytes(b"2")
    assert parsed.parse_packages(tmp_path, [deb], parser) != first
    assert parsed.parse_packages(tmp_path, [deb], parsed.Parser(".page", mallard.parse, ("pages",))) != first
    assert len(reads) == 3


def test_english_prose_is_recognised() -> None:
    assert looks_english("This is the name of the file that is to be read from the disk.")
    assert not looks_english("Dies ist der Name der Datei, die von der Platte gelesen wird, for example.")
