"""Rows on disk: the tokens are the tokenizer's, nothing is lost or mixed up, and the cache knows bad lines too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError, DocumentError
from train.data import store
from train.data.store import COLUMNS, Lengths, RowStore, key, token_batch

GOOD: dict[str, Any] = {"query": "q", "pos": ["p"], "neg": ["n"]}
LENGTHS = Lengths(8, 12)
SURROGATE = "\ud83d and no other half"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test begins without a cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def open_store(tiny_tokenizer_json):
    def opened(*files: Path, lengths: Lengths = LENGTHS, **options: Any) -> RowStore:
        return RowStore(list(files), tiny_tokenizer_json, lengths, **options)

    return opened


@pytest.fixture
def only_cached(monkeypatch):
    """Call it, and from then on nothing is read or tokenized."""

    def refuse(*arguments: Any, **named: Any) -> Iterator[dict[str, Any]]:
        raise AssertionError("not from the cache")

    return lambda: monkeypatch.setattr(store, "_parse", refuse)


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        encoding="utf-8",
        errors="surrogateescape",
    )
    return path


def query_keys(rows: RowStore) -> list[int]:
    return rows.column("query_key").tolist()


def test_token_ids_are_those_of_the_tokenizer_cut_at_the_lengths(tmp_path, tiny_texts, tiny_tokenizer_json, open_store):
    texts = [*tiny_texts, "the vector search " * 9, "x" * 500]
    lines = [
        {"query": text, "pos": [texts[i - 1], text], "neg": texts[: i % 4] * 2, "lang": "en"}
        for i, text in enumerate(texts)
    ]
    opened = open_store(write(tmp_path / "rows.jsonl", *lines))
    tokenizer = Tokenizer(tiny_tokenizer_json)

    def tokens(texts: list[str], length: int) -> list[list[int]]:
        batch = tokenizer.encode(texts, max_length=length)
        return [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])] if texts else []

    records = opened.rows(range(len(lines)))
    for line, record in zip(lines, records, strict=True):
        positives, negatives = tokens(line["pos"], 12), tokens(line["neg"], 12)
        (query,) = tokens([line["query"]], 8)
        longest = [max(map(len, group), default=0) for group in ([query], positives, negatives)]
        assert record == {
            "problem": "",
            "dataset": "/en",
            "longest": max(longest),
            "query_length": longest[0],
            "positive_length": longest[1],
            "negative_length": longest[2],
            "negatives_count": len(negatives),
            "query": query,
            "query_key": key(line["query"]),
            "positives": positives,
            "positive_keys": [key(text) for text in line["pos"]],
            "positive_scores": [],
            "negatives": negatives,
            "negative_keys": [key(text) for text in line["neg"]],
            "negative_scores": [],
        }
        assert set(record) == set(COLUMNS)
    assert {len(record["query"]) for record in records} >= {2, 8}
    assert max(record["longest"] for record in records) == 12
    for name in ("longest", "query_length", "positive_length", "negative_length", "negatives_count", "dataset"):
        assert opened.column(name).tolist() == [record[name] for record in records]


def test_scores_belong_to_their_texts(tmp_path, open_store):
    scored = GOOD | {"pos": ["a", "b"], "pos_scores": [2, -0.5], "neg_scores": [0.25]}
    (record,) = open_store(write(tmp_path / "rows.jsonl", scored)).rows([0])
    assert (record["positive_scores"], record["negative_scores"]) == ([2.0, -0.5], [0.25])


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_of_two_files_stand_in_the_order_of_their_lines(tmp_path, open_store, workers):
    lines = [GOOD | {"query": f"q{i}", "lang": f"l{i % 3}"} for i in range(1100)]  # three calls of the tokenizer
    first, second = write(tmp_path / "a", *lines[:700]), write(tmp_path / "b", *lines[700:])
    opened = open_store(first, second, workers=workers)
    assert query_keys(opened) == [key(f"q{i}") for i in range(1100)]
    assert opened.column("dataset").tolist() == [f"/l{i % 3}" for i in range(1100)]
    assert [record["query_key"] for record in opened.rows([699, 3, 700, 3])] == [
        key(query) for query in ("q699", "q3", "q700", "q3")
    ]
    other = open_store(second, first, workers=workers)
    assert query_keys(other) == [key(f"q{i}") for i in [*range(700, 1100), *range(700)]]


BAD = pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param('{"query": "q", ', "not JSON", id="bad JSON"),
        pytest.param("3", "JSON object", id="not an object"),
        pytest.param({"pos": ["p"], "neg": ["n"]}, "query", id="no query"),
        pytest.param(GOOD | {"pos": []}, "'pos'", id="empty pos"),
        pytest.param(GOOD | {"neg": [None]}, "'neg'", id="neg holds null"),
        pytest.param(GOOD | {"pos_scores": [1, 2]}, "'pos_scores'", id="scores do not match in number"),
        pytest.param('{"query": "\udce9", "pos": ["p"]}', "UTF-8", id="a byte is no UTF-8"),
        pytest.param(GOOD | {"query": SURROGATE}, "surrogate", id="query is no Unicode"),
        pytest.param(GOOD | {"pos": ["p", SURROGATE]}, "surrogate", id="a positive is no Unicode"),
        pytest.param(GOOD | {"neg": [SURROGATE]}, "surrogate", id="a negative is no Unicode"),
        pytest.param(GOOD | {"source": SURROGATE}, "surrogate", id="source is no Unicode"),
    ],
)


@BAD
def test_stop_names_the_first_bad_line(tmp_path, open_store, bad, message):
    good, file = write(tmp_path / "good.jsonl", GOOD), write(tmp_path / "rows.jsonl", GOOD, "", bad, GOOD, "{", GOOD)
    with pytest.raises(DocumentError, match=rf"rows\.jsonl, line 3: .*{message}.*2 of 6 rows") as caught:
        open_store(good, file)
    assert "line 5" not in str(caught.value)


@BAD
def test_skip_keeps_the_rest_and_lists_what_it_left_out(tmp_path, open_store, only_cached, bad, message):
    lines = [GOOD | {"query": "first"}, bad, GOOD | {"query": "second"}, "{"]
    file = write(tmp_path / "rows.jsonl", *lines)
    for attempt in range(2):
        opened = open_store(file, on_bad_row="skip")
        assert query_keys(opened) == [key("first"), key("second")], attempt
        assert [record["query_key"] for record in opened.rows([1, 0])] == [key("second"), key("first")]
        assert len(opened) == len(opened.column("longest")) == len(opened.rows([0, 1])) == 2
        about, last = opened.rejected
        assert about.startswith(f"{file}, line 2: ")
        assert message in about
        assert about.count(str(file)) == 1
        assert last.startswith(f"{file}, line 4: not JSON")
        only_cached()
    with pytest.raises(DocumentError, match="line 2"):  # the policy is applied to what the cache holds
        open_store(file)


def test_an_empty_neg_is_a_problem_only_where_negatives_are_needed(tmp_path, open_store):
    file = write(tmp_path / "rows.jsonl", GOOD, GOOD | {"query": "alone", "neg": []}, {"query": "x", "pos": ["p"]})
    assert len(open_store(file)) == 3
    with pytest.raises(DocumentError, match=r"rows\.jsonl, line 2: 'neg' is empty: .*group_size"):
        open_store(file, need_negatives=True)
    kept = open_store(file, need_negatives=True, on_bad_row="skip")
    assert query_keys(kept) == [key("q")]
    assert [about.partition("'neg'")[0] for about in kept.rejected] == [f"{file}, line {n}: " for n in (2, 3)]


def test_a_store_without_rows_is_refused(tmp_path, open_store):
    with pytest.raises(ConfigError, match=r"a\.jsonl, .*b\.jsonl: no training rows"):
        open_store(write(tmp_path / "a.jsonl", "{"), write(tmp_path / "b.jsonl", "[]"), on_bad_row="skip")


def test_an_empty_and_a_missing_file_are_refused_by_name(tmp_path, open_store):
    for content in ("", "\n \n"):
        (tmp_path / "empty.jsonl").write_text(content)
        with pytest.raises(ConfigError, match=r"empty\.jsonl: no training rows"):
            open_store(tmp_path / "empty.jsonl")
    good = write(tmp_path / "rows.jsonl", GOOD)
    assert open_store(good).rejected == []
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        open_store(good, tmp_path / "absent.jsonl")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, open_store, workers):
    good = write(tmp_path / "rows.jsonl", GOOD)
    (tmp_path / "folder").mkdir()
    for _ in range(2):  # a failure is not cached
        with pytest.raises(ConfigError, match="folder cannot be read"):
            open_store(good, tmp_path / "folder", workers=workers)


def test_a_changed_file_is_read_anew(tmp_path, open_store, cache):
    file = write(tmp_path / "rows.jsonl", GOOD)
    assert query_keys(open_store(file)) == [key("q")]
    write(file, GOOD | {"query": "r"})  # of the same size
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 10**9))
    assert query_keys(open_store(file)) == [key("r")]
    write(file, GOOD, GOOD)
    assert len(open_store(file)) == 2
    assert len(list(cache.glob("**/*.arrow"))) == 3


def test_the_same_rows_are_tokenized_once(tmp_path, open_store, only_cached, cache):
    file = write(tmp_path / "rows.jsonl", GOOD, GOOD)
    first = open_store(file)
    only_cached()
    assert open_store(file).rows([0, 1]) == first.rows([0, 1])
    assert open_store(file, on_bad_row="skip").rows([0, 1]) == first.rows([0, 1])
    assert len(list(cache.glob("**/*.arrow"))) == 1


def test_whatever_changes_the_rows_is_part_of_the_key(tmp_path, tiny_tokenizer_json, open_store):
    file = write(tmp_path / "rows.jsonl", {**GOOD, "query": "the vector search " * 5, "neg": [], "text": "the"})
    assert len(open_store(file).rows([0])[0]["query"]) == 8
    assert len(open_store(file, lengths=Lengths(9, 12)).rows([0])[0]["query"]) == 9
    assert open_store(file, kind="texts").rows([0])[0]["query_key"] == key("the")
    with pytest.raises(DocumentError, match="'neg' is empty"):
        open_store(file, need_negatives=True)
    other = json.loads(tiny_tokenizer_json)
    piece = next(entry for entry in other["model"]["vocab"] if entry[0] == "▁vector")
    piece[0] = "▁qqqqqq"
    with_pieces = RowStore([file], json.dumps(other), LENGTHS)
    assert with_pieces.rows([0])[0]["query"] != open_store(file).rows([0])[0]["query"]


def test_texts_are_kept_as_queries(tmp_path, tiny_tokenizer_json, open_store, only_cached):
    bad = [{"text": " \n"}, {"query": "q"}, {"text": 3}, [], {"text": SURROGATE}]
    file = write(tmp_path / "texts.jsonl", {"text": "the vector search", "id": 7}, *map(json.dumps, bad), {"text": "a"})
    with pytest.raises(DocumentError, match=r'texts\.jsonl, line 2: expected {"text"'):
        open_store(file, kind="texts")
    only_cached()
    opened = open_store(file, kind="texts", on_bad_row="skip")
    tokens = Tokenizer(tiny_tokenizer_json).encode(["the vector search", "a"], max_length=8)
    assert [record["query"] for record in opened.rows([0, 1])] == [
        part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])
    ]
    assert opened.rows([0])[0]["positives"] == opened.rows([0])[0]["negatives"] == []
    assert opened.column("longest").tolist() == tokens.lengths.tolist()
    assert [about.split(": ")[0] for about in opened.rejected] == [f"{file}, line {n}" for n in range(2, 7)]


def test_a_training_row_among_texts_is_its_query_and_its_positives(tmp_path, open_store):
    row = {"query": "the", "pos": ["search", "score"], "neg": ["no"]}
    store = open_store(write(tmp_path / "texts.jsonl", row, {"text": "hello"}), kind="texts")
    assert [one["query_key"] for one in store.rows([0, 1, 2, 3])] == list(map(key, ["the", "search", "score", "hello"]))


def test_equal_texts_have_equal_keys_up_to_outer_white_space():
    assert key(" \n\u3000Straße und Wort\t") == key("Straße und Wort")
    texts = ["", "a", "A", "a b", "a  b", "ab", "é", "e\u0301", "b a", *map(str, range(1000))]
    assert len({key(text) for text in texts}) == len(texts)
    assert all(-(2**63) <= key(text) < 2**63 for text in texts)
    assert key("a") == 3405396810240292928  # not Python's own hash, which changes from process to process


def test_a_token_batch_is_the_lists_end_to_end():
    batch = token_batch([[0, 5, 6, 2], [0, 2], [0, 7, 2]])
    assert batch.ids.tolist() == [0, 5, 6, 2, 0, 2, 0, 7, 2]
    assert batch.offsets.tolist() == [0, 4, 6, 9]
    assert batch.lengths.tolist() == [4, 2, 3]
    assert (batch.ids.dtype, batch.offsets.dtype, len(batch)) == (np.int32, np.int64, 3)
