"""Books and manual pages of the Debian benchmark: small samples in, sections and paragraphs out."""

import pytest

from benchmarks.debian import docbook, manpages, troff

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
    found = list(docbook.parse((f"{folder}/{name}.html", text.encode()) for name, text in files.items()))
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
    (lang, first), (_, second) = docbook.parse([(name, GUIDE.encode())])
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
def test_the_number_of_a_chapter_is_no_part_of_its_title(heading: str, expected: str) -> None:
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


def test_troff_becomes_sections_of_paragraphs() -> None:
    name, overview, words = troff.parse(MAN)
    assert (name.heading, name.paragraphs) == ("BEZEICHNUNG", ["ls - Verzeichnisinhalte auflisten"])
    assert (overview.heading, overview.paragraphs) == ("\xdcBERSICHT", ["ls [OPTION]..."])
    assert words.heading == "Zwei Worte"
    assert words.paragraphs == [
        "Ein Absatz \u201cmit\u201d zwei Zeilen \u2014 und \\.",
        *("-a, --all", "nichts auslassen", "\u2022", "ein Punkt Wert Sinn"),
    ]


def test_mdoc_is_read_as_well() -> None:
    page = manpages.parse_page("biff.1", MDOC)
    assert page is not None
    assert page.title == "says that mail is there"
    assert list(page.blocks.values()) == ["SYNOPSIS", "biff -n file", "DESCRIPTION", "biff is old, see sh(1) ."]


def test_the_line_that_names_a_manual_page_is_no_part_of_its_text() -> None:
    page = manpages.parse_page("ls.1", MAN)
    assert page is not None
    assert page.title == "Verzeichnisinhalte auflisten"
    assert not any("auflisten" in text for text in page.blocks.values())
    assert manpages.parse_page("x.1", ".so man1/y.1\n") is None
