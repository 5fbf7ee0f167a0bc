"""CSV, TSV, Parquet, folders of texts, BEIR, packed files and standard input: what is read, and what is not lost."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
import zstandard

from m3_vdb import Document
from m3_vdb.errors import ConfigError
from m3_vdb.ingest import Corpus, Fields, Rejected, Row, read_jsonl
from m3_vdb.streams import MAX_ROW_BYTES

GOOD = [Document("a", "text", "T", {"n": 1}), Document("b", "zwei")]
LINES = b'{"id": "a", "text": "text", "title": "T", "n": 1}\n{"id": "b", "text": "zwei"}\n'


def read(*paths: Path | str, **options) -> list[Document | Rejected]:
    return [item.document if isinstance(item, Row) else item for item in Corpus(paths, **options)]


def kinds(items: list[Document | Rejected]) -> list[str]:
    return [item.id if isinstance(item, Document) else item.kind for item in items]


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "c.jsonl.gz", "c.jsonl.zst"])
def test_json_lines_packed_or_not(tmp_path: Path, name: str) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(LINES))
    assert read(tmp_path / name) == GOOD


def test_packed_files_of_several_parts(tmp_path: Path) -> None:
    first, second = LINES.splitlines(keepends=True)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    (tmp_path / "c.jsonl.zst").write_bytes(
        zstandard.compress(first) + zstandard.compress(b"") + zstandard.compress(second)
    )
    assert read(tmp_path / "c.jsonl.gz") == read(tmp_path / "c.jsonl.zst") == GOOD


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_file_that_is_cut_off_gives_all_rows_before_the_cut_and_the_next_file_is_read(
    tmp_path: Path, end: str
) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}[end]
    many = b"".join(b'{"id": "%d", "text": "%s"}\n' % (i, b"%d" % (i * 7919) * 9) for i in range(5000))
    (tmp_path / f"cut.jsonl{end}").write_bytes(pack(many)[:-20])
    (tmp_path / "next.jsonl").write_bytes(LINES)
    found = read(tmp_path / f"cut.jsonl{end}", tmp_path / "next.jsonl")
    assert kinds(found)[-2:] == ["a", "b"]
    assert "unreadable" in kinds(found)
    whole = [int(item.id) for item in found[:-2] if isinstance(item, Document)]
    assert whole == list(range(len(whole)))
    if end == ".gz":  # a Zstandard block of 128 KiB is lost as a whole
        assert len(whole) > 4900


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (LINES, gzip.compress(LINES), zstandard.compress(LINES)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert read("-") == GOOD


def test_fields_can_be_named_and_several_texts_are_joined(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"no": 7, "head": "H", "a": "one", "b": null, "c": "three", "id": "kept"}\n')
    fields = Fields(id=("no",), text=("a", "b", "c"), title="head")
    assert read(tmp_path / "c.jsonl", fields=fields) == [Document("7", "one\nthree", "H", {"id": "kept"})]


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        '\ufeffid,title,text,lang\r\n1,"T, with comma","two\r\nlines ""quoted""",de\r\n\r\n2,,kurz,fr\r\n'.encode()
    )
    assert read(tmp_path / "c.csv") == [
        Document("1", 'two\r\nlines "quoted"', "T, with comma", {"lang": "de"}),
        Document("2", "kurz", "", {"lang": "fr"}),
    ]


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path) -> None:
    lines = ["id,text", '1,"open', "2,two", '3,"three"', "4,four", '5,"open too', "6,six"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    items = list(Corpus([tmp_path / "c.csv"]))
    assert [item.line for item in items] == [2, 3, 4, 5, 6, 7]
    assert [isinstance(item, Row) for item in items] == [False, True, True, True, False, True]


def test_tsv_without_a_header_and_with_plain_quotes(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text('0\tthe "first" text\n1\t"second\n2\tthird\textra\n')
    found = read(tmp_path / "collection.tsv", fields=Fields(columns=("id", "text")))
    assert found[:2] == [Document("0", 'the "first" text'), Document("1", '"second')]
    assert kinds(found[2:]) == ["wrong columns"]


def test_a_csv_file_without_the_columns_is_refused_with_its_own(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("key;body\n1;t\n")
    with pytest.raises(ConfigError, match="its columns are 'key', 'body'"):
        read(tmp_path / "c.csv")


def test_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    import datetime
    import decimal

    table = pa.table(
        {
            "id": pa.array([1, 2, None, 4], pa.int64()),
            "text": ["one", "two", "three", None],
            "day": [datetime.date(2024, 2, 5)] * 4,
            "price": [decimal.Decimal("1.50")] * 4,
            "score": [0.5, float("nan"), 1.0, 2.0],
            "tags": [["x", "y"], [], None, ["z"]],
            "more": [{"a": 1}] * 4,
        }
    )
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=3)
    found = read(tmp_path / "c.parquet")
    more = {"day": "2024-02-05", "price": "1.50", "more": {"a": 1}}
    assert found[0] == Document("1", "one", "", {**more, "score": 0.5, "tags": ["x", "y"]})
    assert found[1] == Document("2", "two", "", {**more, "score": None, "tags": []})
    assert kinds(found[2:]) == ["no id", "no text"]
    assert [item.line for item in Corpus([tmp_path / "c.parquet"])] == [1, 2, 3, 4]


def test_parquet_with_text_that_is_not_utf8_or_a_column_that_is_not_json(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text = pa.array([b"fine", b"\xff\xfe", b"fine too"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": text}), tmp_path / "c.parquet")
    assert kinds(read(tmp_path / "c.parquet")) == ["a", "not UTF-8", "c"]
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["t", "u"], "raw": [b"\x00", None]}), tmp_path / "d.parquet")
    assert kinds(read(tmp_path / "d.parquet")) == ["a", "b"]


def test_a_damaged_row_group_costs_itself(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "c.parquet"
    table = pa.table({"id": [str(i) for i in range(300)], "text": [f"text {i} {i * 7919}" for i in range(300)]})
    pq.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    for at in range(column.data_page_offset + 30, column.data_page_offset + column.total_compressed_size):
        data[at] ^= 0xFF
    path.write_bytes(data)
    found = read(path)
    names = kinds(found)
    assert [str(i) for i in range(100)] == names[:100]
    assert [str(i) for i in range(200, 300)] == names[-100:]
    assert "unreadable" in names
    path.write_bytes(b"PAR1 but no more")
    (tmp_path / "next.jsonl").write_bytes(LINES)
    assert kinds(read(path, tmp_path / "next.jsonl")) == ["unreadable", "a", "b"]
    with pytest.raises(ConfigError, match="is not Parquet, or damaged"):
        read(path)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbftext b\n")
    (tmp_path / "a.md").write_text("text a")
    (tmp_path / "sub" / "c.txt.gz").write_bytes(gzip.compress(b"text c"))
    (tmp_path / "sub" / "binary").write_bytes(b"\x89PNG\xff")
    (tmp_path / "sub" / "empty.txt").write_bytes(b" \n\x00")
    (tmp_path / "sub" / "gone").symlink_to("nowhere")
    found = read(tmp_path)
    assert found[:2] == [Document("a.md", "text a"), Document("b.txt", "text b\n")]
    assert kinds(found[2:]) == ["sub/c.txt.gz", "nothing in it", "unreadable"]
    assert read(tmp_path / "a.md") == [Document("a.md", "text a")]


def test_a_folder_of_beir_and_folders_of_files(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(LINES)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "no document"}\n')
    assert read(tmp_path) == read(tmp_path, format="beir") == GOOD
    assert kinds(read(tmp_path, format="jsonl")) == ["a", "b", "q"]


def test_a_row_beyond_the_limit_is_rejected_and_the_next_is_read(tmp_path: Path) -> None:
    with (tmp_path / "c.jsonl").open("wb") as file:
        file.write(b'{"id": "long", "text": "' + b"x" * (MAX_ROW_BYTES + 10) + b'"}\n' + LINES)
    found = list(Corpus([tmp_path / "c.jsonl"]))
    assert [isinstance(item, Row) for item in found] == [False, True, True]
    assert found[0].kind == "too large"
    assert len(found[0].row) == 1000
    assert found[1].line == 2


def test_bytes_are_counted_for_the_bar(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    corpus = Corpus([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"])
    assert len(list(corpus)) == 4
    assert corpus.bytes_read == corpus.total_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing.jsonl", {}, "is not a file or folder"),
        ("c.xml", {}, "the suffix says no format"),
        ("c.jsonl", {"format": "xml"}, "format 'xml'"),
        ("-", {"format": "parquet"}, "standard input cannot be parquet"),
        ("empty", {"format": "beir"}, "has no corpus.jsonl"),
        ("empty", {"format": "csv"}, "no file of the format csv"),
    ],
)
def test_what_cannot_be_a_corpus(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "c.xml").touch()
    (tmp_path / "c.jsonl").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        Corpus([name if name == "-" else tmp_path / name], **options)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    row = json.dumps({"id": "x", "text": "word " * 200}).encode() + b"\n"
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(row * 30_000, 1))  # 30 MB unpacked
    tracemalloc.start()
    try:
        assert sum(1 for _ in Corpus([tmp_path / "c.jsonl.gz"])) == 30_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


def test_fields_beyond_id_text_title_become_the_payload(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "t", "title": "T", "lang": "de", "year": 2024}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [Document("a", "t", "T", {"lang": "de", "year": 2024})]


def test_a_beir_corpus_reads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "title": "", "text": "t"}\n\n{"_id": 7, "text": "u"}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [Document("a", "t"), Document("7", "u")]
