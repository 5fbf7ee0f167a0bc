"""The page and the Markdown: what their tables say, that they need nothing else, and that names never become markup."""

import dataclasses
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.report import escape, to_html, to_markdown, write_report, writing
from m3_vdb.evaluation.results import Evaluation, Figure
from tests.evaluation import _results
from tests.evaluation._results import EXAMPLES, HOSTILE, LANGUAGES, SYSTEMS

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Tables, texts and attributes of a page; every element has to be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.bold: list[list[list[bool]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.bold.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.bold[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.bold[-1][-1].append(False)
        elif tag == "b":
            self.bold[-1][-1][-1] = True

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if "table" in self.open and self.open[-1] not in ("table", "tr", "thead", "tbody"):
            self.tables[-1][-1][-1] += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]

    @property
    def text(self) -> str:
        """All texts, with one ordinary space for any run of spaces."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: to_html(evaluations) for name, evaluations in EXAMPLES.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_well_formed_and_needs_nothing_else(pages, name):
    page = Page(pages[name])
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert all(value.startswith("#") for key in ("href", "xlink:href", "src") for value in page.values(key))
    assert not re.search(r"url\((?!#)|@import|@font-face", pages[name])
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = [value[1:] for value in page.values("href")] + re.findall(r"url\(#(\w+)\)", pages[name])
    assert set(referred) <= set(ids)
    assert not any(key.startswith("on") for _, key, _ in page.attributes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_was_not_measured_does_not_appear(pages, name):
    assert not re.search(r"\b(nan|None|inf)\b", pages[name])


def table(page: Page, *columns: str) -> list[list[str]]:
    return next(rows for rows in page.tables if set(columns) <= set(rows[0]))


def test_the_table_of_languages_holds_the_figures_and_the_best_is_bold(pages):
    evaluation, page = _results.many_languages(), Page(pages["many"])
    found = table(page, "language", "queries")
    bold = page.bold[page.tables.index(found)]
    assert found[0][2:] == ["dense", "sparse", "multi-vector", "dense + sparse", "all", "BM25"]
    rows = [(g.lang, g.figures) for g in evaluation.groups]
    rows += [("mean", evaluation.mean), ("all queries", evaluation.pooled)]
    assert len(found) == len(rows) + 1
    for cells, marks, (name, figures) in zip(found[1:], bold[1:], rows, strict=True):
        expected = [figures[system]["nDCG@10"] for system in SYSTEMS]
        assert cells[0] == name
        assert [cell.split()[0] for cell in cells[2:]] == [f"{figure.value:.3f}" for figure in expected]
        assert [cell.split()[1] for cell in cells[2:]] == [f"±{(f.high - f.low) / 2:.3f}" for f in expected]
        best = max(f"{figure.value:.3f}" for figure in expected)
        assert marks[2:] == [f"{figure.value:.3f}" == best for figure in expected]


def test_every_measure_has_its_tables(pages):
    evaluation, page = _results.many_languages(), Page(pages["many"])
    for column, names in (("language", LANGUAGES), ("system", SYSTEMS)):
        tables = [rows for rows in page.tables if rows[0][0] == column]
        assert len(tables) == len(evaluation.measures)
        assert all(len(rows) >= len(names) + 1 for rows in tables)
    second = [rows for rows in page.tables if rows[0][0] == "language"][1]
    assert second[1][2].split()[0] == f"{evaluation.groups[0].figures['dense']['Recall@100'].value:.3f}"


def test_the_table_of_systems_compares_with_the_baseline(pages):
    evaluation = _results.many_languages()
    rows = {row[0]: row[1:] for row in table(Page(pages["many"]), "system", "difference to BM25")[1:]}
    mean, pooled, compared = (x["all"]["nDCG@10"] for x in (evaluation.mean, evaluation.pooled, evaluation.comparisons))
    assert rows["all"] == [
        f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]",
        f"{pooled.value:.3f} [{pooled.low:.3f}, {pooled.high:.3f}]",
        f"{compared.delta:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]",
        "< 0.001",
        f"{compared.better:,}",
        f"{compared.worse:,}",
    ]
    assert rows["sparse"][2].startswith("−")
    assert rows["BM25"][2:] == ["baseline", "–", "–", "–"]


def test_costs_weights_and_provenance(pages):
    page = Page(pages["many"])
    costs = _results.many_languages().costs.values()
    ingest = table(page, "collections", "documents/s")[1]
    assert ingest[1] == f"{sum(cost.documents for cost in costs):,}"
    assert float(ingest[5]) == pytest.approx(5400 / 93, abs=0.05)
    assert table(page, "exact", "approximate")[1][1:5] == ["0.706", "0.703", "−0.003", "97.5 %"]
    tuned = table(page, "weights before", "tuned")[1]
    assert tuned[1:] == ["1, 0.3, 1", "1, 0.45, 1.2", "1,550", "0.701 → 0.705", "+0.004", "0.703 → 0.706", "+0.003"]
    assert table(page, "p50", "p95")[1][0] == "encode the query"
    assert "3.1 × 10⁻⁷" in page.text
    for text in ("9f3c2a7be1d04c55", "--tune --approximate", "AMD EPYC", "2026-11-25 09:41 UTC", "10,000 permutations"):
        assert text in page.text


def test_the_headline_says_which_side_of_the_baseline(pages):
    assert "ahead of BM25 (p < 0.001" in Page(pages["many"]).text
    evaluation = _results.one_group()
    worse = evaluation.comparisons["dense"]["nDCG@10"]
    worse = dataclasses.replace(worse, delta=-0.0204, low=-0.031, high=0.002, p_value=0.07)
    text = Page(to_html([dataclasses.replace(evaluation, comparisons={"dense": {"nDCG@10": worse}})])).text
    assert "is 0.020 [−0.002, 0.031] behind BM25 (p = 0.070" in text


def test_one_section_a_task_and_a_summary(pages):
    page = Page(pages["tasks"])
    assert page.tags["section"] == 3
    assert [row[0] for row in table(page, "task", "measure")] == ["task", "notes", "gaps", "nothing"]
    assert Page(pages["one"]).tags["nav"] == 0


def test_names_stay_text(pages):
    page = Page(pages["hostile"])
    assert "<script>alert" not in pages["hostile"]
    assert HOSTILE in "".join(page.texts)
    assert table(page, "queries")[2][0] == f"xx{HOSTILE}"


def test_charts_name_every_group_and_share_colours(pages):
    page = pages["many"]
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    panels = [chart for chart in charts if ">d + s<" in chart]
    assert len(panels) == len(LANGUAGES) + 1
    for lang, panel in zip(("mean", *LANGUAGES), panels, strict=True):
        assert f">{lang}</text>" in panel
        assert all(f'class="{name}"' in panel for name in ("bm25", "dense", "sparse", "multi", "pair", "all"))
    dots = next(chart for chart in charts if "the best on top" in chart)
    assert all(f">{lang}</text>" in dots for lang in LANGUAGES)
    assert not any(re.search(r"#[0-9a-f]{6}", chart) for chart in charts)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_any_number_of_groups(count):
    evaluation = _results.many_languages()
    rows = [dataclasses.replace(evaluation.groups[i % 31], lang=f"l{i}", collection="c") for i in range(count)]
    page = Page(to_html([dataclasses.replace(evaluation, groups=tuple(rows))]))
    assert page.values("role").count("img") == {1: 3, 2: 6, 40: 44}[count]


def test_unknown_systems_have_colours_of_their_own():
    evaluation = _results.one_group()
    figures = evaluation.groups[0].figures
    systems = ("dense", "mine", "yours", "bm25")
    wider: dict[str, object] = {name: figures.get(name, figures["dense"]) for name in systems}
    group = dataclasses.replace(evaluation.groups[0], figures=wider)
    page = to_html([dataclasses.replace(evaluation, systems=systems, groups=(group,))])
    assert 'class="spare1"' in page
    assert 'class="spare2"' in page


def test_write_report_writes_two_files(tmp_path: Path):
    html, markdown = write_report([_results.hostile()], tmp_path / "new" / "folder")
    assert (html.name, markdown.name) == ("report.html", "report.md")
    Page(html.read_text(encoding="utf-8"))
    before = html.read_bytes(), markdown.read_bytes()
    write_report([_results.hostile()], html.parent)
    assert (html.read_bytes(), markdown.read_bytes()) == before
    with pytest.raises(ConfigError, match="at least one"):
        write_report([], tmp_path)


def test_results_read_back_make_the_same_report(tmp_path: Path, pages):
    _results.pooled_collection().save(tmp_path / "results.json")
    assert to_html([Evaluation.load(tmp_path / "results.json")]) == pages["pooled"]


def test_without_the_extra_there_is_a_message_and_markdown():
    code = """
import sys
sys.modules["jinja2"] = None
from m3_vdb.errors import MissingExtraError
from m3_vdb.evaluation.report import to_html, to_markdown
from tests.evaluation._results import one_group
assert not any(name.startswith(("matplotlib.", "jinja2.")) for name in sys.modules)
assert to_markdown([one_group()])
try:
    to_html([one_group()])
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "drawing an evaluation report needs packages that are not installed: pip install 'm3-vdb[eval]'"
    )


# Markdown: tables that GitHub and a plain editor show alike, with the figures of the page.


def markdown_tables(text: str) -> list[list[list[str]]]:
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
    for rows in markdown_tables(text):
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
    found = next(rows for rows in markdown_tables(to_markdown([evaluation])) if rows[0][0] == "language")
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
        (writing.signed(-0.0004), "0.000"),
        (writing.signed(-0.012), "−0.012"),
        (writing.p_value(0.0004), "< 0.001"),
        (writing.p_value(0.001, name="p"), "p = 0.001"),
        (writing.rate(58.06), "58.1"),
        (writing.rate(5400), "5,400"),
        (writing.size(0), "0 B"),
        (writing.size(66_060_288), "63.0 MiB"),
        (writing.size(1024**6), "1,048,576.0 TiB"),
        (writing.scientific(0.0), "0"),
        (writing.scientific(3.14e-7), "3.1 × 10⁻⁷"),
        (writing.tenths(1234.56), "1,234.6"),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected
