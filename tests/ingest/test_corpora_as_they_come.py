"""Corpora as users have them: folders of everything, exports of other programs, files that are not what they seem.

Each test runs ``m3-vdb ingest`` and looks at what is in the store afterwards, what is said, and the exit code.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from m3_vdb import Document, open_store
from m3_vdb.cli.main import app

DIRTY = '{"id": "bad"}\n'


def ingest(bundle: Path, *arguments: object) -> Result:
    command = ["ingest", *map(str, arguments), "--model", str(bundle), "--runtime", "onnxruntime"]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def stored(store: Path) -> dict[str, Document]:
    with open_store(store, identity=None, create=False) as opened:
        return {document.id: document for documents, _ in opened.scroll() for document in documents}


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.qdrant"


@pytest.mark.parametrize("name", ["notes.qdrant", "notes.milvus.db"])
def test_a_store_inside_the_corpus_is_not_a_part_of_it(tmp_path: Path, tiny_bundle: Path, name: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("vector")
    (docs / "b.jsonl").write_text(lines({"id": "1", "text": "search"}) + DIRTY)
    for _ in range(2):  # the second run meets what the first one wrote, dead letters among it
        assert ingest(tiny_bundle, docs, "--store", docs / name).exit_code == 3
        assert sorted(stored(docs / name)) == ["1", "a.txt"]
    letters = docs / f"{name}.ingest.rejected.jsonl"
    assert len(letters.read_text().splitlines()) == 1


@pytest.mark.parametrize("option", ["--rejected", "--checkpoint"])
@pytest.mark.parametrize("link", ["same", "symlink", "hard link"])
def test_an_output_that_is_a_file_of_the_corpus_is_refused(
    tmp_path: Path, tiny_bundle: Path, store: Path, option: str, link: str
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    corpus = docs / "a.txt"
    corpus.write_text("vector")
    output = corpus if link == "same" else tmp_path / "other.txt"
    if link == "symlink":
        output.symlink_to(corpus)
    elif link == "hard link":
        output.hardlink_to(corpus)
    done = ingest(tiny_bundle, docs, "--store", store, option, output)
    assert done.exit_code == 1
    assert "is the corpus, or a file of it" in str(done.exception) + done.stderr
    assert corpus.read_text() == "vector"
    assert not store.exists()


def test_a_folder_is_read_by_suffix_and_says_what_it_did(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "A.JSONL").write_text(lines({"id": "1", "text": "vector"}, {"id": "2", "text": "search"}))
    (docs / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(lines({"id": "3", "text": "index"}).encode()))
    (docs / "c.csv").write_text("id,text\n4,query\n")
    (docs / "d.txt").write_text("plain text")
    parquet.write_table(pa.table({"id": ["5"], "text": ["token"]}), docs / "e.parquet")
    (docs / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (docs / ".git").mkdir()
    (docs / ".git" / "notes.txt").write_text("hidden")
    done = ingest(tiny_bundle, docs, "--store", store)
    assert done.exit_code == 0, done.output
    assert sorted(stored(store)) == ["1", "2", "3", "4", "5", "d.txt"]
    for said in ("2 JSONL", "1 CSV", "1 Parquet", "1 texts", "1 .png"):
        assert said in done.stderr


def test_patterns_choose_files_of_a_folder(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md", "c.txt", "d.conf"):
        (docs / name).write_text(f"vector {name}")
    assert ingest(tiny_bundle, docs, "--store", store, "--include", "*.md", "--include", "*.conf").exit_code == 0
    assert sorted(stored(store)) == ["a.md", "b.md", "d.conf"]
    assert ingest(tiny_bundle, docs, "--store", store, "--exclude", "*.md").exit_code == 0
    assert sorted(stored(store)) == ["a.md", "b.md", "c.txt", "d.conf"]


@pytest.mark.parametrize(
    ("text", "title", "body"),
    [
        ('---\ntitle: "The title"\ntags: [x, y]\n---\n\nThe body.\n', "The title", "The body.\n"),
        ("---\r\ntitle: Plain\r\n---\r\nThe body.\r\n", "Plain", "The body."),
        ("# A heading\n\nThe body.\n", "A heading", "The body.\n"),
        ("The body.\n\n# Later heading\n", "Later heading", "The body.\n\n# Later heading\n"),
        ("---\n\nnot front matter, a rule\n", "", "---\n\nnot front matter, a rule\n"),
    ],
)
def test_markdown_has_its_title_and_no_front_matter(
    tmp_path: Path, tiny_bundle: Path, store: Path, text: str, title: str, body: str
) -> None:
    (tmp_path / "a.md").write_bytes(text.encode())
    assert ingest(tiny_bundle, tmp_path / "a.md", "--store", store).exit_code == 0
    (document,) = stored(store).values()
    assert "tags" not in document.text
    assert (document.title, document.text.strip()) == (title, body.strip())


TYPED = "id,text,year,ok,price\n1,the vector,2004,true,9.5\n2,the search,,,\n3,the index,soon,true,1\n"


def test_cells_get_the_types_that_the_collection_declares(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    (tmp_path / "c.csv").write_text(TYPED)
    types = ("--index", "year=integer", "--index", "ok=bool", "--index", "price=float")
    made = CliRunner().invoke(app, ["create", "--store", str(store), "--model", str(tiny_bundle), *types])
    assert made.exit_code == 0, made.output
    done = ingest(tiny_bundle, tmp_path / "c.csv", "--store", store)
    assert done.exit_code == 3
    assert "column 'year' is indexed as integer: expected a whole number of 64 bits, got 'soon'" in done.stderr
    found = stored(store)
    assert found["1"].payload == {"year": 2004, "ok": True, "price": 9.5}
    assert found["2"].payload == {}, "an empty cell is a missing field"
    assert sorted(found) == ["1", "2"]


def test_cells_stay_text_where_no_type_is_declared(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    (tmp_path / "c.csv").write_text("id,text,year\n1,the vector,2004\n")
    assert ingest(tiny_bundle, tmp_path / "c.csv", "--store", store).exit_code == 0
    assert stored(store)["1"].payload == {"year": "2004"}


def test_dead_letters_of_an_earlier_run_are_kept(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    (tmp_path / "a.jsonl").write_text(DIRTY + lines({"id": "1", "text": "vector"}))
    (tmp_path / "b.jsonl").write_text(lines({"id": "2", "text": "search"}))
    (tmp_path / "c.jsonl").write_text('{"id": "worse"}\n')
    letters = tmp_path / "s.qdrant.ingest.rejected.jsonl"
    for name, code, ids in (
        ("a", 3, ["bad"]),
        ("b", 0, ["bad"]),
        ("c", 3, ["bad", "worse"]),
        ("a", 3, ["bad", "worse"]),
    ):
        done = ingest(tiny_bundle, tmp_path / f"{name}.jsonl", "--store", store)
        assert done.exit_code == code
        assert [json.loads(line)["id"] for line in letters.read_text().splitlines()] == ids
        assert str(letters) in done.stderr


def test_a_file_of_somebody_else_is_not_written_to(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    (tmp_path / "a.jsonl").write_text(DIRTY)
    (tmp_path / "notes.txt").write_text("mine\n")
    done = ingest(tiny_bundle, tmp_path / "a.jsonl", "--store", store, "--rejected", tmp_path / "notes.txt")
    assert done.exit_code == 1
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_and_said_once(tmp_path: Path, tiny_bundle: Path, store: Path, encoding: str) -> None:
    bom = "" if encoding == "utf-16" else "\ufeff"
    (tmp_path / "a.jsonl").write_bytes(
        (bom + lines({"id": "1", "text": "Straße"}, {"id": "2", "text": "😀"})).encode(encoding)
    )
    (tmp_path / "b.csv").write_bytes((bom + "id,text\r\n3,Suche\r\n").encode(encoding))
    done = ingest(tiny_bundle, tmp_path / "a.jsonl", tmp_path / "b.csv", "--store", store)
    assert done.exit_code == 0, done.output
    assert {i: one.text for i, one in stored(store).items()} == {"1": "Straße", "2": "😀", "3": "Suche"}
    assert done.stderr.count("a.jsonl is UTF-16") == done.stderr.count("b.csv is UTF-16") == 1


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("id;text;lang\n1;a, b;de\n2;c;fr\n", ()),
        ("id|text|lang\n1|a, b|de\n2|c|fr\n", ()),
        ("sep=;\nid;text;lang\n1;a, b;de\n2;c;fr\n", ()),
        ("id^text^lang\n1^a, b^de\n2^c^fr\n", ("--delimiter", "^")),
        ('\ufeff"id","text","lang"\r\n"1","a, b","de"\r\n"2","c","fr"\r\n', ()),
        ("id\ttext\tlang\n1\ta, b\tde\n2\tc\tfr\n", ("--delimiter", "tab")),
    ],
    ids=["semicolon", "pipe", "excel", "given", "quoted with a mark", "tab"],
)
def test_csv_with_other_delimiters(
    tmp_path: Path, tiny_bundle: Path, store: Path, text: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "c.csv").write_bytes(text.encode())
    done = ingest(tiny_bundle, tmp_path / "c.csv", "--store", store, *options)
    assert done.exit_code == 0, done.output
    assert [(i, one.text, one.payload) for i, one in sorted(stored(store).items())] == [
        ("1", "a, b", {"lang": "de"}),
        ("2", "c", {"lang": "fr"}),
    ]


def test_rows_of_a_table_without_ids_keep_theirs_when_rows_come_before_them(
    tmp_path: Path, tiny_bundle: Path, store: Path
) -> None:
    table = tmp_path / "c.csv"
    table.write_text("text,lang\nvector,en\nvector,en\nSuche,de\n")
    assert ingest(tiny_bundle, table, "--store", store).exit_code == 0
    before = stored(store)
    assert len(before) == 3, "equal rows are documents of their own"
    table.write_text("text,lang\nindex,en\nvector,en\nvector,en\nSuche,de\n")
    done = ingest(tiny_bundle, table, "--store", store, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["unchanged"] == 3
    assert before.items() <= stored(store).items()


def test_lines_without_an_id_are_rejected_unless_ids_are_asked_for(
    tmp_path: Path, tiny_bundle: Path, store: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"text": "vector"}))
    done = ingest(tiny_bundle, tmp_path / "a.jsonl", "--store", store)
    assert done.exit_code == 3
    assert "--auto-id" in done.stderr
    assert ingest(tiny_bundle, tmp_path / "a.jsonl", "--store", store, "--auto-id").exit_code == 0
    assert [one.text for one in stored(store).values()] == ["vector"]


@pytest.mark.parametrize("empty", ["null", '""', None], ids=["null", "empty", "missing"])
def test_no_text_with_a_title_is_a_document(tmp_path: Path, tiny_bundle: Path, store: Path, empty: str | None) -> None:
    text = "" if empty is None else f', "text": {empty}'
    (tmp_path / "a.jsonl").write_text(f'{{"id": "1", "title": "vector"{text}}}\n')
    done = ingest(tiny_bundle, tmp_path / "a.jsonl", "--store", store)
    assert done.exit_code == 0, done.output
    assert (stored(store)["1"].title, stored(store)["1"].text) == ("vector", "")


def test_reasons_name_file_and_line_and_nothing_of_the_inside(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "3", "text": "a", "score": NaN}\n')
    done = ingest(tiny_bundle, tmp_path / "a.jsonl", "--store", store)
    assert done.exit_code == 3
    assert "a.jsonl, line 1: payload holds nan" in done.stderr
    assert "document 0" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(lines({"id": "1", "text": "vector"})))
    writer.start()
    done = ingest(tiny_bundle, pipe, "--store", store)
    writer.join()
    assert done.exit_code == 0, done.output
    assert sorted(stored(store)) == ["1"]


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no /dev/stdin here")
def test_dev_stdin_is_standard_input(tmp_path: Path, tiny_bundle: Path, store: Path) -> None:
    command = [sys.executable, "-m", "m3_vdb", "ingest", "/dev/stdin", "--store", str(store)]
    done = subprocess.run(
        [*command, "--model", str(tiny_bundle), "--runtime", "onnxruntime"],
        input=lines({"id": "1", "text": "vector"}).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(stored(store)) == ["1"]


def test_columns_that_no_payload_holds_are_left_out_with_one_notice(
    tmp_path: Path, tiny_bundle: Path, store: Path
) -> None:
    columns = {"id": ["1", "2"], "text": ["vector", "search"], "image": [b"\x89PNG", b"x"], "lang": ["de", "fr"]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    done = ingest(tiny_bundle, tmp_path / "a.parquet", "--store", store)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("'image' holds binary") == 1
    assert stored(store)["1"].payload == {"lang": "de"}


def test_fields_can_be_kept_and_dropped_in_every_format(tmp_path: Path, tiny_bundle: Path) -> None:
    row = {"id": "1", "text": "vector", "a": "1", "b": "2"}
    (tmp_path / "x.jsonl").write_text(lines(row))
    (tmp_path / "x.csv").write_text("id,text,a,b\n1,vector,1,2\n")
    parquet.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "x.parquet")
    for end in ("jsonl", "csv", "parquet"):
        for option, field, left in (("--keep-field", "a", {"a": "1"}), ("--drop-field", "a", {"b": "2"})):
            store = tmp_path / f"{end}{option}.qdrant"
            assert ingest(tiny_bundle, tmp_path / f"x.{end}", "--store", store, option, field).exit_code == 0
            assert stored(store)["1"].payload == left


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", POINTER, "is a Git LFS pointer, not the file itself: run git lfs pull"),
        ("a.parquet", POINTER, "is a Git LFS pointer"),
        ("a.jsonl.gz", POINTER, "is a Git LFS pointer"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html><body>Not found", "is an HTML page"),
        ("a.jsonl", bytes(range(256)), "is a binary file"),
        ("a.parquet", b"PAR1abc", "is not Parquet, or damaged"),
        ("a.jsonl.gz", gzip.compress(b"x" * 99)[:8], "is damaged from its first bytes on"),
        ("a.jsonl.gz", b"plain text", "is called .gz"),
        ("a.csv", b"this,that\n1,2\n", "has no column 'text'"),
    ],
    ids=["lfs", "lfs parquet", "lfs gz", "html", "binary", "cut parquet", "cut gz", "no gz", "columns"],
)
def test_a_file_that_is_something_else_is_one_line_and_leaves_no_store(
    tmp_path: Path, tiny_bundle: Path, store: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    program = "import sys; from m3_vdb.cli.main import main; main()"
    command = [sys.executable, "-c", program, "ingest", str(tmp_path / name), "--store", str(store)]
    done = subprocess.run(
        [*command, "--model", str(tiny_bundle)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert name in line
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_file_that_is_something_else_costs_only_itself_in_a_folder(
    tmp_path: Path, tiny_bundle: Path, store: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.jsonl").write_bytes(POINTER)
    (docs / "b.jsonl").write_text(lines({"id": "1", "text": "vector"}))
    done = ingest(tiny_bundle, docs, "--store", store)
    assert done.exit_code == 3
    assert "Git LFS pointer" in done.stderr
    assert sorted(stored(store)) == ["1"]
