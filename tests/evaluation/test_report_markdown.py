"""The Markdown: tables that GitHub and a plain editor show alike, with the figures of the page."""

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.evaluation.report import numbers, to_markdown
from m3_vdb.evaluation.report.markdown import escape
from m3_vdb.evaluation.results import Figure
from tests.evaluation import _results
from tests.evaluation._results import EXAMPLES, HOSTILE, SYSTEMS


def tables(text: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_row_has_the_columns_of_its_heading(name):
    text = to_markdown(EXAMPLES[name])
    for rows in tables(text):
        assert {len(row) for row in rows} == {len(rows[0])}
        assert set("".join(rows[1])) <= set("-:")
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert not re.search(r"(?<!\\)</?[a-z]", re.sub(r"`+.*?`+", "", text))
    assert text.endswith("\n")
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", ["many", "pooled", "tasks"])
def test_columns_line_up_in_an_editor(name):
    lines = to_markdown(EXAMPLES[name]).splitlines()
    for first, second in pairwise(lines):
        if first.startswith("|") and second.startswith("|"):
            assert len(first) == len(second)


def test_figures_are_those_of_the_evaluation():
    evaluation = _results.many_languages()
    found = next(rows for rows in tables(to_markdown([evaluation])) if rows[0][0] == "language")
    for row, group in zip(found[2:], evaluation.groups, strict=False):
        figures = [group.figures[system]["nDCG@10"] for system in SYSTEMS]
        best = max(f"{figure.value:.3f}" for figure in figures)
        assert row[0] == group.lang
        assert row[2:] == [cell(figure, best) for figure in figures]
    assert [row[0] for row in found[-2:]] == ["*mean*", "*all queries*"]


def cell(figure: Figure, best: str) -> str:
    text = f"{figure.value:.3f}"
    return f"{f'**{text}**' if text == best else text} ±{(figure.high - figure.low) / 2:.3f}"


def test_provenance_is_one_line():
    lines = to_markdown([_results.many_languages()]).splitlines()
    (line,) = [line for line in lines if "9f3c2a7be1d04c55" in line]
    assert "`m3-vdb evaluate debian" in line
    assert "m3-vdb `0.1.0`" in line


def test_markup_in_names_is_escaped():
    text = to_markdown([_results.hostile()])
    assert "\\<script>" in text.splitlines()[0]
    code = re.search(r"store (`+)(.*?)\1", text)
    assert code is not None
    assert code[2].strip() == HOSTILE
    assert escape("a_b __c__ 1 < 2 <b> R&D &amp; x|y [l](u)") == (r"a_b \_\_c\_\_ 1 < 2 \<b> R&D \&amp; x\|y [l\](u)")


@given(st.text())
def test_an_escaped_name_is_one_line_and_reads_the_same(text):
    shown = escape(text)
    assert "\n" not in shown
    assert re.sub(r"\\([\\`*|~$<&\]_])", r"\1", shown) == " ".join(text.split())


def test_wide_letters_count_twice():
    evaluation = _results.one_group()
    text = to_markdown([evaluation, _results.evaluation("日本語の質問", evaluation.groups, ("nDCG@10",), ("dense",))])
    lines = [line for line in text.splitlines() if line.startswith("|")][:4]
    widths = {sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) for line in lines}
    assert len(widths) == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.signed(-0.0004), "0.000"),
        (numbers.signed(-0.012), "−0.012"),
        (numbers.p_value(0.0004), "< 0.001"),
        (numbers.p_value(0.001, name="p"), "p = 0.001"),
        (numbers.rate(100, 0.0), "–"),
        (numbers.rate(5400, 1.0), "5,400"),
        (numbers.size(0), "0 B"),
        (numbers.size(66_060_288), "63.0 MiB"),
        (numbers.size(1024**6), "1,048,576.0 TiB"),
        (numbers.scientific(0.0), "0"),
        (numbers.scientific(3.14e-7), "3.1 × 10⁻⁷"),
        (numbers.milliseconds(1234.56), "1,234.6"),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected
