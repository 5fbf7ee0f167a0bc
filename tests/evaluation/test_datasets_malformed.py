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

MAKE: dict[str, Callable[[Path], Any]] = {
    "beir": mini.beir,
    "miracl": lambda folder: mini.miracl(folder, folder, "de"),
    "mldr": lambda folder: mini.mldr(folder, "de"),
    "mkqa": mini.mkqa,
    "trec": mini.trec,
    "flagembedding": mini.flagembedding,
}
QUERY = '{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}\n'
MLDR_ROW: dict[str, Any] = {"query_id": "q", "query": "x", "positive_passages": [{"docid": "d"}]}
JUDGED = {"qid": "q", "docid": "a", "relevance": 1}
TOPICS = "miracl-v1.0-de/topics/topics.miracl-v1.0-de-dev.tsv"
JUDGEMENTS = "miracl-v1.0-de/qrels/qrels.miracl-v1.0-de-dev.tsv"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def mldr_row(**change: Any) -> str:
    return lines(MLDR_ROW | {"query_id": "1"}, MLDR_ROW | change)


def mkqa_row(**change: Any) -> str:
    good, other = (mini.question(number, ("date", "x", None)) for number in (1, 2))
    return lines(good, other | change)


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


WRONG_LINES: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("beir", "corpus.jsonl"): [
        (f'{{"_id": "d0", "text": "x"}}\n{line}\n', f"line 2: {message}")
        for line, message in (
            ("{", "not JSON in UTF-8"),
            ("[1]", "expected a JSON object, got list"),
            ('{"text": "x"}', r'expected {"_id": str, "text": str'),
            ('{"_id": "", "text": "x"}', "expected"),
            ('{"_id": true, "text": "x"}', "expected"),
            ('{"_id": 1.5, "text": "x"}', "expected"),
            ('{"_id": "x"}', "expected"),
            ('{"_id": "x", "text": null}', "expected"),
            ('{"_id": "x", "text": "x", "title": 3}', "expected"),
            ('{"_id": "x", "text": "\\ud800"}', ".*surrogate"),
            ('{"_id": "d0", "text": "x"}', "the id 'd0' is not unique"),
        )
    ],
    ("beir", "queries.jsonl"): [
        (f"{QUERY}{line}\n", f"line 3: {message}")
        for line, message in (
            ("nonsense", "not JSON"),
            ('{"_id": "q3"}', "expected a query's id .* got 'q3' and None"),
            ('{"text": "x"}', "expected a query's id .* got None"),
            ('{"_id": false, "text": "x"}', "expected a query's id"),
            ('{"_id": "q1", "text": "x"}', "the query id 'q1' is not unique"),
            ('{"_id": "q3", "text": "\\udfff"}', ".*surrogate"),
            ('{"_id": "q3", "text": "x", "lang": 3}', "'lang' must be a string, got 3"),
        )
    ],
    ("miracl", TOPICS): [
        ("0#0\tx\n1#0 y\n", "line 2: expected query id, tab and text, got '1#0 y'"),
        ("0#0\tx\n1#0\ty\tz\n", "line 2: expected query id, tab and text"),
        ("0#0\tx\n1#0\t\n", "line 2: expected query id, tab and text"),
        ("0#0\tx\n0#0\ty\n", "line 2: the query id '0#0' is not unique"),
    ],
    ("mldr", "mldr-v1.0-de/test.jsonl.gz"): [
        (mldr_row(query=3), "line 2: expected a query's id"),
        (mldr_row(query_id="1"), "line 2: the query id '1' is not unique"),
        (mldr_row(positive_passages=None), "line 2: 'positive_passages' must have at least one"),
        (mldr_row(positive_passages="d"), r"line 2: 'positive_passages' must be a list of {\"docid\""),
        (mldr_row(negative_passages=[{"text": "x"}]), r"line 2: 'negative_passages' must be a list of {\"docid\""),
        (mldr_row(negative_passages=["d"]), r"line 2: 'negative_passages' must be a list of {\"docid\""),
    ],
    ("mkqa", "mkqa.jsonl.gz"): [
        (mkqa_row(answers={"de": []}), r'line 2: expected {"answers": {"en"'),
        (mkqa_row(answers={"en": ["x"]}), r'line 2: expected {"answers": {"en"'),
        (mkqa_row(answers={"en": [{"type": "date", "text": None}]}), "line 2: 'text' of an answer must be a string"),
        (
            mkqa_row(answers={"en": [{"type": "date", "text": "x", "aliases": "y"}]}),
            "line 2: 'aliases' must be a list",
        ),
        (mkqa_row(queries={"de": 3}), r'line 2: expected {"queries": {LANG: str'),
        (mkqa_row(queries=[]), r'line 2: expected {"queries": {LANG: str'),
        (mkqa_row(example_id=None), "line 2: expected a query's id"),
        (mkqa_row(example_id=1), "line 2: the query id '1-en' is not unique"),
    ],
    ("trec", "corpus.trec"): [
        ("<DOC>\n<DOCNO>1</DOCNO>\n", "line 1: a <DOC> without </DOC>"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n<DOC>\n", "line 3: a second <DOC> before </DOC>"),
        ("<DOC>\ntext\n</DOC>\n", "line 1: a <DOC> without <DOCNO>"),
        ("<DOC><DOCNO>1</DOCNO></DOC>\nand more\n", "line 2: 'and more' outside of <DOC>"),
        ("<DOC><DOCNO>1</DOCNO></DOC> behind\n", "line 1: 'behind' behind </DOC>"),
        ("<DOCNO>1</DOCNO>\n", "line 1: '<DOCNO>1</DOCNO>' outside of <DOC>"),
        ("<DOC><DOCNO>1</DOCNO></DOC>\n<DOC>\n<DOCNO>1</DOCNO></DOC>", "line 2: the id '1' is not unique"),
    ],
    ("trec", "topics.txt"): [
        ("<top>\n<title> x\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top>\n<num> 1\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top>\n<num> 1 <title>\n<desc> x\n</top>", "line 1: a <top> without <num> or <title>"),
        ("<top><num>1<title>x</top>\n<top><num>1<title>y</top>", "line 2: the query id '1' is not unique"),
        ("<top>\n<num> 1 <title> x\n", "line 1: a <top> without </top>"),
    ],
    ("flagembedding", "test_qrels.jsonl"): [
        (
            lines(JUDGED, {key: value for key, value in JUDGED.items() if key != missing}),
            r'line 2: expected {"qid": str, "docid": str, "relevance": int}',
        )
        for missing in JUDGED
    ],
}
WRONG_JUDGEMENTS: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("beir", "corpus.jsonl"): [("\n\n", "holds no documents")],
    ("beir", "qrels/test.tsv"): [
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
    ("miracl", JUDGEMENTS): [
        (f"0#0 Q0 7#0 1\n{line}\n", "line 2: expected query id, Q0, document id and a whole number, got")
        for line in ("0#0\t7#0\t1", "0#0 Q0 7#0 yes", "0#0 Q0 7#0 1 1")
    ],
}
CASES = [
    pytest.param(kind, layout, path, text, message, id=f"{layout}-{Path(path).name}-{i}")
    for kind, table in ((DocumentError, WRONG_LINES), (ConfigError, WRONG_JUDGEMENTS))
    for (layout, path), wrong in table.items()
    for i, (text, message) in enumerate(wrong)
]


@pytest.mark.parametrize(("kind", "layout", "path", "text", "message"), CASES)
def test_a_wrong_line_is_named(tmp_path, kind, layout, path, text, message):
    MAKE[layout](tmp_path)
    check(tmp_path, kind, message, mini.write(tmp_path / path, text))


@pytest.mark.parametrize(
    ("layout", "missing", "message"),
    [
        (
            "beir",
            "queries.jsonl",
            r"has no queries\.jsonl or queries\.jsonl\.gz \(it holds corpus\.jsonl, qrels\): expected",
        ),
        (
            "beir",
            "qrels/test.tsv",
            r"has no test\.tsv or test\.tsv\.gz \(there is nothing\): expected the judgements of the split",
        ),
        ("trec", "corpus.trec", r"has no corpus: expected topics\*, qrels\* and corpus/"),
        ("mkqa", "corpus.jsonl.gz", r"expected corpus\.jsonl of BEIR's NQ here or in one sub-folder, found none"),
    ],
)
def test_a_missing_file_is_named_with_its_folder(tmp_path, layout, missing, message):
    MAKE[layout](tmp_path)
    (tmp_path / missing).unlink()
    check(tmp_path, ConfigError, message, (tmp_path / missing).parent)


def test_two_corpora_of_mkqa_are_one_too_many(tmp_path):
    mini.mkqa(tmp_path)
    (tmp_path / "corpus.jsonl.gz").unlink()
    for folder in "ab":
        mini.write_rows(tmp_path / folder / "corpus.jsonl", mini.NQ)
    check(tmp_path, ConfigError, r"expected corpus\.jsonl of BEIR's NQ here or in one sub-folder, found a, b", tmp_path)


def test_an_id_that_repeats_one_of_another_file(tmp_path):
    mini.miracl(tmp_path, tmp_path, "de")
    path = tmp_path / "miracl-corpus-v1.0-de" / "docs-1.jsonl.gz"
    mini.write_rows(path, [{"docid": "9#0", "text": "x"}, {"docid": "7#1", "text": "x"}])
    check(tmp_path, DocumentError, "line 2: the id '7#1' is not unique", path)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-20], lambda content: content[:40] + bytes([content[40] ^ 0xFF]) + content[41:]],
    ids=["cut off", "flipped"],
)
def test_a_damaged_gzip(tmp_path, damage: Callable[[bytes], bytes]):
    rows = [{"_id": f"d{i}", "text": f"{i * 7919 % 1009} words"} for i in range(100)]
    mini.beir(tmp_path, end=".gz", corpus=rows)
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    check(tmp_path, ConfigError, r"after line \d+: damaged|is damaged from its first bytes", path)


def test_a_plain_file_that_is_called_gz(tmp_path):
    mini.beir(tmp_path, end=".gz")
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    check(tmp_path, ConfigError, r"after line \d+: damaged|is called \.gz but is not packed", path)


def test_bytes_that_are_no_utf8(tmp_path):
    mini.beir(tmp_path)
    path = tmp_path / "qrels" / "test.tsv"
    path.write_bytes(b"q1\td1\t1\nq1\td\xe9\t1\n")
    check(tmp_path, DocumentError, "line 2: not UTF-8 at byte 4", path)
