"""Corpus files: read row by row, named line by line."""

from __future__ import annotations

import numpy as np
import pytest

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.types import Document
from tests.train._retrieval import write_jsonl
from train.retrieval.data import Corpus, digest


def test_a_file_is_read_like_a_list_of_its_documents(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '\n{"id": "a", "text": "Suche"}\n\n  \n{"_id": 7, "title": "数据库", "text": "检索"}\r\n'
        '{"docid": "c", "title": null, "text": "поиск", "more": 1}\n{"text": " no id "}',
        encoding="utf-8",
    )
    corpus = Corpus.read(path)
    expected = [
        Document("a", "Suche"),
        Document("7", "检索", "数据库"),
        Document("c", "поиск"),
        Document("", " no id "),
    ]
    assert [corpus[row] for row in range(len(corpus))] == expected
    assert corpus[1].content == "数据库\n检索"
    listed = Corpus(expected)
    assert corpus.ids == listed.ids == ["a", "7", "c", ""]
    assert corpus.digests.tolist() == listed.digests.tolist()
    assert list(corpus) == expected


def test_the_texts_of_a_file_are_not_in_memory(tmp_path):
    path = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "before"}, {"text": "second"}])
    corpus = Corpus.read(path)
    path.write_bytes(path.read_bytes().replace(b"before", b"behind"))
    assert corpus[0].text == "behind"


def test_a_digest_ignores_white_space_around_a_text_and_nothing_else():
    assert digest(" a b\n") == digest("a b") != digest("a  b")
    assert digest("a b") == 0x28F927C0A5DE37BB  # the same on every machine, as shard folders and draws rely on


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ('["text"]', "expected a JSON object, got list"),
        ('{"id": "a"}', '"text": str'),
        ('{"text": "a", "title": 3}', '"text": str'),
        ('{"text": "a", "id": ["a"]}', "expected .*id"),
        ('{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(DocumentError, match=rf"corpus\.jsonl, line 3: .*{message}") as error:
        Corpus.read(path)
    assert error.value.index == 2


def test_a_file_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read"):
        Corpus.read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match=r"empty\.jsonl holds no passages"):
        Corpus.read(tmp_path / "empty.jsonl")


def test_a_corpus_finds_every_row_by_content_text_or_id():
    corpus = Corpus([Document("a", "x"), Document("b", "y", "t"), Document("c", " x "), Document("", "z")])

    def rows(texts=(), ids=()):
        return corpus.rows_of(map(digest, texts), ids).tolist()

    assert rows(["x"]) == [0, 2]
    assert rows(["y"]) == rows(["t\ny"]) == rows(ids=["b"]) == [1]
    assert rows(["t"]) == rows() == rows(ids=["", "unknown"]) == []
    assert rows(["x", "z"], ["a", "b"]) == [0, 1, 2, 3]
    assert corpus.rows_of([], []).dtype == np.int64
