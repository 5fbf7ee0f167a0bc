"""The source-independent half of the Debian benchmark: split, judgements, files, what is built again."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.debian import build as building
from benchmarks.debian import fetch, same_language
from benchmarks.debian.build import TASKS, build
from benchmarks.debian.pool import MAX_RELEVANT, make_pool, queries_of
from benchmarks.debian.records import Record, is_test, key, side_of
from benchmarks.debian.sources import Source
from benchmarks.debian.texts import Edition, LongText, Section, Translation

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
    held = next(record for record in made_up_records(lang) if is_test(record.concept_id))
    seen = next(record.concept_id for record in made_up_records(lang) if side_of(record.concept_id) == "train")
    return [*found, Translation(seen, held.text, "its translation"), Translation(seen, "another", held.query)]


def _editions(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    for lang in languages:
        translated = made_up_paragraphs(lang) if lang != "en" else []
        # The same texts serve as strings of a user interface.
        yield Edition("made-up", lang, made_up_records(lang), made_up_long_texts(lang), translated, translated)


def _shuffled(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    mixed = random.Random(1)
    for edition in mixed.sample(list(_editions(cache, languages)), len(languages)):
        parts = (edition.records, edition.long_texts, edition.paragraphs, edition.messages)
        yield Edition(edition.source, edition.lang, *(mixed.sample(list(part), len(part)) for part in parts))


MADE_UP = Source("made-up", _editions, lambda cache, languages: {"made-up": "1"})
OFFLINE = {name: task for name, task in TASKS.items() if name != "udhr"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "out", folder / "cache", LANGUAGES, sources=[MADE_UP], tasks=OFFLINE)
    return folder / "out"


def read_lines(path: Path) -> list[dict[str, object]]:
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
    pool = make_pool("en", made_up_records("en"))
    queries = same_language.select_queries(pool, "test", 40)
    assert {source: sum(record.source == source for record, _ in queries) for source in "ab"} == {"a": 20, "b": 20}
    documents = same_language.select_documents(pool, [3, 5], limit=10)
    assert len(documents) == 10
    assert {pool.records[3], pool.records[5]} <= set(documents)


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
            assert queries[query]["metadata"]["lang"] in LANGUAGES  # type: ignore[index]


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
    lines = read_lines(FIXTURE)
    assert FIXTURE.stat().st_size <= 900_000
    assert {"ar", "de", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "zh-cn"} <= {line["lang"] for line in lines}
    assert len({line["id"] for line in lines}) == len(lines)
    assert {line["source"] for line in lines} == {"libreoffice", "udhr"}
    for line in lines:
        source, _, path = str(line["id"]).split("/", 2)
        assert line["title"]
        assert line["text"]
        assert source == "udhr" or is_test(f"lo/{path}")
