"""The source-independent half of the Debian benchmark: split, judgements, leakage, training rows, files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.debian import fetch, same_language, training
from benchmarks.debian.build import build
from benchmarks.debian.pool import MAX_RELEVANT, hold_out, make_pool, queries_of
from benchmarks.debian.records import Record, is_test, key
from benchmarks.debian.sources import Source

CONCEPTS = 900
FIXTURE = Path(__file__).parent / "fixtures" / "multilingual.jsonl"


def _records(lang: str) -> list[Record]:
    """Made-up documents whose words overlap enough for BM25 to find wrong answers; some keywords are shared."""
    found = []
    for number in range(CONCEPTS):
        words = " ".join(f"{lang}{number % k}w{k}" for k in range(2, 30))
        title, keywords = f"{lang} {words[:40]} number{number}", (f"{lang} topic{number // 3}",)
        found.append(Record(f"s/{number}", "ab"[number % 2], lang, title, keywords, f"{words} number{number}"))
    return found


def _source(cache: Path, languages: Sequence[str]) -> Iterator[Record]:
    for lang in languages:
        yield from _records(lang)


MADE_UP = Source("made-up", _source, lambda cache, languages: {"made-up": "1"})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "out", folder / "cache", ["en", "xx"], sources=[MADE_UP])
    return folder / "out"


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_split_is_by_concept_and_about_one_in_five() -> None:
    assert is_test("c") == (int(hashlib.sha1(b"c").hexdigest(), 16) % 5 == 0)
    assert 0.15 < sum(is_test(f"concept/{i}") for i in range(2000)) / 2000 < 0.25


def test_a_shared_keyword_has_several_answers_and_a_common_one_is_no_query() -> None:
    shared = [Record(f"c{i}", "s", "en", f"Title {i}", ("Shared Word",), f"text {i}") for i in range(3)]
    common = [Record(f"d{i}", "s", "en", "", ("common",), f"other {i}") for i in range(MAX_RELEVANT + 1)]
    pool = make_pool("en", [*shared, *common])
    assert len(pool.relevant("shared  WORD")) == 3
    chosen = {query for test in (True, False) for _, query in queries_of(pool, test=test)}
    assert chosen
    assert "common" not in chosen


def test_the_same_text_is_kept_once() -> None:
    pool = make_pool("en", [Record(c, "s", "en", f"title {c}", (), "Same  text") for c in ("b", "a")])
    assert [record.concept_id for record in pool.records] == ["a"]


def test_sources_take_turns_and_judged_documents_always_stay() -> None:
    pool = make_pool("en", _records("en"))
    queries = same_language.select_queries(pool, 40)
    assert {source: sum(record.source == source for record, _ in queries) for source in "ab"} == {"a": 20, "b": 20}
    documents = same_language.select_documents(pool, [3, 5], limit=10)
    assert len(documents) == 10
    assert {pool.records[3], pool.records[5]} <= set(documents)


def test_a_collection_is_complete_and_no_document_has_a_title(built: Path) -> None:
    folder = built / "same_language" / "xx"
    corpus = {str(row["_id"]): row for row in _lines(folder / "corpus.jsonl")}
    queries = {str(row["_id"]): str(row["text"]) for row in _lines(folder / "queries.jsonl")}
    header, *judged = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    assert len(queries) >= same_language.MIN_QUERIES
    assert {line.split("\t")[0] for line in judged} == set(queries)
    assert {line.split("\t")[1] for line in judged} <= set(corpus)
    assert not set(queries) & set(corpus)
    assert {row["title"] for row in corpus.values()} == {""}
    for line in judged:
        query, document, _ = line.split("\t")
        assert key(queries[query]) not in map(key, str(corpus[document]["text"]).splitlines())


def test_no_training_row_touches_the_tests(built: Path) -> None:
    rows = _lines(built / "train.jsonl")
    held = hold_out([make_pool(lang, _records(lang)) for lang in ("en", "xx")])
    assert rows
    assert held.queries
    for row in rows:
        assert not is_test(str(row["concept"]))
        assert row["concept"] not in held.concepts
        assert key(str(row["query"])) not in held.queries
        texts = [*row["pos"], *row["neg"]]  # type: ignore[misc]
        assert not held.texts & set(map(key, texts))


def test_negatives_are_wrong_and_there_are_four_to_seven(built: Path) -> None:
    text_to_record = {record.text: record for lang in ("en", "xx") for record in _records(lang)}
    kinds = set()
    for row in _lines(built / "train.jsonl"):
        kinds.add((row["lang"], row["doc_lang"]))
        negatives = [text_to_record[str(text)] for text in row["neg"]]  # type: ignore[attr-defined]
        assert 4 <= len(set(negatives)) == len(negatives) <= 7
        for negative in negatives:
            assert negative.concept_id != row["concept"]
            assert negative.lang == row["doc_lang"]
            assert key(str(row["query"])) not in map(key, negative.candidates)
    assert kinds == {("en", "en"), ("xx", "xx"), ("en", "xx"), ("xx", "en")}


def test_rows_per_source_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_ROWS", 7)
    pool = make_pool("en", _records("en"))
    assert len(training.rows([pool], hold_out([pool]))) == 2 * 7


def test_texts_are_cut_at_a_blank_where_there_is_one() -> None:
    assert training.clip("aaaa bbbb cccc", 9) == "aaaa bbbb"
    assert training.clip("aaaa bbbb cccc", 11) == "aaaa bbbb"
    assert training.clip("数" * 20, 9) == "数" * 9


def test_two_builds_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path / "out", tmp_path / "cache", ["en", "xx"], sources=[MADE_UP])
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * 3
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (built / name).read_bytes(), name
    sums = json.loads((built / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    assert sums["train.jsonl"] == hashlib.sha256((built / "train.jsonl").read_bytes()).hexdigest()


def test_a_missing_tool_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.FetchError, match=r"apt-get was not found.*Debian or Ubuntu"):
        fetch.fetch_indexes(tmp_path, ["en"])


def test_a_filled_cache_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt" / "languages.txt").write_text("de en", encoding="utf-8")
    deb = tmp_path / "debs" / "libreoffice-help-de_4%3a7.4_all.deb"
    deb.parent.mkdir()
    deb.touch()
    assert fetch.fetch_indexes(tmp_path, ["de"]) == tmp_path.resolve() / "apt" / "lists"
    assert fetch.download(tmp_path, ["libreoffice-help-de"]) == {"libreoffice-help-de": deb}
    assert fetch.package_version(deb) == "4:7.4"


def test_the_committed_fixture_is_small_multilingual_and_of_the_test_side() -> None:
    lines = _lines(FIXTURE)
    assert FIXTURE.stat().st_size <= 900_000
    assert {"ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "zh-cn"} <= {line["lang"] for line in lines}
    assert len({line["id"] for line in lines}) == len(lines)
    assert {line["source"] for line in lines} == {"libreoffice", "udhr"}
    for line in lines:
        source, _, path = str(line["id"]).split("/", 2)
        assert line["title"]
        assert line["text"]
        assert source == "udhr" or is_test(f"lo/{path}")
