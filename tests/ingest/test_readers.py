"""A row is a document or a rejection with its line and reason; nothing else comes out, and nothing is raised."""

import json
from pathlib import Path

import pytest

from m3_vdb import Document
from m3_vdb.ingest import Rejected, read_jsonl


def test_fields_beyond_id_text_title_become_the_payload(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "t", "title": "T", "lang": "de", "year": 2024}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [Document("a", "t", "T", {"lang": "de", "year": 2024})]


def test_a_beir_corpus_reads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "title": "", "text": "t"}\n\n{"_id": 7, "text": "u"}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [Document("a", "t"), Document("7", "u")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"text": "t"}', "no id"),
        (b'{"id": "", "text": "t"}', "non-empty string"),
        (b'{"id": true, "text": "t"}', "non-empty string"),
        (b'{"id": null, "text": "t"}', "non-empty string"),
        (b'{"id": "a"}', "'text'"),
        (b'{"id": "a", "text": 3}', "'text'"),
        (b'{"id": "a", "text": "t", "title": ["x"]}', "'title'"),
        (b'{"id": "a", "text": " \\n "}', "nothing to encode"),
        (b'{"id": "a", "text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_rejected_with_line_and_reason_and_the_next_row_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(line + b"\n" + json.dumps({"id": "good", "text": "t"}).encode() + b"\n")
    rejected, good = read_jsonl(path)
    assert isinstance(rejected, Rejected)
    assert rejected.where == f"{path}, line 1"
    assert reason in rejected.reason
    assert good == Document("good", "t")
