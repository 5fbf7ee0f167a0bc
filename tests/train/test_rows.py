"""Reading training rows: what is a row, and how a line that is none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3_vdb.errors import DocumentError
from train.data.rows import Row, parse_row

GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}


def line(**fields: object) -> str:
    """``GOOD`` with other fields; ... leaves one out."""
    return json.dumps({name: value for name, value in (GOOD | fields).items() if value is not ...})


BAD_LINES = {
    "bad JSON": ('{"query": "q", ', "not JSON"),
    "not an object": ('["q", "p", "n"]', "JSON object, got list"),
    "no query": (line(query=...), "query"),
    "query is a number": (line(query=3), "query"),
    "no pos": (line(pos=...), "'pos'"),
    "empty pos": (line(pos=[]), "'pos'"),
    "pos is a string": (line(pos="p"), "'pos'"),
    "pos holds a number": (line(pos=["p", 1]), "'pos'"),
    "neg is a string": (line(neg="n"), "'neg'"),
    "neg holds null": (line(neg=["n", None]), "'neg'"),
    "too many pos_scores": (line(pos_scores=[1, 2]), "'pos_scores'.* 1 texts"),
    "too few neg_scores": (line(neg=["n", "m"], neg_scores=[1]), "'neg_scores'.* 2 texts"),
    "scores for no texts": (line(neg=[], neg_scores=[1]), "'neg_scores'.* 0 texts"),
    "scores are strings": (line(pos_scores=["1"]), "'pos_scores'"),
    "scores are truth values": (line(pos_scores=[True]), "'pos_scores'"),
    "scores are no list": (line(pos_scores=2.5), "'pos_scores'"),
}
STRANGE_LINES = {
    "scores that are no numbers": '{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [NaN]}',
    "infinite scores": '{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [Infinity]}',
    "a score beyond float32": '{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1e39]}',
    "a score beyond floats": '{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1%s]}' % ("0" * 400),
    "a number of 5000 digits": '{"query": "q", "pos": ["p"], "neg": ["n"], "id": 1%s}' % ("0" * 5000),
    "brackets without end": '{"query": ' + "[" * 100_000,
}


@pytest.mark.parametrize(("bad", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_malformed_line_is_named_by_file_and_number(bad, message):
    with pytest.raises(DocumentError, match=rf"rows\.jsonl, line 3: .*{message}") as caught:
        parse_row(bad, Path("rows.jsonl"), 2)
    assert caught.value.index == 2
    assert str(caught.value).count("line") == 1


@pytest.mark.parametrize("strange", STRANGE_LINES.values(), ids=STRANGE_LINES.keys())
def test_a_line_that_json_can_hold_and_python_cannot_is_named_too(strange):
    with pytest.raises(DocumentError, match=r"rows\.jsonl, line 2: "):
        parse_row(strange, Path("rows.jsonl"), 1)


def test_a_row_has_a_data_set_needs_no_negatives_and_may_have_scores(tmp_path):
    assert parse_row(line(), tmp_path, 0) == Row("q", ("p",), ("n",), (), (), "/")
    other = line(query="é", pos=["a", "b"], neg=["c", "d"], lang="fr", source="udhr", other=1)
    assert parse_row(other.encode(), tmp_path, 0) == Row("é", ("a", "b"), ("c", "d"), (), (), "udhr/fr")
    assert parse_row(line(source=None, lang=None), tmp_path, 0).dataset == "/"
    scored = parse_row(line(pos=["a", "b"], pos_scores=[1, -2.5], neg_scores=[0]), tmp_path, 0)
    assert (scored.positive_scores, scored.negative_scores) == ((1.0, -2.5), (0.0,))
    assert all(type(score) is float for score in scored.positive_scores)
    for without in (line(neg=[]), line(neg=...), line(neg=[], neg_scores=[])):
        assert parse_row(without, tmp_path, 0) == Row("q", ("p",), ())
    assert parse_row(line(pos_scores=None, neg_scores=[]), tmp_path, 0) == Row("q", ("p",), ("n",))
