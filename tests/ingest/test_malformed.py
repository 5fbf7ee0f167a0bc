"""A hundred kinds of bad input: each is a row among the dead letters or a one-line error; no good row is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from m3_vdb.errors import M3Error
from m3_vdb.ingest import Corpus, Fields, ingest
from m3_vdb.stores import MemoryStore
from tests.ingest._fakes import IDENTITY, HashEmbed

GOOD = [{"id": "good-1", "text": "first"}, {"id": "good-2", "text": "second"}]
JSON_LINES: dict[str, tuple[bytes, str]] = {
    "open brace": (b"{", "not JSON"),
    "plain text": (b"hello world", "not JSON"),
    "two objects": (b'{"id": "a", "text": "t"} {"id": "b", "text": "t"}', "not JSON"),
    "trailing comma": (b'{"id": "a", "text": "t",}', "not JSON"),
    "single quotes": (b"{'id': 'a', 'text': 't'}", "not JSON"),
    "bare key": (b'{id: "a", "text": "t"}', "not JSON"),
    "python literal": (b'{"id": "a", "text": None}', "not JSON"),
    "comment": (b'{"id": "a"} // no', "not JSON"),
    "cut in a string": (b'{"id": "a", "text": "t', "not JSON"),
    "cut after a key": (b'{"id": "a", "text":', "not JSON"),
    "control character": (b'{"id": "a", "text": "a\x01b"}', "not JSON"),
    "raw tab in a string": (b'{"id": "a", "text": "a\tb"}', "not JSON"),
    "bad escape": (b'{"id": "a", "text": "\\x41"}', "not JSON"),
    "bad unicode escape": (b'{"id": "a", "text": "\\u12"}', "not JSON"),
    "deep lists": (b"[" * 100_000, "not JSON"),
    "deep objects": (b'{"a":' * 100_000, "not JSON"),
    "huge number": (b'{"id": ' + b"9" * 10_000 + b', "text": "t"}', "not JSON"),
    "html": (b"<html><body>502 Bad Gateway</body></html>", "not JSON"),
    "csv": (b"id,text", "not JSON"),
    "nul bytes": (b"\x00" * 20, "not JSON"),
    "byte order mark inside": (b'\xef\xbb\xbf{"id": "a", "text": "t"}', "not JSON"),
    "a list": (b'["a", "t"]', "wrong type"),
    "a string": (b'"text"', "wrong type"),
    "a number": (b"17", "wrong type"),
    "null": (b"null", "wrong type"),
    "true": (b"true", "wrong type"),
    "latin-1": ('{"id": "a", "text": "Straße"}'.encode("latin-1"), "not UTF-8"),
    "utf-16": ('{"id": "a", "text": "t"}'.encode("utf-16"), "not UTF-8"),
    "shift-jis": ('{"id": "a", "text": "検索"}'.encode("shift-jis"), "not UTF-8"),
    "cut multibyte": (b'{"id": "a", "text": "\xe6\x95"}', "not UTF-8"),
    "overlong": (b'{"id": "a", "text": "\xc0\xaf"}', "not UTF-8"),
    "surrogate bytes": (b'{"id": "a", "text": "\xed\xa0\x80"}', "not UTF-8"),
    "beyond Unicode": (b'{"id": "a", "text": "\xf5\x80\x80\x80"}', "not UTF-8"),
    "bad byte in the id": (b'{"id": "\xff", "text": "t"}', "not UTF-8"),
    "no id": (b'{"text": "t"}', "no id"),
    "empty object": (b"{}", "no id"),
    "empty id": (b'{"id": "", "text": "t"}', "no id"),
    "null id": (b'{"id": null, "text": "t"}', "no id"),
    "id in capitals": (b'{"ID": "a", "text": "t"}', "no id"),
    "true as id": (b'{"id": true, "text": "t"}', "wrong type"),
    "fraction as id": (b'{"id": 1.5, "text": "t"}', "wrong type"),
    "NaN as id": (b'{"id": NaN, "text": "t"}', "wrong type"),
    "list as id": (b'{"id": ["a"], "text": "t"}', "wrong type"),
    "object as id": (b'{"id": {"a": 1}, "text": "t"}', "wrong type"),
    "no text": (b'{"id": "a"}', "no text"),
    "null text": (b'{"id": "a", "text": null}', "no text"),
    "blank title alone": (b'{"id": "a", "title": " "}', "no text"),
    "text under another name": (b'{"id": "a", "content": "t"}', "no text"),
    "number as text": (b'{"id": "a", "text": 3}', "wrong type"),
    "false as text": (b'{"id": "a", "text": false}', "wrong type"),
    "list as text": (b'{"id": "a", "text": ["t"]}', "wrong type"),
    "object as text": (b'{"id": "a", "text": {"en": "t"}}', "wrong type"),
    "number as title": (b'{"id": "a", "text": "t", "title": 3}', "wrong type"),
    "list as title": (b'{"id": "a", "text": "t", "title": ["T"]}', "wrong type"),
    "empty text": (b'{"id": "a", "text": ""}', "nothing in it"),
    "blanks": (b'{"id": "a", "text": " \\t \\n"}', "nothing in it"),
    "no-break spaces": ('{"id": "a", "text": "\u00a0\u3000\u2003"}'.encode(), "nothing in it"),
    "zero width": ('{"id": "a", "text": "\u200b\u200d\ufeff"}'.encode(), "nothing in it"),
    "escaped nul": (b'{"id": "a", "text": "\\u0000"}', "nothing in it"),
    "direction marks": ('{"id": "a", "text": "\u202e\u202c"}'.encode(), "nothing in it"),
    "blank title": (b'{"id": "a", "text": "", "title": "  "}', "nothing in it"),
    "lone surrogate in the text": (b'{"id": "a", "text": "x\\ud800"}', "not storable"),
    "lone surrogate in the id": (b'{"id": "\\ud800", "text": "t"}', "not storable"),
    "lone surrogate in the title": (b'{"id": "a", "text": "t", "title": "\\udfff"}', "not storable"),
    "lone surrogate in the payload": (b'{"id": "a", "text": "t", "x": "\\ud83d"}', "not storable"),
    "lone surrogate in a name": (b'{"id": "a", "text": "t", "\\ud83d": 1}', "not storable"),
    "NaN in the payload": (b'{"id": "a", "text": "t", "x": NaN}', "not storable"),
    "infinity in the payload": (b'{"id": "a", "text": "t", "x": -Infinity}', "not storable"),
    "beyond a double": (b'{"id": "a", "text": "t", "x": 1e999}', "not storable"),
    "beyond 64 bits": (b'{"id": "a", "text": "t", "x": 18446744073709551616}', "not storable"),
    "deep payload": (b'{"id": "a", "text": "t", "x": ' + b"[" * 80 + b"]" * 80 + b"}", "not storable"),
    "NaN deep in the payload": (b'{"id": "a", "text": "t", "x": {"y": [1, {"z": NaN}]}}', "not storable"),
    "repeated id": (b'{"id": "good-1", "text": "again"}', "duplicate id"),
    "repeated id under BEIR's name": (b'{"_id": "good-1", "text": "again"}', "duplicate id"),
    "NaN from the model": (b'{"id": "a", "text": "poison"}', "model output"),
    "NaN in a vector": (b'{"id": "a", "text": "nan"}', "not storable"),
}
CSV_LINES: dict[str, tuple[bytes, str]] = {
    "too few cells": (b"a", "wrong columns"),
    "too many cells": (b"a,t,x,y", "wrong columns"),
    "comma not quoted": (b"a,one, two, three,x", "wrong columns"),
    "empty cells": (b",,", "no id"),
    "empty id": (b",t,x", "no id"),
    "empty text": (b"a,,x", "nothing in it"),
    "blank text": (b"a,   ,x", "nothing in it"),
    "not UTF-8": (b"a,\xff\xfe,x", "not UTF-8"),
    "text after a quote": (b'a,"t"x,y', "broken quotes"),
    "open quote": (b'a,"t,x', "broken quotes"),
    "open quote in the first cell": (b'"a,t,x', "broken quotes"),
    "semicolons": (b"a;t;x", "wrong columns"),
    "repeated id": (b"good-1,again,x", "duplicate id"),
    "carriage return in a cell": (b"a,t\rb,x", "broken quotes"),
    "header again": (b"id,text", "wrong columns"),
}
FILES: dict[str, tuple[str, bytes, str]] = {
    "gzip cut off": ("c.jsonl.gz", gzip.compress(b'{"id": "x", "text": "t"}\n' * 3)[:-5], "unreadable"),
    "gzip with a wrong checksum": ("c.jsonl.gz", gzip.compress(b"\n" * 9)[:-8] + b"\x00" * 8, "unreadable"),
    "gzip followed by junk": ("c.jsonl.gz", gzip.compress(b"\n") + b"junk", "unreadable"),
    "not gzip": ("c.jsonl.gz", b'{"id": "x", "text": "t"}\n', "unreadable"),
    "not Zstandard": ("c.jsonl.zst", gzip.compress(b"\n"), "unreadable"),
    "Zstandard cut off": ("c.jsonl.zst", zstandard.compress(b"text " * 999)[:-3], "unreadable"),
    "Zstandard damaged": ("c.jsonl.zst", zstandard.compress(b"text " * 999)[:8] + b"\xff" * 30, "unreadable"),
    "not Parquet": ("c.parquet", b'{"id": "x", "text": "t"}\n', "unreadable"),
    "empty Parquet": ("c.parquet", b"", "unreadable"),
    "Parquet cut off": ("c.parquet", b"PAR1" + b"\x15\x04" * 50, "unreadable"),
    "JSON list": ("c.jsonl", json.dumps([GOOD[0]]).encode(), "wrong type"),
    "binary as JSON": ("c.jsonl", bytes(range(128, 256)), "not UTF-8"),
    "binary as text": ("c.txt", bytes(range(256)), "not UTF-8"),
    "empty text file": ("c.txt", b"", "nothing in it"),
    "csv with the column in capitals": ("c.csv", b"ID,text\nx,t\n", "error: has no column 'id'"),
    "csv without the column": ("c.csv", b"id,name\nx,t\n", "error: has no column 'text'"),
    "csv with a column twice": ("c.csv", b"id,text,text\nx,t,t\n", "error: two columns 'text'"),
    "binary as csv": ("c.csv", bytes(range(128, 256)), "error: has no column"),
    "tsv that is csv": ("c.tsv", b"id,text\nx,t\n", "error: has no column"),
}


def ingested(tmp_path: Path, *paths: Path, fields: Fields | None = None) -> tuple[set[str], list[dict[str, object]]]:
    letters = tmp_path / "letters.jsonl"
    with MemoryStore(IDENTITY) as store:
        ingest(Corpus(paths, fields=fields or Fields()), HashEmbed(), store, rejected=letters, batch_documents=2)
        held = {one for one in ("good-1", "good-2") if store.get([one])}
        assert all(row.document.text != "again" for row in store._rows.values())
    lines = letters.read_text().splitlines() if letters.exists() else []
    return held, [json.loads(line) for line in lines]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", JSON_LINES)
def test_json_lines(tmp_path: Path, name: str) -> None:
    line, kind = JSON_LINES[name]
    path = tmp_path / "c.jsonl"
    separator = b"\n" if b"\x00\n\x00" not in line else b""
    path.write_bytes(json.dumps(GOOD[0]).encode() + b"\n" + line + separator + json.dumps(GOOD[1]).encode())
    held, letters = ingested(tmp_path, path)
    assert held == {"good-1", "good-2"}
    assert [(one["file"], one["line"], one["kind"]) for one in letters] == [(str(path), 2, kind)]
    assert letters[0]["reason"]
    assert letters[0]["row"] == line.decode("utf-8", "backslashreplace")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CSV_LINES)
def test_csv_lines(tmp_path: Path, name: str) -> None:
    line, kind = CSV_LINES[name]
    path = tmp_path / "c.csv"
    path.write_bytes(b"id,text,more\ngood-1,first,x\n" + line + b"\ngood-2,second,x\n")
    held, letters = ingested(tmp_path, path)
    assert held == {"good-1", "good-2"}
    assert [(one["file"], one["line"], one["kind"]) for one in letters] == [(str(path), 3, kind)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FILES)
def test_whole_files(tmp_path: Path, name: str) -> None:
    file, data, kind = FILES[name]
    (tmp_path / file).write_bytes(data)
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    if kind.startswith("error: "):
        with pytest.raises(M3Error, match=kind.removeprefix("error: ")) as caught:
            ingested(tmp_path, tmp_path / file, tmp_path / "good.jsonl")
        assert "\n" not in str(caught.value)
        return
    held, letters = ingested(tmp_path, tmp_path / file, tmp_path / "good.jsonl")
    assert held == {"good-1", "good-2"}
    assert {one["file"] for one in letters} == {str(tmp_path / file)}
    assert kind in {one["kind"] for one in letters}


def test_there_are_a_hundred_kinds() -> None:
    assert len(JSON_LINES) + len(CSV_LINES) + len(FILES) >= 100
