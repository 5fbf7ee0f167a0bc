"""The source-independent half of the Debian benchmark: split, judgements, leakage, training rows, files."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.debian import build as building
from benchmarks.debian import fetch, pairs, same_language, training, training_long
from benchmarks.debian.build import TASKS, build
from benchmarks.debian.pool import MAX_RELEVANT, hold_out, make_pool, make_shelf, queries_of
from benchmarks.debian.records import HELD_OUT, Record, is_test, key, side_of
from benchmarks.debian.sources import Source
from benchmarks.debian.texts import Edition, LongText, Paragraph, Section

CONCEPTS = 900
FIXTURE = Path(__file__).parent / "fixtures" / "multilingual.jsonl"
ROWS = ("train.jsonl", "train_long.jsonl", "pairs.jsonl")
LANGUAGES = ("de", "en", "xx")


def _concept(prefix: str, side: str) -> str:
    """A concept on one side of the split."""
    return next(name for name in (f"{prefix}/{number}" for number in range(100)) if side_of(name) == side)


def _records(lang: str) -> list[Record]:
    """Made-up documents whose words overlap enough for BM25 to find wrong answers; some keywords are shared.

    One concept is called in "xx" what a held-out concept is called in "de".
    """
    found = []
    if lang in {"de", "xx"}:
        alias = _concept("alias", "test" if lang == "de" else "train")
        found.append(Record(alias, "a", lang, "Called xx1w2 xx1w3", (), " ".join(f"{lang}1w{k}" for k in range(2, 30))))
    for number in range(CONCEPTS):
        words = " ".join(f"{lang}{number % k}w{k}" for k in range(2, 30))
        title, keywords = f"{lang} {words[:40]} number{number}", (f"{lang} topic{number // 3}",)
        found.append(Record(f"s/{number}", "ab"[number % 2], lang, title, keywords, f"{words} number{number}"))
    return found


def _long_texts(lang: str) -> list[LongText]:
    """Made-up books of ten sections; every second heading stands in two books, one in two languages."""
    found = []
    for book in range(60):
        sections = []
        for number in range(book * 10, book * 10 + 10):
            heading = f"{lang} long heading {number if number % 2 else number % 300}"
            text = "\n".join([heading, " ".join(f"{lang}{number % k}x{k} {lang}y{number}" for k in range(2, 150))])
            sections.append(Section(f"long/{number}", heading, heading, text))
        if lang in {"de", "xx"} and book == 0:
            alias = _concept("long/alias", "test" if lang == "de" else "train")
            sections.append(Section(alias, "Headed xx1x2 xx1x3", "Headed xx1x2 xx1x3", "more text"))
        found.append(LongText(f"long/book{book}", "books", lang, tuple(sections)))
    return found


def _paragraphs(lang: str) -> list[Paragraph]:
    """Made-up paragraphs of the records, one of which is a whole held-out text, and one a query."""
    found = [Paragraph(f"s/{n}", f"{lang} paragraph of {n}", f"paragraph of {n}") for n in range(CONCEPTS)]
    held = next(record for record in _records(lang) if is_test(record.concept_id))
    seen = next(record.concept_id for record in _records(lang) if side_of(record.concept_id) == "train")
    return [*found, Paragraph(seen, held.text, "its translation"), Paragraph(seen, "another", held.query)]


def _editions(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    for lang in languages:
        translated = _paragraphs(lang) if lang != "en" else []
        yield Edition("made-up", lang, _records(lang), _long_texts(lang), translated)


def _shuffled(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    mixed = random.Random(1)
    for edition in mixed.sample(list(_editions(cache, languages)), len(languages)):
        parts = (edition.records, edition.long_texts, edition.paragraphs)
        yield Edition(edition.source, edition.lang, *(mixed.sample(list(part), len(part)) for part in parts))


MADE_UP = Source("made-up", _editions, lambda cache, languages: {"made-up": "1"})
OFFLINE = {name: task for name, task in TASKS.items() if name != "udhr"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "out", folder / "cache", LANGUAGES, sources=[MADE_UP], tasks=OFFLINE)
    return folder / "out"


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _judged(folder: Path, side: str) -> dict[str, set[str]]:
    header, *lines = (folder / "qrels" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    found: dict[str, set[str]] = {}
    for query, document, score in (line.split("\t") for line in lines):
        assert score == "1"
        found.setdefault(query, set()).add(document)
    return found


def _collections(built: Path) -> list[Path]:
    return sorted(path.parent for path in built.rglob("corpus.jsonl"))


def test_the_split_is_by_concept_and_about_one_in_five() -> None:
    assert is_test("c") == (int(hashlib.sha1(b"c").hexdigest(), 16) % 5 == 0)
    sides = [side_of(f"concept/{i}") for i in range(4000)]
    assert 0.17 < sides.count("test") / 4000 < 0.23
    assert 0.035 < sides.count("dev") / 4000 < 0.065
    book = [side_of(f"handbook/{i}") for i in range(4000)]
    assert 0.57 < book.count("test") / 4000 < 0.63
    assert book.count("train") > 800


def test_a_shared_keyword_has_several_answers_and_a_common_one_is_no_query() -> None:
    shared = [Record(f"c{i}", "s", "en", f"Title {i}", ("Shared Word",), f"text {i}") for i in range(3)]
    common = [Record(f"d{i}", "s", "en", "", ("common",), f"other {i}") for i in range(MAX_RELEVANT + 1)]
    pool = make_pool("en", [*shared, *common])
    assert len(pool.relevant("shared  WORD")) == 3
    chosen = {query for side in ("test", "dev", "train") for _, query in queries_of(pool, side)}
    assert chosen
    assert "common" not in chosen


def test_the_same_text_is_kept_once() -> None:
    pool = make_pool("en", [Record(c, "s", "en", f"title {c}", (), "Same  text") for c in ("b", "a")])
    assert [record.concept_id for record in pool.records] == ["a"]


def test_sources_take_turns_and_judged_documents_always_stay() -> None:
    pool = make_pool("en", _records("en"))
    queries = same_language.select_queries(pool, "test", 40)
    assert {source: sum(record.source == source for record, _ in queries) for source in "ab"} == {"a": 20, "b": 20}
    documents = same_language.select_documents(pool, [3, 5], limit=10)
    assert len(documents) == 10
    assert {pool.records[3], pool.records[5]} <= set(documents)


def test_every_collection_is_complete_and_no_document_has_a_title(built: Path) -> None:
    assert [path.name for path in _collections(built)] == ["cross_lingual", "long_documents", *LANGUAGES]
    for folder in _collections(built):
        corpus = {str(row["_id"]): row for row in _lines(folder / "corpus.jsonl")}
        queries = {str(row["_id"]): row for row in _lines(folder / "queries.jsonl")}
        test, dev = _judged(folder, "test"), _judged(folder, "dev")
        assert set(queries) == set(test) | set(dev)
        assert not set(queries) & set(corpus)
        assert {row["title"] for row in corpus.values()} == {""}
        for query, documents in [*test.items(), *dev.items()]:
            for document in documents:
                assert key(str(queries[query]["text"])) not in map(key, str(corpus[document]["text"]).splitlines())
            assert queries[query]["metadata"]["lang"] in LANGUAGES  # type: ignore[index]


def test_the_dev_queries_share_neither_text_nor_answer_with_the_test_queries(built: Path) -> None:
    for folder in _collections(built):
        texts = {str(row["_id"]): key(str(row["text"])) for row in _lines(folder / "queries.jsonl")}
        test, dev = _judged(folder, "test"), _judged(folder, "dev")
        assert len(dev) >= 4
        assert not {texts[query] for query in test} & {texts[query] for query in dev}
        assert not set().union(*test.values()) & set().union(*dev.values())


def test_no_training_row_touches_a_held_out_query_text_or_concept(built: Path) -> None:
    pools = [make_pool(lang, _records(lang)) for lang in LANGUAGES]
    held = hold_out(pools, [make_shelf(lang, _long_texts(lang)) for lang in LANGUAGES])
    sections = {section.concept_id: section for text in _long_texts("en") for section in text.sections}
    hidden = {f"y{name.removeprefix('long/')}" for name in sections if side_of(name) in HELD_OUT}
    judged = {key(str(row["text"])) for path in _collections(built) for row in _lines(path / "queries.jsonl")}
    assert judged <= held.queries
    assert {"called xx1w2 xx1w3", "headed xx1x2 xx1x3"} <= held.queries
    assert hidden
    for name in ROWS:
        rows = _lines(built / name)
        assert len(rows) > 60, name
        for row in rows:
            texts = [str(text) for text in (*row["pos"], *row.get("neg", []))]  # type: ignore[misc]
            assert key(str(row["query"])) not in held.queries | held.texts
            if " of " in str(row["query"]):  # a paragraph, which says what concept it belongs to
                assert not held.touches_concept(f"s/{str(row['query']).split()[-1]}")
            assert not (held.texts | held.queries) & set(map(key, texts))
            if "concept" in row:
                assert side_of(str(row["concept"])) == "train"
                assert row["concept"] not in held.concepts
            if row["source"] == "books":
                lines = itertools.chain.from_iterable(text.splitlines() for text in texts)
                assert not held.queries & set(map(key, lines))
                assert not {word[2:] for text in texts for word in text.split() if word[2:3] == "y"} & hidden


def test_negatives_are_wrong_and_there_are_four_to_seven(built: Path) -> None:
    text_to_record = {record.text: record for lang in LANGUAGES for record in _records(lang)}
    kinds = set()
    for row in _lines(built / "train.jsonl"):
        kinds.add((row["lang"], row["doc_lang"]))
        negatives = [text_to_record[str(text)] for text in row["neg"]]  # type: ignore[attr-defined]
        assert 4 <= len(set(negatives)) == len(negatives) <= 7
        for negative in negatives:
            assert negative.concept_id != row["concept"]
            assert negative.lang == row["doc_lang"]
            assert key(str(row["query"])) not in map(key, negative.candidates)
    assert {("en", "en"), ("xx", "xx"), ("en", "xx"), ("xx", "en")} <= kinds


def test_a_long_positive_has_lost_its_heading_and_no_negative_is_the_same_text(built: Path) -> None:
    for row in _lines(built / "train_long.jsonl"):
        (positive,) = row["pos"]  # type: ignore[misc]
        assert key(str(row["query"])) not in map(key, str(positive).splitlines())
        assert len(set(row["neg"])) == training_long.NEGATIVES  # type: ignore[call-overload]
        opening = set(str(positive).split()[-40:])
        assert all(set(str(text).split()[-40:]) != opening for text in row["neg"])  # type: ignore[attr-defined]


def test_a_heading_that_is_held_out_in_another_language_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_long, "MAX_ROWS_PER_TEXT", 99)
    shelves = [make_shelf(lang, _long_texts(lang)) for lang in ("de", "xx")]
    held = hold_out([], shelves)
    texts = training_long.trainable(shelves[1], held)
    asked = {section.query for _, section in training_long.questions(texts, held, "xx")}
    offered = {section.query for text in texts.values() for section in text.sections}
    assert len(asked) > 60
    assert "Headed xx1x2 xx1x3" in offered - asked


def test_rows_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_ROWS", 7)
    monkeypatch.setattr(training_long, "MAX_ROWS", 5)
    monkeypatch.setattr(pairs, "MAX_TITLES", 6)
    monkeypatch.setattr(pairs, "MAX_PARAGRAPHS", 9)
    pool, shelf = make_pool("xx", _records("xx")), make_shelf("xx", _long_texts("xx"))
    held = hold_out([pool], [shelf])
    assert len(training.rows([pool], held)) == 2 * 7
    assert len(training_long.rows([shelf], held)) == 5
    assert len(pairs.rows([pool], {"xx": _paragraphs("xx")}, held)) == 2 * 6 + 9


def test_texts_are_cut_at_a_blank_where_there_is_one() -> None:
    assert training.clip("aaaa bbbb cccc", 9) == "aaaa bbbb"
    assert training.clip("aaaa bbbb cccc", 11) == "aaaa bbbb"
    assert training.clip("数" * 20, 9) == "数" * 9


def test_another_order_of_the_input_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    source = Source("made-up", _shuffled, MADE_UP.versions)
    build(tmp_path / "out", tmp_path / "cache", LANGUAGES, sources=[source], tasks=OFFLINE)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(files) == len(OFFLINE) + 1 + len(ROWS) + 5 * 4
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (built / name).read_bytes(), name
    sums = json.loads((built / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    assert sums["train.jsonl"] == hashlib.sha256((built / "train.jsonl").read_bytes()).hexdigest()


def test_only_what_is_missing_changed_or_of_other_inputs_is_built_again(tmp_path: Path) -> None:
    ran: list[str] = []

    def task(name: str) -> building.Task:
        def write(gathered: building.Gathered, out: Path, cache: Path) -> int:
            ran.append(name)
            (out / name).write_text(name, encoding="utf-8")
            return 1

        return write

    def again(version: str = "1") -> list[str]:
        ran.clear()
        source = Source("made-up", _editions, lambda cache, languages: {"made-up": version})
        build(tmp_path / "out", tmp_path / "cache", ["en"], sources=[source], tasks={n: task(n) for n in ("a", "b")})
        return ran

    assert again() == ["a", "b"]
    assert again() == []
    (tmp_path / "out" / "b").write_text("half", encoding="utf-8")
    assert again() == ["b"]
    assert again("2") == ["a", "b"]


@pytest.mark.parametrize("name", ["apt-get", "dpkg", "npm"])
def test_a_missing_tool_is_one_line_that_says_what_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(fetch.FetchError, match=rf"^{name} was not found.*apt-get, dpkg and npm.*no root") as error:
        fetch.tool(name)
    assert "\n" not in str(error.value)


def test_a_filled_cache_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt" / "languages.txt").write_text("de en", encoding="utf-8")
    (tmp_path / "apt" / "names.txt").write_text("libreoffice-help-de", encoding="utf-8")
    deb = tmp_path / "debs" / "libreoffice-help-de_4%3a7.4_all.deb"
    deb.parent.mkdir()
    deb.touch()
    assert fetch.fetch_indexes(tmp_path, ["de"]) == tmp_path.resolve() / "apt" / "lists"
    assert fetch.known_packages(tmp_path) == {"libreoffice-help-de"}
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
