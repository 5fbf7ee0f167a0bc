"""Folders with HTML and PDF beside texts: title and main text are read; what cannot be read is counted and named."""

from __future__ import annotations

import io
from pathlib import Path

import pypdf
import pytest

from m3_vdb.errors import MissingExtraError
from m3_vdb.ingest import Corpus, ingest, sync
from m3_vdb.ingest.rich_text import read_html, read_pdf
from m3_vdb.ingest.rows import Rejected
from m3_vdb.stores import MemoryStore
from tests.ingest._fakes import IDENTITY, HashEmbed

PAGE = """<!DOCTYPE html><html lang="en"><head><title>Start – Guide</title><style>p {color: red}</style></head><body>
<header><nav><a href="/">Home</a></nav> Menu</header>
<main>
  <header><h1>Getting
  started</h1></header>
  <p>Press Ctrl+<b>F</b>ile, then
  press&nbsp;<kbd>Enter</kbd>.</p><!-- not this -->
  <ul><li>one</li><li>two <i>and</i> three</li></ul>
  <pre><code>def f():
    return 1
</code></pre>
  <table><tr><th>name</th><th>size</th></tr><tr><td>a</td><td>7</td></tr></table>
  <script>track("you")</script><div hidden>hidden</div>
  <footer>Edit this page</footer>
</main>
<aside>Related pages</aside><footer>Imprint</footer></body></html>"""
TEXT = "Press Ctrl+File, then press Enter.\none\ntwo and three\ndef f():\n    return 1\nname size\na 7"


@pytest.mark.parametrize(
    ("page", "title", "text"),
    [
        (PAGE.encode(), "Getting started", TEXT),
        (
            b"<title>T</title><body><header>Menu</header><nav>Home</nav><p>One.<p>Two.<aside>Ad</aside>",
            "T",
            "One.\nTwo.",
        ),
        (b"<body><header>Menu <h1>Head</h1></header><div>Text</div>", "Head", "Menu\nText"),
        (b"<article>only this</article><div>not this</div>", "", "only this"),
        (b"<article>one</article><article>two</article>", "", "one\ntwo"),
        (b"<main> </main><p>outside", "", "outside"),
        (b"plain words, a < b", "", "plain words, a < b"),
        ("<meta charset=gb2312><p>中文".encode("gb2312"), "", "中文"),
        ("<p>Größe".encode("cp1252"), "", "Größe"),
        ("\ufeff<p>Größe".encode(), "", "Größe"),
        (b"<meta charset=nonsense><p>\xe4", "", "ä"),
        (b"", "", ""),
    ],
    ids=[
        "page",
        "body",
        "header",
        "article",
        "articles",
        "empty main",
        "plain",
        "gb2312",
        "cp1252",
        "bom",
        "?",
        "none",
    ],
)
def test_title_and_main_text_of_a_page(page, title, text):
    assert read_html(page) == (title, text)


def pdf(*pages: str, title: str = "", password: str | None = None) -> bytes:
    """A document with these texts; a page without text is as one that was scanned."""
    writer = pypdf.PdfWriter()
    font = pypdf.generic.DictionaryObject()
    for name, value in (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", "/Helvetica")):
        font[pypdf.generic.NameObject(name)] = pypdf.generic.NameObject(value)
    for text in pages:
        page = writer.add_blank_page(200, 200)
        stream = pypdf.generic.StreamObject()
        stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode() if text else b"")
        name = pypdf.generic.NameObject
        fonts = pypdf.generic.DictionaryObject({name("/F1"): font})
        page[name("/Resources")] = pypdf.generic.DictionaryObject({name("/Font"): fonts})
        page[name("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm="RC4-128")
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def test_title_and_text_of_a_pdf():
    assert read_pdf(pdf("First page.", "", "Second page.", title="A Report")) == (
        "A Report",
        "First page.\n\nSecond page.",
    )
    assert read_pdf(pdf("Words", title="Microsoft Word - draft7.doc")) == ("", "Words")
    assert read_pdf(pdf("Words", password="")) == ("", "Words")  # only changes need a password


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them."""
    files = {
        "a.txt": b"plain text",
        "b.html": PAGE.encode(),
        "sub/c.PDF": pdf("A page of text"),
        "secret.pdf": pdf("Words", password="secret"),
        "scanned.pdf": pdf("", ""),
        "cut.pdf": pdf("Words")[:150],
        "page.htm": b"<script>only()</script>",
        "picture.png": b"\x89PNG",
        "notes.docx": b"PK\x03\x04",
    }
    for name, content in files.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "corpus"


def test_a_folder_as_people_have_them(folder, tmp_path, capfd):
    corpus = Corpus([folder])
    assert corpus.notices[str(folder)] == (
        f"{folder}: reading 4 PDF, 2 HTML, 1 texts; left out: 1 .docx, 1 .png (--include PATTERN reads them)"
    )
    items = list(corpus)
    refused = {one.id: one for one in items if isinstance(one, Rejected)}
    documents = {one.document.id: one.document for one in items if not isinstance(one, Rejected)}
    assert documents.keys() == {"a.txt", "b.html", "sub/c.PDF"}
    assert (documents["b.html"].title, documents["sub/c.PDF"].text) == ("Getting started", "A page of text")
    assert {id: one.kind for id, one in refused.items()} == {
        "secret.pdf": "encrypted",
        "scanned.pdf": "no text",
        "cut.pdf": "unreadable",
        "page.htm": "nothing in it",
    }
    assert refused["scanned.pdf"].reason.startswith("the PDF has no text on its 2 pages")
    assert capfd.readouterr().err == ""

    with MemoryStore(IDENTITY) as store:
        report = ingest(corpus, HashEmbed(), store, rejected=tmp_path / "rejected.jsonl")
        assert report.rejections == {"encrypted": 1, "no text": 1, "unreadable": 1, "nothing in it": 1}
        assert "secret.pdf" in (tmp_path / "rejected.jsonl").read_text()
        plan = sync(Corpus([folder]), HashEmbed(), store, source="f", rejected=tmp_path / "again.jsonl").plan
        assert (plan.added, plan.changed, plan.rejected, plan.to_encode) == (0, 0, 4, 0)


def test_without_the_extra_they_are_left_out_and_named(folder, monkeypatch):
    monkeypatch.setattr("m3_vdb.ingest.rich_text.find_spec", lambda _name: None)
    (notice,) = Corpus([folder]).notices.values()
    assert "reading 1 texts; left out: 4 .pdf without m3-vdb[readers], 1 .html without m3-vdb[readers], 1 " in notice
    with pytest.raises(MissingExtraError, match=r"b\.html \(HTML\) needs .*pip install 'm3-vdb\[readers\]'"):
        Corpus([folder / "b.html"])
