"""Reading rows, planning batches, drawing passages."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError, DocumentError
from train.data import Row, draw, plan_batches, read_rows

GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}
BAD_LINES = {
    "bad JSON": '{"query": "q", ',
    "not an object": '["q", "p", "n"]',
    "no query": '{"pos": ["p"], "neg": ["n"]}',
    "query is a number": '{"query": 3, "pos": ["p"], "neg": ["n"]}',
    "no pos": '{"query": "q", "neg": ["n"]}',
    "pos is a string": '{"query": "q", "pos": "p", "neg": ["n"]}',
    "empty neg": '{"query": "q", "pos": ["p"], "neg": []}',
    "neg holds null": '{"query": "q", "pos": ["p"], "neg": ["n", null]}',
}


def rows_of(sizes: dict[str, int]) -> list[Row]:
    """Rows of several data sets, interleaved; lengths vary."""
    names = [name for i in range(max(sizes.values())) for name, size in sizes.items() if i < size]
    return [Row(f"q{i}", ("x" * (i * 7919 % 101),), ("n",), name) for i, name in enumerate(names)]


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n{json.dumps(GOOD)}\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"rows\.jsonl, line 3: ") as caught:
        read_rows(path)
    assert caught.value.index == 2


@pytest.mark.parametrize("key", ["pos", "neg"])
def test_the_message_names_the_field_that_is_wrong(tmp_path, key):
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD | {key: []}), encoding="utf-8")
    with pytest.raises(DocumentError, match=f"'{key}'"):
        read_rows(tmp_path / "rows.jsonl")


def test_rows_are_read_with_their_data_set_and_blank_lines_are_skipped(tmp_path):
    rows = [GOOD, {"query": "é", "pos": ["a", "b"], "neg": ["c", "d"], "lang": "fr", "source": "udhr", "other": 1}]
    (tmp_path / "rows.jsonl").write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    first, second = read_rows(tmp_path / "rows.jsonl")
    assert first == Row("q", ("p",), ("n",), "/")
    assert second == Row("é", ("a", "b"), ("c", "d"), "udhr/fr")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="no training rows"):
        read_rows(tmp_path / "rows.jsonl")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        read_rows(tmp_path / "absent.jsonl")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1),
    st.integers(2, 7),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_a_plan_uses_every_row_once_and_mixes_only_leftovers(sizes, batch_size, seed, epoch):
    rows = rows_of(sizes)
    plan = plan_batches(rows, batch_size=batch_size, seed=seed, epoch=epoch)
    used = Counter(chain.from_iterable(plan))
    assert all(count == 1 for count in used.values())
    leftover = sum(size % batch_size for size in sizes.values())
    dropped = len(rows) - len(used)
    assert dropped == (leftover % batch_size == 1)  # a last batch of one row has no competitors
    mixed = [batch for batch in plan if len({rows[i].dataset for i in batch}) > 1]
    assert sum(map(len, mixed)) <= leftover - dropped
    short = [batch for batch in plan if len(batch) != batch_size]
    assert len(short) <= 1
    assert all(2 <= len(batch) <= batch_size for batch in plan)


def test_a_plan_is_a_pure_function_of_its_arguments():
    rows = rows_of({"a": 31, "b": 17})
    plan = plan_batches(rows, batch_size=4, seed=1, epoch=2)
    assert plan == plan_batches(tuple(rows), batch_size=4, seed=1, epoch=2)
    assert rows == rows_of({"a": 31, "b": 17})
    assert plan != plan_batches(rows, batch_size=4, seed=1, epoch=3)
    assert plan != plan_batches(rows, batch_size=4, seed=2, epoch=2)
    assert sorted(map(sorted, plan)) != sorted(map(sorted, plan_batches(rows, batch_size=4, seed=1, epoch=3)))


def test_rows_of_a_batch_have_similar_lengths():
    rows = rows_of({"a": 64})
    lengths = [
        [len(rows[i].positives[0]) for i in batch] for batch in plan_batches(rows, batch_size=4, seed=0, epoch=0)
    ]
    spread = sum(max(batch) - min(batch) for batch in lengths) / len(lengths)
    assert spread < 101 / 8  # lengths reach 100; batches in file order spread over about 60


def test_one_row_alone_gives_no_batch():
    assert plan_batches(rows_of({"a": 1}), batch_size=4, seed=0, epoch=0) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(2, 9), st.integers(0, 20))
def test_a_draw_is_one_positive_and_then_negatives(positives, negatives, group_size, seed):
    row = Row("q", tuple(f"p{i}" for i in range(positives)), tuple(f"n{i}" for i in range(negatives)), "")
    group = draw(row, group_size=group_size, seed=str(seed))
    assert len(group) == group_size
    assert group[0] in row.positives
    assert set(group[1:]) <= set(row.negatives)
    most = max(Counter(group[1:]).values())
    assert most == 1 if negatives >= group_size - 1 else most > 1  # repeated only when there are too few
    assert group == draw(row, group_size=group_size, seed=str(seed))


def test_draws_differ_from_step_to_step_and_reach_every_passage():
    row = Row("q", ("p0", "p1", "p2"), ("n0", "n1", "n2", "n3"), "")
    groups = [draw(row, group_size=3, seed=f"0/{step}/7") for step in range(60)]
    assert {group[0] for group in groups} == set(row.positives)
    assert set(chain.from_iterable(group[1:] for group in groups)) == set(row.negatives)
