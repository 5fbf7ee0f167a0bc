"""Whatever is wrong with a file, one line says which file, which line and what was expected."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.datasets import open_collections
from tests.evaluation import _layouts as mini

QUERY = '{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}\n'
MLDR_ROW: dict[str, Any] = {"query_id": "q", "query": "x", "positive_passages": [{"docid": "d"}]}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(place: Path) -> None:
    for collection in open_collections(place):
        for _ in collection.documents:
            pass


def check(place: Path, kind: type[Exception], message: str, path: Path) -> None:
    with pytest.raises(kind, match=message) as caught:
        read(place)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) in (ConfigError, DocumentError)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON in UTF-8"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ('{"text": "x"}', r'line 2: expected {"_id": str, "text": str'),
        ('{"_id": "", "text": "x"}', "line 2: expected"),
        ('{"_id": true, "text": "x"}', "line 2: expected"),
        ('{"_id": 1.5, "text": "x"}', "line 2: expected"),
        ('{"_id": "x"}', "line 2: expected"),
        ('{"_id": "x", "text": null}', "line 2: expected"),
        ('{"_id": "x", "text": "x", "title": 3}', "line 2: expected"),
        ('{"_id": "x", "text": "\\ud800"}', "line 2: .*surrogate"),
        ('{"_id": "d0", "text": "x"}', "line 2: the id 'd0' is not unique"),
    ],
)
def test_a_line_of_a_corpus(tmp_path, line, message):
    mini.beir(tmp_path)
    path = mini.write(tmp_path / "corpus.jsonl", f'{{"_id": "d0", "text": "x"}}\n{line}\n')
    check(tmp_path, DocumentError, message, path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 3: not JSON"),
        ('{"_id": "q3"}', "line 3: expected a query's id .* got 'q3' and None"),
        ('{"text": "x"}', "line 3: expected a query's id .* got None"),
        ('{"_id": false, "text": "x"}', "line 3: expected a query's id"),
        ('{"_id": "q1", "text": "x"}', "line 3: the query id 'q1' is not unique"),
        ('{"_id": "q3", "text": "\\udfff"}', "line 3: .*surrogate"),
        ('{"_id": "q3", "text": "x", "lang": 3}', "line 3: 'lang' must be a string, got 3"),
    ],
)
def test_a_line_of_queries(tmp_path, line, message):
    mini.beir(tmp_path)
    check(tmp_path, DocumentError, message, mini.write(tmp_path / "queries.jsonl", f"{QUERY}{line}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1\td1\t1\nq1\td2\n", "line 2: expected query id, document id and a whole number, got 'q1"),
        ("q1\td1\t1\n\nq1\td2\t1\t1\n", "line 3: expected"),
        ("q1\td1\t1\nq1 d2 1\n", "line 2: expected"),
        ("q1\td1\t1\nq1\t\t1\n", "line 2: expected"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t1.5\n", "line 2: expected"),
        ("query-id\tcorpus-id\tscore\nquery-id\tcorpus-id\tscore\n", "line 2: expected"),
        ("q1\td1\t1_0\n", "line 1: expected"),
        ("q1\td1\trelevant\n", "line 1: expected"),
        ("q1\td1\r\n", "line 1: expected .*, got 'q1\\\\td1'$"),
        ("q1\td1\t1\nq1\td1\t1\nq1\td1\t2\n", "line 3: 'd1' has grade 2 for 'q1', and 1 further up"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgements: expected lines of query id"),
        ("", "holds no judgements"),
        ("q9\td1\t1\n", r"the judged query 'q9' is not in queries\.jsonl"),
    ],
)
def test_judgements(tmp_path, text, message):
    mini.beir(tmp_path)
    check(tmp_path, ConfigError, message, mini.write(tmp_path / "qrels" / "test.tsv", text))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("queries.jsonl", r"has no queries\.jsonl or queries\.jsonl\.gz \(it holds corpus\.jsonl, qrels\): expected"),
        (
            "qrels/test.tsv",
            r"has no test\.tsv or test\.tsv\.gz \(there is nothing\): expected the judgements of the split",
        ),
    ],
)
def test_a_missing_file(tmp_path, missing, message):
    mini.beir(tmp_path)
    (tmp_path / missing).unlink()
    check(tmp_path, ConfigError, message, (tmp_path / missing).parent)


def test_an_empty_corpus(tmp_path):
    mini.beir(tmp_path)
    check(tmp_path, ConfigError, "holds no documents", mini.write(tmp_path / "corpus.jsonl", "\n\n"))


def _cut(content: bytes) -> bytes:
    return content[:-20]


def _flipped(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 0xFF]) + content[41:]


def _plain(content: bytes) -> bytes:
    return gzip.decompress(content)


@pytest.mark.parametrize("damage", [_cut, _flipped, _plain])
def test_a_damaged_gzip(tmp_path, damage: Callable[[bytes], bytes]):
    rows = [{"_id": f"d{i}", "text": f"{i * 7919 % 1009} words"} for i in range(100)]
    mini.beir(tmp_path, end=".gz", corpus=rows)
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    check(tmp_path, ConfigError, r"damaged|is called \.gz but is not packed", path)


def test_bytes_that_are_no_utf8(tmp_path):
    mini.beir(tmp_path)
    path = tmp_path / "qrels" / "test.tsv"
    path.write_bytes(b"q1\td1\t1\nq1\td\xe9\t1\n")
    check(tmp_path, DocumentError, "line 2: not UTF-8 at byte 4", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0#0\tx\n1#0 y\n", "line 2: expected query id, tab and text, got '1#0 y'"),
        ("0#0\tx\n1#0\ty\tz\n", "line 2: expected query id, tab and text"),
        ("0#0\tx\n1#0\t\n", "line 2: expected query id, tab and text"),
        ("0#0\tx\n0#0\ty\n", "line 2: the query id '0#0' is not unique"),
    ],
)
def test_topics_of_miracl(tmp_path, text, message):
    mini.miracl(tmp_path, tmp_path, "de")
    path = tmp_path / "miracl-v1.0-de" / "topics" / "topics.miracl-v1.0-de-dev.tsv"
    check(tmp_path, DocumentError, message, mini.write(path, text))


@pytest.mark.parametrize("line", ["0#0\t7#0\t1", "0#0 Q0 7#0 yes", "0#0 Q0 7#0 1 1"])
def test_judgements_of_miracl(tmp_path, line):
    mini.miracl(tmp_path, tmp_path, "de")
    path = tmp_path / "miracl-v1.0-de" / "qrels" / "qrels.miracl-v1.0-de-dev.tsv"
    message = "line 2: expected query id, Q0, document id and a whole number, got"
    check(tmp_path, ConfigError, message, mini.write(path, f"0#0 Q0 7#0 1\n{line}\n"))


def test_an_id_that_repeats_one_of_another_file(tmp_path):
    mini.miracl(tmp_path, tmp_path, "de")
    path = tmp_path / "miracl-corpus-v1.0-de" / "docs-1.jsonl.gz"
    mini.write_rows(path, [{"docid": "9#0", "text": "x"}, {"docid": "7#1", "text": "x"}])
    check(tmp_path, DocumentError, "line 2: the id '7#1' is not unique", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": 3}, "line 2: expected a query's id"),
        ({"query_id": "1"}, "line 2: the query id '1' is not unique"),
        ({"positive_passages": None}, "line 2: 'positive_passages' must have at least one"),
        ({"positive_passages": "d"}, r"line 2: 'positive_passages' must be a list of {\"docid\""),
        ({"negative_passages": [{"text": "x"}]}, r"line 2: 'negative_passages' must be a list of {\"docid\""),
        ({"negative_passages": ["d"]}, r"line 2: 'negative_passages' must be a list of {\"docid\""),
    ],
)
def test_a_line_of_mldr(tmp_path, change, message):
    mini.mldr(tmp_path, "de")
    path = tmp_path / "mldr-v1.0-de" / "test.jsonl.gz"
    mini.write(path, lines(MLDR_ROW | {"query_id": "1"}, MLDR_ROW | change))
    check(tmp_path, DocumentError, message, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"de": []}}, r'line 2: expected {"answers": {"en"'),
        ({"answers": {"en": ["x"]}}, r'line 2: expected {"answers": {"en"'),
        ({"answers": {"en": [{"type": "date", "text": None}]}}, "line 2: 'text' of an answer must be a string"),
        ({"answers": {"en": [{"type": "date", "text": "x", "aliases": "y"}]}}, "line 2: 'aliases' must be a list"),
        ({"queries": {"de": 3}}, r'line 2: expected {"queries": {LANG: str'),
        ({"queries": []}, r'line 2: expected {"queries": {LANG: str'),
        ({"example_id": None}, "line 2: expected a query's id"),
        ({"example_id": 1}, "line 2: the query id '1-en' is not unique"),
    ],
)
def test_a_line_of_mkqa(tmp_path, change, message):
    mini.mkqa(tmp_path)
    good, other = (mini.question(number, ("date", "x", None)) for number in (1, 2))
    check(tmp_path, DocumentError, message, mini.write(tmp_path / "mkqa.jsonl.gz", lines(good, other | change)))


@pytest.mark.parametrize("corpora", [[], ["a/corpus.jsonl", "b/corpus.jsonl"]])
def test_the_corpus_of_mkqa(tmp_path, corpora):
    mini.mkqa(tmp_path)
    (tmp_path / "corpus.jsonl.gz").unlink()
    for corpus in corpora:
        mini.write_rows(tmp_path / corpus, mini.NQ)
    check(tmp_path, ConfigError, r"expected corpus\.jsonl of BEIR's NQ here or in one sub-folder, found", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<DOC>\n<DOCNO>1</DOCNO>\n", "line 1: a <DOC> without </DOC>"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n<DOC>\n", "line 3: a second <DOC> before </DOC>"),
        ("<DOC>\ntext\n</DOC>\n", "line 1: a <DOC> without <DOCNO>"),
        ("<DOC><DOCNO>1</DOCNO></DOC>\nand more\n", "line 2: 'and more' outside of <DOC>"),
        ("<DOC><DOCNO>1</DOCNO></DOC> behind\n", "line 1: 'behind' behind </DOC>"),
        ("<DOCNO>1</DOCNO>\n", "line 1: '<DOCNO>1</DOCNO>' outside of <DOC>"),
        ("<DOC><DOCNO>1</DOCNO></DOC>\n<DOC>\n<DOCNO>1</DOCNO></DOC>", "line 2: the id '1' is not unique"),
    ],
)
def test_documents_of_trec(tmp_path, text, message):
    mini.trec(tmp_path)
    check(tmp_path, DocumentError, message, mini.write(tmp_path / "corpus.trec", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<top>\n<title> x\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top>\n<num> 1\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top>\n<num> 1 <title>\n<desc> x\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top><num>1<title>x</top>\n<top><num>1<title>y</top>", "line 2: the query id '1' is not unique"),
        ("<top>\n<num> 1 <title> x\n", "line 1: a <top> without </top>"),
    ],
)
def test_topics_of_trec(tmp_path, text, message):
    mini.trec(tmp_path)
    check(tmp_path, DocumentError, message, mini.write(tmp_path / "topics.txt", text))


def test_a_corpus_that_is_missing_in_trec(tmp_path):
    mini.trec(tmp_path)
    (tmp_path / "corpus.trec").unlink()
    check(tmp_path, ConfigError, r"has no corpus: expected topics\*, qrels\* and corpus/", tmp_path)


@pytest.mark.parametrize(
    "row", [{"qid": "q", "docid": "a"}, {"qid": "q", "relevance": 1}, {"docid": "a", "relevance": 1}]
)
def test_judgements_of_flagembedding(tmp_path, row):
    mini.flagembedding(tmp_path)
    path = mini.write_rows(tmp_path / "test_qrels.jsonl", [{"qid": "q", "docid": "a", "relevance": 1}, row])
    check(tmp_path, DocumentError, r'line 2: expected {"qid": str, "docid": str, "relevance": int}', path)
